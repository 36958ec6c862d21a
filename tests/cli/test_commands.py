"""Every command that asks, against real nodes: what it shows in 80 columns, and what it gives to programs."""

import signal
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

from app.cli.mesh import members
from app.cli.traces import tree
from tests.cli.command import asked, at_terminal, ctl
from tests.meshes import WORKER, meshed
from tests.nodes import ROOT, node, profile
from tests.spine import free_port

EVERYTHING = ["agents", "inference", "memory", "tools", "channels", "rag"]


async def test_a_node_tells_what_it_is_and_who_answers_for_each_service(tmp_path: Path) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    async with node(profile(tmp_path / "worker.yaml", ["tools", "agents"]), tmp_path / "w") as worker:
        peers = {"w-1": (worker.url, ["tools", "agents"]), "gone": (away, ["memory"])}
        async with node(profile(tmp_path / "front.yaml", [], peers=peers), tmp_path / "f") as front:
            await asked(front.url, "agents", "list")  # the first question makes the node look at its peers
            status = (await asked(front.url, "status")).out
            assert "front (" in status
            assert "1 of 2 up" in status
            rows = {row["service"]: row for row in (await asked(front.url, "services", "--json")).json["services"]}
            answered = {name: row["answered"] for name, row in rows.items()}
            assert answered == {
                "api": "here", "observability": "here", "agents": "forwarded", "tools": "forwarded",
                "memory": "nowhere", "inference": "nowhere", "rag": "nowhere", "channels": "nowhere",
            }  # fmt: skip
            assert [peer["name"] for peer in rows["agents"]["peers"]] == ["w-1"]
            shown = (await asked(front.url, "services")).out
            assert f"w-1 ({worker.url})" in " ".join(shown.split())
            assert "gone" in shown
            listed = await asked(front.url, "peers", "list")
            assert worker.url in listed.out
            assert "gone: " in listed.err
            assert (await asked(front.url, "peers", "list", "--json")).json["peers"][0]["name"] == "w-1"


async def test_a_full_node_is_seen_whole(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "bad.agent.yaml").write_text("kind: Agent\n")
    (tmp_path / "agents" / "good.agent.yaml").write_text((ROOT / "config/agents/assistant.agent.yaml").read_text())
    path = profile(tmp_path / "full.yaml", EVERYTHING)
    async with node(path, tmp_path / "data", ASTROMESH_CONFIG_DIR=str(tmp_path)) as running:
        url = running.url
        doctor = await asked(url, "doctor")
        assert "Healthy, with 1 remark." in doctor.out
        assert "bad.agent.yaml" in "".join(doctor.out.split())
        agents = await asked(url, "agents", "list")
        assert [line.split()[:2] for line in agents.out.splitlines()[1:]] == [["assistant", "ready"], ["bad", "broken"]]
        assert "is missing; add `metadata:`" in agents.err
        assert [row["name"] for row in (await asked(url, "agents", "list", "--json")).json["agents"]] == ["assistant", "bad"]
        assert "builtin" in (await asked(url, "providers", "list")).out
        assert (await asked(url, "providers", "list", "--json")).json["providers"][0]["name"] == "builtin"
        tools = (await asked(url, "tools", "list")).out
        assert "calculator" in tools
        assert "spec.tools.read_file.roots" in tools
        assert (await asked(url, "metrics", "http_requests")).out.startswith("COUNTER")
        metrics = (await asked(url, "--json", "metrics", "http_requests_total")).json
        assert metrics["counters"]
        assert all("http_requests_total" in name for name in metrics["counters"])
        assert "no figure with 'nope'" in (await asked(url, "metrics", "nope")).err


async def test_a_tool_is_tried_by_names_and_values_or_json_and_its_failure_is_an_error(tmp_path: Path) -> None:
    async with node(profile(tmp_path / "tools.yaml", ["tools"]), tmp_path / "data") as running:
        for arguments in (("expression=17*23",), ('{"expression": "17*23"}',)):
            assert (await asked(running.url, "tools", "test", "calculator", *arguments)).out.split()[-2:] == ["391", "}"]
        data = ("data={'a': 1}".replace("'", '"'), "expression=a")
        assert (await asked(running.url, "tools", "test", "json_transform", *data)).out.strip() == "1"
        failed = await ctl("tools", "test", "calculator", "expression=1/0", ASTROMESH_URL=running.url)
        assert (failed.code, failed.out) == (1, "")
        assert "could not do it" in failed.err
        failed = await ctl("tools", "test", "calculator", "expression=1/0", "--json", ASTROMESH_URL=running.url)
        assert (failed.code, failed.json["status"]) == (1, "error")
        assert "did you mean `calculator`?" in (await ctl("tools", "test", "calculater", ASTROMESH_URL=running.url)).err
        for bad in ("expression", "=1", '{"a"'):
            assert (await ctl("tools", "test", "calculator", bad, ASTROMESH_URL=running.url)).code == 2


async def test_a_broken_node_is_an_exit_code_of_doctor(tmp_path: Path) -> None:
    async with node(profile(tmp_path / "n.yaml", ["memory"]), tmp_path / "data") as running:
        with ExitStack() as held:
            for file in (tmp_path / "data" / "memory").glob("*.sqlite"):
                other = held.enter_context(closing(sqlite3.connect(file, isolation_level=None)))
                other.execute("BEGIN EXCLUSIVE")  # the disk, as it were, does not take a write any more
            done = await ctl("doctor", ASTROMESH_URL=running.url)
    assert done.code == 1
    assert "Broken" in done.out


async def test_the_mesh_is_shown_and_left(tmp_path: Path) -> None:
    async with meshed(tmp_path) as mesh:
        gateway = await mesh.node("gateway")
        worker = await mesh.node("worker", WORKER)
        await mesh.together(gateway, worker)
        shown = (await asked(gateway.url, "mesh", "nodes")).out
        assert "2 of 2 members alive" in shown
        assert worker.url in shown
        assert (await asked(gateway.url, "mesh", "watch")).out.startswith("NAME")  # once, for there is no terminal
        assert "2 alive" in (await asked(gateway.url, "mesh", "status")).out
        assert (await asked(gateway.url, "mesh", "status", "--json")).json["cluster_size"] == 2
        assert len((await asked(gateway.url, "mesh", "nodes", "--json")).json["nodes"]) == 2
        unsaid = await ctl("mesh", "leave", ASTROMESH_URL=worker.url)
        assert (unsaid.code, "--yes" in unsaid.err) == (2, True)
        assert "has left" in (await asked(worker.url, "mesh", "leave", "--yes")).err

        async def gone() -> bool:
            return "worker" not in await mesh.members(gateway)

        await mesh.until(gone, "the worker is gone from the view")


async def test_the_mesh_is_drawn_anew_until_ctrl_c_also_while_the_node_is_away(tmp_path: Path) -> None:
    async with meshed(tmp_path) as mesh:
        gateway = await mesh.node("gateway")
        async with at_terminal("mesh", "watch", "--url", gateway.url) as terminal:
            await terminal.until("1 of 1 member alive")
            await mesh.node("worker", WORKER)
            await terminal.until("2 of 2 members alive")
            gateway.signal(signal.SIGKILL)
            await terminal.until("cannot be reached")
            terminal.interrupt()
            assert await terminal.code() == 0


def test_long_names_are_cut_and_states_are_told_apart() -> None:
    load = {"cpu_percent": 100, "memory_percent": 1, "active_requests": 12}
    row = {"name": "n" * 60, "url": "http://" + "u" * 60, "status": "alive", "leader": True, "last_heartbeat": 90.0, "load": load}
    states = [row | {"draining": True}, row | {"reachable": False}, row | {"status": "suspect"}]
    lines = members(states, 100.0).splitlines()
    assert [each for line in lines for each in ("draining", "no way", "suspect") if each in line] == ["draining", "no way", "suspect"]
    assert all(len(line) <= 80 for line in lines)


SPANS = [
    {
        "name": "POST /v1/agents/{}/run", "node": "gateway", "duration_ms": 12.5, "status": "ok",
        "children": [
            {"name": "invoke_agent assistant", "node": "worker", "duration_ms": 9.0, "status": "ok", "children": [
                {"name": "chat builtin", "node": "inference", "duration_ms": 1.25, "children": []},
                {"name": "execute_tool " + "x" * 60, "node": "worker", "duration_ms": 1500, "status": "error", "error": "tool_error"},
            ]},
            {"name": "late", "duration_ms": None, "children": None},
        ],
    }
]  # fmt: skip


def test_a_trace_is_a_tree_with_durations() -> None:
    lines = [span.line() for span in tree(SPANS)]
    assert [line[:26].rstrip() for line in lines] == [
        "POST /v1/agents/{}/run", "├─ invoke_agent assistant", "│  ├─ chat builtin", "│  └─ execute_tool xxxxxxx", "└─ late",
    ]  # fmt: skip
    assert lines[0].split()[-3:] == ["gateway", "12.5", "ms"]
    assert lines[3].endswith("worker              1.5 s  tool_error")
    assert all(len(line) <= 80 for line in lines)


async def test_one_question_is_a_tree_over_all_nodes_that_worked_on_it(tmp_path: Path) -> None:
    async with node(profile(tmp_path / "worker.yaml", EVERYTHING), tmp_path / "w") as worker:
        peers = {"worker-1": (worker.url, EVERYTHING)}
        async with node(profile(tmp_path / "gateway.yaml", [], peers=peers), tmp_path / "g") as gateway:
            assert "There is no trace" in (await asked(gateway.url, "traces", "list")).err
            trace_id = (await asked(gateway.url, "run", "assistant", "What is 17*23?")).err.rsplit("trace ", 1)[1].strip()
            listed = (await asked(gateway.url, "traces", "list", "--agent", "assistant")).out
            assert listed.splitlines()[1].split()[:2] == [trace_id, "assistant"]
            shown = (await asked(gateway.url, "traces", "show", trace_id)).out
            tool = next(line for line in shown.splitlines() if "execute_tool calculator" in line)
            assert tool.split()[-3] == "worker"
            assert tool.startswith("   ")
            assert shown.splitlines()[1].split()[-3] == "gateway"  # and nothing after the time: the node heard no early goodbye
            assert (await asked(gateway.url, "traces", "show", trace_id, "--json")).json["trace_id"] == trace_id
            assert "no trace of the agent 'nobody'" in (await asked(gateway.url, "traces", "list", "--agent", "nobody")).err


async def test_completion_is_offered_for_each_shell() -> None:
    for shell in ("bash", "zsh", "fish"):
        done = await ctl(_ASTROMESHCTL_COMPLETE=f"{shell}_source")
        assert "_ASTROMESHCTL_COMPLETE" in done.out, done
    done = await ctl(_ASTROMESHCTL_COMPLETE="bash_complete", COMP_WORDS="astromeshctl mesh ", COMP_CWORD="2")
    assert {line.split(",")[1] for line in done.out.splitlines()} == {"status", "nodes", "watch", "leave"}


async def test_version_help_and_wrong_usage() -> None:
    assert (await ctl("--version")).out.startswith("astromeshctl ")
    told = (await ctl("--help")).out
    assert "…" not in told
    assert "..." not in told.split("Commands:")[1]
    for wrong in (("nope",), ("agents", "nope"), ("run",), ("traces", "list", "--limit", "0")):
        done = await ctl(*wrong)
        assert (done.code, done.out) == (2, ""), wrong
