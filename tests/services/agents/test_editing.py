"""Agents that are made, changed and deleted over HTTP: what is kept, what is refused, what is shown, and what others with the store see."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from app.call import call
from app.context import background
from app.errors import AgentNotFound, BodyTooLarge, Conflict, Forbidden, InvalidAgent, NodeError, StoreUnavailable
from app.services.agents import Agents
from tests.services.agents.world import ScriptedModel, Stuck, agent_file, ask, calls
from tests.support import Neighbours, mounted, node_context

KEYS = {"ASTROMESH_API_KEYS": "ada:sk-1"}


def definition(name: str = "clerk", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "astromesh/v1", "kind": "Agent", "metadata": {"name": name}, "spec": spec}


@asynccontextmanager
async def service(folder: Path, model: ScriptedModel | None = None, environ: dict[str, str] | None = None) -> AsyncIterator[Any]:
    """The agents of a folder: (app, service)."""
    neighbours = Neighbours(inference=model or ScriptedModel([]))
    made = Agents({}, node_context(folder, neighbours, KEYS if environ is None else environ))
    async with mounted(made) as app:
        yield app, made


async def do(app: ASGIApp, method: str, path: str, body: Any = None, principal: str = "ada") -> Any:
    """The JSON of an answer; raises what the service raised."""
    async with call(app, method, path, body=body, context=replace(background(), principal=principal)) as reply:
        return reply.status, json.loads(await reply.read() or b"null")


def kept(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "agents")) if (folder / "agents").exists() else []


async def test_an_agent_is_made_listed_run_changed_and_deleted(tmp_path: Path) -> None:
    async with service(tmp_path, ScriptedModel(["Hi.", "Ho."])) as (app, agents):
        status, made = await do(app, "POST", "/v1/agents", definition(prompts={"system": "Be brief."}))
        assert (status, made["name"], made["source"], made["definition"]["spec"]["prompts"]) == (
            201,
            "clerk",
            "http",
            {"system": "Be brief."},
        )
        assert agents.facts().keys == {"clerk"}
        assert (await ask(app, name="clerk"))["answer"] == "Hi."
        status, changed = await do(app, "PUT", "/v1/agents/clerk", definition(identity={"display_name": "Clerk"}))
        assert (status, changed["display_name"]) == (200, "Clerk")
        assert (await ask(app, name="clerk"))["answer"] == "Ho."
        assert (await do(app, "GET", "/v1/agents"))[1]["agents"][0]["display_name"] == "Clerk"
        assert await do(app, "DELETE", "/v1/agents/clerk") == (200, {"name": "clerk", "deleted": True})
        assert agents.facts().keys == set()
        for method in ("GET", "DELETE"):
            with pytest.raises(AgentNotFound, match="no agent 'clerk' here"):
                await do(app, method, "/v1/agents/clerk")
    assert kept(tmp_path) == []


async def test_an_agent_that_was_made_is_there_after_a_restart_and_its_file_is_for_the_nodes_group_alone(tmp_path: Path) -> None:
    async with service(tmp_path) as (app, _):
        assert (await do(app, "PUT", "/v1/agents/clerk", definition()))[0] == 201
    assert kept(tmp_path) == ["clerk.agent.json"]
    assert (tmp_path / "agents" / "clerk.agent.json").stat().st_mode & 0o007 == 0
    async with service(tmp_path) as (app, agents):
        assert agents.facts().keys == {"clerk"}
        assert (await do(app, "GET", "/v1/agents/clerk"))[1]["definition"] == definition()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "/v1/agents", definition()), ("PUT", "/v1/agents/clerk", definition()), ("DELETE", "/v1/agents/clerk", None)],
)
@pytest.mark.parametrize(("environ", "principal"), [({}, "whoever"), (KEYS, ""), ({"ASTROMESH_MESH_KEY": "k"}, "")])
async def test_nobody_changes_agents_where_no_key_was_asked_for(
    tmp_path: Path, method: str, path: str, body: Any, environ: dict[str, str], principal: str
) -> None:
    async with service(tmp_path, environ=environ) as (app, _):
        with pytest.raises(Forbidden, match="set ASTROMESH_API_KEYS") as caught:
            await do(app, method, path, body, principal)
        assert caught.value.status == 403
        status, told = await do(app, "POST", "/v1/agents/reload", principal=principal)
        assert (status, told["agents"]) == (200, 0), "to reload harms nobody"
    assert kept(tmp_path) == []


async def test_who_signs_for_a_named_client_may_change_agents_without_keys_here(tmp_path: Path) -> None:
    async with service(tmp_path, environ={"ASTROMESH_MESH_KEY": "k"}) as (app, _):
        assert (await do(app, "POST", "/v1/agents", definition()))[0] == 201


async def test_every_problem_of_an_agent_is_told_at_once(tmp_path: Path) -> None:
    wrong = definition("Big One", promts={}, tools=[{"name": "t", "type": "agent"}], orchestration={"pattern": "raect"})
    async with service(tmp_path) as (app, _):
        with pytest.raises(InvalidAgent) as caught:
            await do(app, "POST", "/v1/agents", wrong)
    error = caught.value.body()["error"]
    assert (caught.value.status, error["code"], error["param"]) == (422, "invalid_agent", "$.metadata.name")
    for said in ("lower-case letters", "did you mean `prompts`?", "spec.tools[0].agent: is missing", "did you mean `react`?"):
        assert sum(said in problem for problem in error["errors"]) == 1, (said, error["errors"])
        assert said in error["message"]
    assert all(problem.startswith("the body: ") for problem in error["errors"])


DEEP: Any = {}
for _ in range(200):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"prompts": {"system": "{% if %}"}}, "spec.prompts.system: is not a template"),
        ({"output_schema": DEEP}, "is nested more than 100 deep; make it flatter"),
        (
            {"tools": [{"name": "hook", "type": "webhook", "url": "https://x.example/?k=${ASTROMESH_MESH_KEY}"}]},
            "spec.tools[0].url: names ${ASTROMESH_MESH_KEY}, and an agent that is made over HTTP sees no variables",
        ),
        ({"tools": [{"name": "hook", "type": "webhook", "url": "https://x.example/", "headers": {"A": "***"}}]}, "stands for a secret"),
        ({"tools": [{"name": "hook", "type": "webhook", "url": "https://x.example/***"}]}, "stands for a secret"),
        ({"model": {"primary": {"model": "m", "api_key": "***"}}}, "spec.model.primary.api_key: has ***"),
        (
            {"tools": [{"name": "hook", "type": "webhook", "url": "https://x.example/", "parameters": {"a": {"pattern": "^(a+)+$"}}}]},
            "spec.tools[0].parameters.a.pattern: is a regular expression",
        ),
        ({"output_schema": {"a": {"patternProperties": {"^(a+)+$": True}}}}, "spec.output_schema.a.patternProperties: is a regular"),
    ],
)
async def test_what_a_schema_cannot_see_is_refused_too(tmp_path: Path, spec: dict[str, Any], said: str) -> None:
    async with service(tmp_path, environ=KEYS | {"ASTROMESH_MESH_KEY": "secret"}) as (app, _):
        with pytest.raises(InvalidAgent) as caught:
            await do(app, "PUT", "/v1/agents/clerk", definition(**spec))
    assert said in caught.value.message
    assert "secret" not in caught.value.message.replace("a secret", "").replace("the secret", "")
    assert kept(tmp_path) == []


async def test_a_parameter_may_be_called_pattern_and_clients_may_be_told_of_one(tmp_path: Path) -> None:
    hook = {"name": "hook", "type": "webhook", "url": "https://x.example/", "parameters": {"pattern": {"type": "string"}}}
    show = {"name": "show", "type": "client", "parameters": {"a": {"type": "string", "pattern": "^a+$"}}}
    async with service(tmp_path) as (app, _):
        await do(app, "POST", "/v1/agents", definition(tools=[hook, show]))
    assert kept(tmp_path) == ["clerk.agent.json"]


async def test_the_path_and_the_agent_name_the_same(tmp_path: Path) -> None:
    async with service(tmp_path) as (app, _):
        with pytest.raises(InvalidAgent, match="is 'clerk', and the path names 'cook'; make the two the same"):
            await do(app, "PUT", "/v1/agents/cook", definition("clerk"))


async def test_an_agent_that_is_too_large_or_has_no_text_is_refused(tmp_path: Path) -> None:
    async with service(tmp_path) as (app, _):
        with pytest.raises(BodyTooLarge, match="over the 262144"):
            await do(app, "POST", "/v1/agents", definition(prompts={"system": "x" * 300_000}))
        with pytest.raises(NodeError, match="half of a surrogate pair") as caught:
            await do(app, "POST", "/v1/agents", definition(prompts={"system": "\ud83d"}))
        assert caught.value.status == 400
    assert kept(tmp_path) == []


async def test_a_second_agent_of_a_name_is_a_conflict_and_changes_nothing(tmp_path: Path) -> None:
    async with service(tmp_path) as (app, _):
        await do(app, "POST", "/v1/agents", definition(identity={"display_name": "First"}))
        with pytest.raises(Conflict, match="change it by PUT /v1/agents/clerk"):
            await do(app, "POST", "/v1/agents", definition(identity={"display_name": "Second"}))
        assert (await do(app, "GET", "/v1/agents/clerk"))[1]["display_name"] == "First"


@pytest.mark.parametrize("broken", [False, True])
async def test_a_file_wins_and_cannot_be_touched_over_http(tmp_path: Path, broken: bool) -> None:
    file = agent_file(tmp_path, "clerk", **({"promts": {}} if broken else {}))
    async with service(tmp_path) as (app, _):
        for method, path, body in (
            ("POST", "/v1/agents", definition()),
            ("PUT", "/v1/agents/clerk", definition()),
            ("DELETE", "/v1/agents/clerk", None),
        ):
            with pytest.raises(Conflict, match="files win") as caught:
                await do(app, method, path, body)
            assert str(file) in caught.value.message
    assert kept(tmp_path) == []


async def test_a_file_that_comes_later_takes_the_place_of_what_was_made_and_says_so(tmp_path: Path) -> None:
    async with service(tmp_path) as (app, agents):
        await do(app, "POST", "/v1/agents", definition(identity={"display_name": "Made"}))
        agent_file(tmp_path, "clerk", identity={"display_name": "Written"})
        await do(app, "POST", "/v1/agents/reload")
        _, detail = await do(app, "GET", "/v1/agents/clerk")
        assert (detail["display_name"], detail["source"], "definition" in detail) == ("Written", "file", False)
        assert "made over HTTP and is passed over" in detail["warnings"][0]
        assert "passed over" in (await agents.check())["agents.fields"].message
    assert kept(tmp_path) == ["clerk.agent.json"], "nothing is lost"


async def test_secrets_are_kept_and_never_shown(tmp_path: Path) -> None:
    tool = {
        "name": "hook",
        "type": "webhook",
        "url": "https://u:pw-1@x.example/pw-6?token=pw-2",
        "headers": {"Authorization": "Bearer pw-3"},
    }
    spec: dict[str, Any] = {
        "model": {"primary": {"model": "m", "api_key": "pw-4", "parameters": {"api_key": "pw-5", "top_p": 1}}},
        "tools": [tool],
    }
    async with service(tmp_path) as (app, agents):
        _, made = await do(app, "POST", "/v1/agents", definition(**spec))
        _, detail = await do(app, "GET", "/v1/agents/clerk")
        told = json.dumps([made, detail, (await do(app, "GET", "/v1/agents"))[1], str(await agents.check())])
    assert "pw-" not in told
    shown = made["definition"]["spec"]
    assert shown["model"]["primary"] == {"model": "m", "api_key": "***", "parameters": {"api_key": "***", "top_p": 1}}
    assert (shown["tools"][0]["url"], shown["tools"][0]["headers"]) == ("https://x.example/***", {"Authorization": "***"})
    assert "attached to no provider" in made["warnings"][0]
    assert json.loads((tmp_path / "agents" / "clerk.agent.json").read_bytes()) == definition(**spec)


async def test_a_webhook_of_an_agent_that_was_made_reaches_no_address_that_is_not_public(tmp_path: Path) -> None:
    tool = {"name": "hook", "type": "webhook", "url": "http://127.0.0.1:1/internal"}
    model = ScriptedModel([calls(("hook", {})), "Done."])
    async with service(tmp_path, model) as (app, _):
        await do(app, "POST", "/v1/agents", definition(tools=[tool]))
        await ask(app, name="clerk")
    [said] = [message["content"] for message in model.requests[1]["messages"] if message["role"] == "tool"]
    assert "is not a public address, so it is not asked. Webhooks of agents that were made over HTTP" in said


async def test_nodes_that_share_a_data_directory_see_each_others_agents(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "agents").symlink_to(tmp_path / "shared")
    (tmp_path / "shared").mkdir()
    async with AsyncExitStack() as stack:
        one, _ = await stack.enter_async_context(service(tmp_path / "one"))
        two, second = await stack.enter_async_context(service(tmp_path / "two", ScriptedModel(["Hi."])))
        await do(one, "POST", "/v1/agents", definition())
        assert (await ask(two, name="clerk"))["answer"] == "Hi.", "at once, where somebody asks for it"
        await do(two, "POST", "/v1/agents", definition("cook"))
        with pytest.raises(Conflict):
            await do(one, "POST", "/v1/agents", definition("cook"))
        await do(one, "DELETE", "/v1/agents/clerk")
        async with asyncio.timeout(10):
            while second.facts().keys != {"cook"}:
                await do(two, "GET", "/v1/agents")


async def test_of_many_that_make_one_agent_at_the_same_moment_one_succeeds(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        apps = [(await stack.enter_async_context(service(tmp_path)))[0] for _ in range(4)]
        asked = [do(app, "POST", "/v1/agents", definition()) for app in apps for _ in range(5)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(not isinstance(each, BaseException) for each in outcomes) == 1
    assert sum(isinstance(each, Conflict) for each in outcomes) == 19
    assert kept(tmp_path) == ["clerk.agent.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
async def test_a_folder_that_cannot_be_written_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir(mode=0o500)
    async with service(tmp_path) as (app, agents):
        with pytest.raises(StoreUnavailable, match="Permission denied"):
            await do(app, "POST", "/v1/agents", definition())
        assert agents.facts().keys == set()


async def test_a_data_directory_that_is_a_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "agents").write_text("")
    async with service(tmp_path) as (app, agents):
        with pytest.raises(StoreUnavailable, match=r"cannot be kept in .*: File exists; make room there"):
            await do(app, "POST", "/v1/agents", definition())
        assert agents.facts().keys == set()


@pytest.mark.parametrize("content", ["{", "[]", json.dumps(definition("other")), json.dumps(definition("clerk", promts={}))])
async def test_a_broken_file_in_the_store_is_listed_and_mended_by_put(tmp_path: Path, content: str) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "clerk.agent.json").write_text(content)
    async with service(tmp_path) as (app, agents):
        [row] = (await do(app, "GET", "/v1/agents"))[1]["agents"]
        assert (row["name"], row["status"]) == ("clerk", "broken")
        assert (await agents.check())["agents"].status == "degraded"
        with pytest.raises(Conflict):
            await do(app, "POST", "/v1/agents", definition())
        status, detail = await do(app, "PUT", "/v1/agents/clerk", definition())
        assert (status, detail["status"]) == (200, "ready")


# Reading anew


async def test_a_reload_takes_in_new_changed_and_deleted_files(tmp_path: Path) -> None:
    agent_file(tmp_path, "stays")
    gone = agent_file(tmp_path, "goes")
    async with service(tmp_path) as (app, agents):
        agent_file(tmp_path, "comes", orchestration={"max_iterations": 2})
        agent_file(tmp_path, "stays", identity={"display_name": "New"})
        gone.unlink()
        assert agents.facts().keys == {"goes", "stays"}, "nothing happens before it is asked for"
        _, told = await do(app, "POST", "/v1/agents/reload", principal="")
        assert told == {"agents": 2, "loaded": ["comes", "stays"], "broken": [], "unavailable": []}
        assert agents.facts().keys == {"comes", "stays"}
        assert (await do(app, "GET", "/v1/agents/stays"))[1]["display_name"] == "New"


async def test_a_file_that_breaks_keeps_its_agent_which_says_so_until_it_is_mended(tmp_path: Path) -> None:
    file = agent_file(tmp_path, "clerk", identity={"display_name": "Good"})
    agent_file(tmp_path, "fancy", orchestration={"pattern": "supervisor"})
    async with service(tmp_path, ScriptedModel(["Hi."])) as (app, agents):
        good = file.read_text()
        file.write_text(good.replace("identity", "idenity"))
        for _ in range(2):
            _, told = await do(app, "POST", "/v1/agents/reload")
            assert told["loaded"] == ["clerk", "fancy"]
            [broken] = told["broken"]
            assert (broken["name"], broken["file"], broken["kept"]) == ("clerk", "clerk.agent.yaml", True)
            assert told["unavailable"][0]["name"] == "fancy"
        rows = (await do(app, "GET", "/v1/agents"))[1]["agents"]
        assert [(row["name"], row["status"]) for row in rows] == [("clerk", "ready"), ("fancy", "unavailable")]
        assert "did you mean `identity`?" in rows[0]["stale"]
        check = (await agents.check())["agents"]
        assert (check.status, "clerk goes on as it was before its file broke" in check.message) == ("degraded", True)
        assert (await ask(app, name="clerk"))["answer"] == "Hi."
        file.write_text(good)
        _, told = await do(app, "POST", "/v1/agents/reload")
        assert told["broken"] == []
        assert (await do(app, "GET", "/v1/agents/clerk"))[1]["stale"] is None


async def test_a_run_that_has_begun_ends_with_the_agent_that_it_began_with(tmp_path: Path) -> None:
    file = agent_file(tmp_path, "clerk", prompts={"system": "First."})
    stuck = Stuck()
    go = asyncio.Event()

    async def slow(body: Any) -> str:
        stuck.entered.set()
        await go.wait()
        return str(body["messages"][0]["content"])

    async with service(tmp_path, ScriptedModel([slow])) as (app, agents):
        running = asyncio.create_task(ask(app, name="clerk"))
        await asyncio.wait_for(stuck.entered.wait(), 5)
        file.unlink()
        await do(app, "POST", "/v1/agents/reload")
        assert agents.facts().keys == set()
        go.set()
        assert (await running)["answer"] == "First."


async def test_other_nodes_hear_of_every_change(tmp_path: Path) -> None:
    told = list[set[str]]()
    context = node_context(tmp_path, Neighbours(), KEYS)
    made: Agents
    context = replace(context, changed=lambda: told.append(set(made.facts().keys or ())))
    made = Agents({}, context)
    async with mounted(made) as app:
        await do(app, "POST", "/v1/agents", definition())
        await do(app, "PUT", "/v1/agents/cook", definition("cook"))
        await do(app, "DELETE", "/v1/agents/clerk")
        await do(app, "POST", "/v1/agents/reload")
    assert told == [{"clerk"}, {"clerk", "cook"}, {"cook"}, {"cook"}]
