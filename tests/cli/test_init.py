"""`init` and `new`: what they write loads, and starts."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import yaml

from app.cli.draft import Draft
from app.cli.failure import Failure
from app.cli.init import ROLES
from app.cli.written import template
from tests.cli.command import Done, asked, at_terminal, ctl
from tests.nodes import RunningNode, launch, start
from tests.spine import free_port

FILES = {
    "full": {"runtime.yaml", "providers.yaml", "agents/assistant.agent.yaml", "channels.yaml"},
    "gateway": {"runtime.yaml", "channels.yaml"},
    "worker": {"runtime.yaml", "agents/assistant.agent.yaml"},
    "inference": {"runtime.yaml", "providers.yaml"},
}


async def init(folder: Path, *arguments: str) -> Done:
    return await ctl("init", "--non-interactive", "--output", str(folder), *arguments)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def run_it(stack: AsyncExitStack, folder: Path, data: Path, port: int, **environ: str) -> RunningNode:
    """Start a node with what was written, at the very address that was written."""
    given = {"ASTROMESH_CONFIG_DIR": str(folder), "ASTROMESH_HOST": "", "ASTROMESH_PORT": "", "ASTROMESH_NODE_NAME": "", **environ}
    running = await start(stack, folder / "runtime.yaml", data, **given)
    assert running.url == f"http://127.0.0.1:{port}"
    return running


@pytest.mark.processes
@pytest.mark.parametrize("role", ROLES)
async def test_what_each_role_gets_loads_without_a_warning(tmp_path: Path, role: str) -> None:
    done = await init(tmp_path / "made", "--role", role)
    assert done.code == 0, done
    assert files(tmp_path / "made") == FILES["full" if role == "standalone" else role.removeprefix("mesh-")]
    checked = await ctl(
        "config", "validate", "--json", ASTROMESH_CONFIG_DIR=str(tmp_path / "made"), ASTROMESH_PROFILE=str(tmp_path / "made/runtime.yaml")
    )
    assert (checked.code, checked.json["valid"]) == (0, True)
    assert not [each for each in checked.json["files"] if each["warnings"]]


async def test_a_standalone_node_starts_and_answers_and_nothing_is_overwritten(tmp_path: Path) -> None:
    port = free_port()
    done = await init(tmp_path / "made", "--dev", "--port", str(port))
    assert f"--url http://127.0.0.1:{port}" in done.err
    async with AsyncExitStack() as stack:
        running = await run_it(stack, tmp_path / "made", tmp_path / "data", port)
        assert (await asked(running.url, "run", "assistant", "What is 17*23?")).out == "17*23 = 391.\n"
    before = (tmp_path / "made" / "runtime.yaml").read_text()
    again = await init(tmp_path / "made", "--port", "1")
    assert (again.code, again.out) == (1, "")
    assert "there already, so nothing was written; --force overwrites" in again.err
    assert (tmp_path / "made" / "runtime.yaml").read_text() == before
    (tmp_path / "made" / "runtime.yaml").unlink()
    assert "providers.yaml" in (await init(tmp_path / "made")).err
    assert not (tmp_path / "made" / "runtime.yaml").exists()
    assert (await init(tmp_path / "made", "--force")).code == 0


@pytest.mark.processes
@pytest.mark.parametrize("mesh", ["", "mesh-"])
async def test_gateway_worker_and_inference_node_written_for_one_machine_answer_together(tmp_path: Path, mesh: str) -> None:
    ports = {role: free_port() for role in ("gateway", "worker", "inference")}
    asks = {"gateway": "worker", "worker": "inference", "inference": ""} if not mesh else dict.fromkeys(ports, "gateway") | {"gateway": ""}
    async with AsyncExitStack() as stack:
        for role, port in ports.items():
            peer = ("--peer", f"http://127.0.0.1:{ports[asks[role]]}") if asks[role] else ()
            assert (await init(tmp_path / role, "--dev", "--role", mesh + role, "--port", str(port), *peer)).code == 0
        for role in ("gateway", "inference", "worker"):  # the worker last: it joins at a mesh that has models
            await run_it(stack, tmp_path / role, tmp_path / f"{role}-data", ports[role])
        url = f"http://127.0.0.1:{ports['gateway']}"
        async with asyncio.timeout(20):
            while (await ctl("run", "assistant", "What is 2*3?", "--url", url)).out != "2*3 = 6.\n":
                pass


async def test_the_dialogue_asks_what_no_option_says(tmp_path: Path) -> None:
    made = tmp_path / "made"
    async with at_terminal("init", "--dev", "--output", str(made)) as terminal:
        for question, answer in (("Role", "galley"), ("Role", "worker"), ("mesh?", "n"), ("Port", "8123"), ("inference node", "0.0.0.0")):
            await terminal.until(question)
            await terminal.until(": ")
            terminal.type(f"{answer}\r")
        await terminal.until("Error: ")
        await terminal.until("[http://127.0.0.1:8002]: ")
        terminal.type("http://127.0.0.1:8124\r")
        await terminal.until("Start it:")
        assert await terminal.code() == 0
    spec = yaml.safe_load((made / "runtime.yaml").read_text())["spec"]
    assert (spec["api"]["port"], spec["peers"][0]["url"]) == (8123, "http://127.0.0.1:8124")
    async with at_terminal("init", "--output", str(tmp_path / "other")) as terminal:
        for question, answer in (("Role", ""), ("Port", ""), ("Model server", "openai"), ("Its address", "")):
            await terminal.until(question)
            await terminal.until(": ")
            terminal.type(f"{answer}\r")
        await terminal.until("Set OPENAI_API_KEY where it runs.")
        assert await terminal.code() == 0
    providers = yaml.safe_load((tmp_path / "other" / "providers.yaml").read_text())["spec"]["providers"]
    assert providers == {"openai": {"type": "openai_compat", "endpoint": "https://api.openai.com/v1", "api_key_env": "OPENAI_API_KEY"}}
    async with at_terminal("init", "--output", str(tmp_path / "third")) as terminal:
        await terminal.until("[standalone]: ")
        assert await terminal.interrupted() == 130
    assert not (tmp_path / "third").exists()


@pytest.mark.processes
async def test_wrong_options_are_told_before_anything_is_written(tmp_path: Path) -> None:
    for wrong in (
        ("--role", "galley"), ("--port", "0"), ("--peer", "http://0.0.0.0:1", "--role", "worker"),
        ("--provider", "ollama", "--role", "worker"), ("--endpoint", "http://a:1"),
    ):  # fmt: skip
        assert (await init(tmp_path / "made", *wrong)).code == 2, wrong
    (tmp_path / "file").write_text("")
    done = await init(tmp_path / "file" / "below")
    assert done.code == 1
    assert "cannot be written" in done.err
    assert not (tmp_path / "made").exists()


@pytest.mark.processes
async def test_an_agent_of_ones_own_gets_a_tool_of_ones_own_and_uses_it(tmp_path: Path) -> None:
    port, tool_port = free_port(), free_port()
    made = tmp_path / "made"
    assert (await init(made, "--dev", "--port", str(port))).code == 0
    here = {"ASTROMESH_CONFIG_DIR": str(made)}
    assert (await ctl("new", "agent", "clerk", "--description", 'Counts: "words" & more', **here)).code == 0
    url = f"http://127.0.0.1:{tool_port}"
    done = await ctl("new", "tool", "word-count", "--agent", "clerk", "--url", url, **here)
    assert (done.code, len(done.out.splitlines())) == (0, 2), done
    assert "# An agent: docs/agents.md" in (made / "agents" / "clerk.agent.yaml").read_text()  # comments stay
    assert "has a tool 'word-count' already" in (await ctl("new", "tool", "word-count", "--agent", "clerk", "--force", **here)).err
    async with AsyncExitStack() as stack:
        tool = await asyncio.create_subprocess_exec("python3", str(made / "tools" / "word-count.py"), stdout=asyncio.subprocess.PIPE)
        stack.push_async_callback(tool.wait)
        stack.callback(tool.kill)
        assert tool.stdout is not None
        assert (await tool.stdout.readline()).decode().strip() == f"word-count listens on {url}"
        running = await run_it(stack, made, tmp_path / "data", port)
        answer = await asked(running.url, "run", "clerk", 'word count of "to be or not to be"')
        assert '"words": 6' in answer.out, answer
        assert "> word-count" in answer.err


@pytest.mark.processes
async def test_new_names_what_is_wrong_and_loses_nothing(tmp_path: Path) -> None:
    here = {"ASTROMESH_CONFIG_DIR": str(tmp_path)}
    assert (await ctl("new", "agent", "Clerk", **here)).code == 2
    assert (await ctl("new", "tool", "a b", **here)).code == 2
    assert (await ctl("new", "tool", "count", "--url", "count:9000", **here)).code == 2
    assert "there is none" in (await ctl("new", "tool", "count", "--agent", "clerk", **here)).err
    assert (await ctl("new", "agent", "clerk", **here)).code == 0
    before = (tmp_path / "agents" / "clerk.agent.yaml").read_text()
    assert "--force overwrites" in (await ctl("new", "agent", "clerk", **here)).err
    (tmp_path / "agents" / "clerk.agent.yaml").write_text(broken := before.replace("kind: Agent", "kind: Agnet"))
    done = await ctl("new", "tool", "count", "--agent", "clerk", **here)
    assert (done.code, "is 'Agnet'" in done.err) == (1, True)
    assert (tmp_path / "agents" / "clerk.agent.yaml").read_text() == broken
    assert not (tmp_path / "tools").exists()
    shown = await ctl("new", "tool", "count", **here)
    assert shown.code == 0
    assert "    - name: count" in shown.out
    told = (await ctl("new", "tool", "other", "--json", **here)).json
    assert yaml.safe_load(told["entry"])[0]["type"] == "webhook"


async def test_a_profile_of_ones_own_begins_as_another_one(tmp_path: Path) -> None:
    done = await ctl("new", "profile", "custom-worker", "--like", "mesh-worker", "--output", str(tmp_path))
    assert done.code == 0, done
    made = yaml.safe_load((tmp_path / "profiles" / "custom-worker.yaml").read_text())
    assert made["metadata"]["name"] == "custom-worker"
    assert made["spec"]["mesh"]["enabled"] is True
    unknown = await ctl("new", "profile", "x", "--like", "nope", "--output", str(tmp_path))
    assert "there is full, gateway, inference" in unknown.err


@pytest.mark.processes
async def test_what_a_port_in_use_means_is_told_by_the_node_itself(tmp_path: Path) -> None:
    port = free_port()
    assert (await init(tmp_path / "made", "--dev", "--port", str(port))).code == 0
    given = {"ASTROMESH_CONFIG_DIR": str(tmp_path / "made"), "ASTROMESH_HOST": "", "ASTROMESH_PORT": ""}
    async with AsyncExitStack() as stack:
        await start(stack, tmp_path / "made" / "runtime.yaml", tmp_path / "data", **given)
        second = await launch(stack, tmp_path / "made" / "runtime.yaml", tmp_path / "data", **given)
        assert await second.exit_code() != 0


AGENT = "kind: Agent\nspec:  # what it is\n  identity: {display_name: A}\n"


def test_a_draft_keeps_comments_and_refuses_what_it_cannot_write() -> None:
    draft = Draft("a: 1  # one\nb:\n  - url: http://a:1   # first\n  - two\nc: {d: 1}\n", "f.yaml")
    draft.set(("a",), "2")
    draft.set(("b", 0, "url"), "http://b:2")
    draft.set(("b", 1), "three")
    assert draft.text == "a: 2  # one\nb:\n  - url: http://b:2   # first\n  - three\nc: {d: 1}\n"
    draft.insert(("b",), ["- zero:", "    x: 1"])
    assert yaml.safe_load(draft.text)["b"][0] == {"zero": {"x": 1}}
    with pytest.raises(Failure, match="change it by hand"):
        draft.insert(("c",), ["e: 1"])
    with pytest.raises(Failure, match="change it by hand"):
        draft.set(("nope",), "1")


def test_a_template_fills_in_what_is_given_and_leaves_every_other_dollar() -> None:
    text = template("agent.yaml", name="clerk")
    assert "name: clerk" in text
    assert "description: $description" in text
