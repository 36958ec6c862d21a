"""Tools at work: builtin, agents, the client; whatever goes wrong with them is told to the model."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import (
    InvalidBody,
    ServiceUnavailable,
)
from app.services.agents import catalogue
from tests.services.agents.world import CALCULATOR, ScriptedModel, Stuck, Tools, agent_file, agents, ask, calculator, calls, events, told
from tests.support import Neighbours


async def test_tool_calls_of_one_step_run_at_once_and_keep_their_order(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[{"name": "first", "type": "builtin"}, {"name": "second", "type": "builtin"}])
    second_ran = asyncio.Event()

    async def first() -> str:
        await second_ran.wait()
        return "one"

    async def second() -> str:
        second_ran.set()
        return "two"

    model = ScriptedModel([calls(("first", {}), ("second", {})), "Done."])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"first": first, "second": second}))) as app:
        result = await ask(app)
    assert told(model.requests[1]) == ["one", "two"]
    assert [used["result"] for used in result["steps"][0]["tool_calls"]] == ["one", "two"]


async def test_no_more_tool_calls_run_at_once_than_allowed(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[{"name": "count", "type": "builtin"}])
    running, most = 0, 0
    pair = asyncio.Barrier(2)

    async def count() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await pair.wait()
        await pair.wait()  # nobody leaves before both have come, so that a third one would be seen
        running -= 1
        return ""

    model = ScriptedModel([calls(*[("count", {})] * 6), "Done."])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"count": count})), {"parallel_tool_calls": 2}) as app:
        await ask(app)
    assert most == 2


def fail(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("ghost", {}), "There is no tool 'ghost'; there is flaky."),
        (("flaky", "{broken"), "not JSON"),
        (("flaky", "[1]"), "not a JSON object"),
        (("flaky", '{"how": ' + "[" * 100_000 + "]" * 100_000 + "}"), "nested too deeply"),
        (("flaky", {"how": "422"}), "$.arguments.how: is not allowed"),
        (("flaky", {"how": "error"}), "division by zero"),
        (("flaky", {"how": "unavailable"}), "No node here offers tools."),
        (("flaky", {"how": "timeout"}), "did not answer within 0.05 s"),
    ],
)
async def test_what_goes_wrong_with_a_tool_is_told_to_the_model_as_an_error(tmp_path: Path, wanted: tuple[str, Any], said: str) -> None:
    agent_file(tmp_path, tools=[{"name": "flaky", "type": "builtin"}])
    stuck = Stuck()
    failures: dict[str, Any] = {
        "422": lambda: fail(InvalidBody("$.arguments.how: is not allowed")),
        "error": lambda: fail(ValueError("division by zero")),
        "unavailable": lambda: fail(ServiceUnavailable("No node here offers tools.")),
        "timeout": stuck,
    }
    model = ScriptedModel([calls(wanted), "I could not."])
    tools = Tools({"flaky": lambda how: failures[how]()})
    async with agents(tmp_path, Neighbours(inference=model, tools=tools), {"tool_timeout_s": 0.05}) as app:
        result = await ask(app)
    [used] = result["steps"][0]["tool_calls"]
    assert (used["status"], result["answer"]) == ("error", "I could not.")
    assert said in used["error"]
    assert told(model.requests[1]) == [f"Error: {used['error']}"]
    assert stuck.cancelled.is_set() == ("timeout" in str(wanted))


async def test_a_long_tool_result_is_cut_for_the_model_and_says_so(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[{"name": "long", "type": "builtin"}])
    model = ScriptedModel([calls(("long", {})), "Long."])
    neighbours = Neighbours(inference=model, tools=Tools({"long": lambda: "x" * 5000}))
    async with agents(tmp_path, neighbours, {"tool_result_chars": 100}) as app:
        await ask(app)
    assert told(model.requests[1]) == ["x" * 100 + "\n[cut here: 5000 characters, 100 shown]"]


async def test_builtin_tools_are_asked_for_once(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR])
    tools = Tools({"calculator": calculator})
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["One.", "Two."]), tools=tools)) as app:
        assert tools.asked_for_list == 0
        await ask(app)
        await ask(app)
    assert tools.asked_for_list == 1


async def test_descriptions_of_tools_are_renewed_and_outlast_a_service_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "_KEPT_S", 0.0)
    agent_file(tmp_path, tools=[CALCULATOR])
    model, tools = ScriptedModel(["One.", "Two.", "Three."]), Tools({"calculator": calculator}, description="Adds.")
    neighbours = Neighbours(inference=model, tools=tools)
    async with agents(tmp_path, neighbours) as app:
        await ask(app)
        tools.description = "Adds and multiplies."
        await ask(app)
        del neighbours.apps["tools"]
        await ask(app)
    shown = [request["tools"][0]["function"]["description"] for request in model.requests]
    assert shown == ["Adds.", "Adds and multiplies.", "Adds and multiplies."]


async def test_an_agent_with_tools_fails_clearly_when_no_node_has_them(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR])
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([]))) as app:
        with pytest.raises(ServiceUnavailable, match="tools"):
            await ask(app)


async def test_agents_call_agents_and_their_usage_adds_up(tmp_path: Path) -> None:
    agent_file(tmp_path, "boss", tools=[{"name": "ask_clerk", "type": "agent", "agent": "clerk"}], model={"primary": {"model": "big"}})
    agent_file(tmp_path, "clerk", model={"primary": {"model": "small"}})
    model = ScriptedModel([calls(("ask_clerk", {"query": "How many?"})), "Seven.", "The clerk says seven."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        result = await ask(app, name="boss", session_id="mine")
    assert (model.requests[1]["messages"], model.depths) == ([{"role": "user", "content": "How many?"}], [0, 1, 0])
    assert model.requests[0]["tools"][0]["function"]["parameters"]["required"] == ["query"]
    assert result["steps"][0]["tool_calls"][0]["result"] == "Seven."
    assert {row["model"]: (row["tokens_in"], row["calls"]) for row in result["usage"]["by_model"]} == {"big": (20, 2), "small": (10, 1)}
    assert (result["usage"]["tokens_in"], result["usage"]["model"]) == (30, "big")


async def test_agents_that_call_themselves_stop_at_the_depth_limit(tmp_path: Path) -> None:
    agent_file(tmp_path, "mirror", tools=[{"name": "again", "type": "agent", "agent": "mirror"}])
    deeper = calls(("again", {"query": "deeper"}))
    model = ScriptedModel([deeper, deeper, deeper, "Bottom.", "Up.", "Top."])
    async with agents(tmp_path, Neighbours(inference=model), {"max_depth": 2}) as app:
        result = await ask(app, name="mirror")
    assert model.depths == [0, 1, 2, 2, 1, 0]
    assert told(model.requests[3]) == ["Error: Agents may call agents 2 deep; answer without 'again'."]
    assert result["answer"] == "Top."


async def test_an_agent_that_is_missing_is_a_tool_error(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[{"name": "ask", "type": "agent", "agent": "nobody"}])
    model = ScriptedModel([calls(("ask", {"query": "Hello?"})), "Nobody is there."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        result = await ask(app)
    assert "There is no agent 'nobody' here; there is tester." in result["steps"][0]["tool_calls"][0]["error"]


async def test_a_client_tool_is_handed_over_and_the_model_told_so(tmp_path: Path) -> None:
    tool = {"name": "show_map", "type": "client", "parameters": {"place": {"type": "string", "required": True}}}
    agent_file(tmp_path, tools=[tool])
    model = ScriptedModel([calls(("show_map", {"place": "Oslo"})), "There you see it."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        told_events = await events(app)
    schema = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
    assert model.requests[0]["tools"][0]["function"]["parameters"] == schema
    [announced] = [data for kind, data in told_events if kind == "tool_call"]
    assert (announced["client"], json.loads(announced["arguments"])) == (True, {"place": "Oslo"})
    assert "handed to the client" in told(model.requests[1])[0]
