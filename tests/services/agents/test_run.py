"""Runs over JSON: the loop, its limits, its requests, and who leaves in the middle."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.call import call
from app.context import background
from app.errors import (
    AgentNotFound,
    BadRequest,
    DeadlineExceeded,
    InvalidBody,
    NotBegun,
)
from tests.services.agents.world import CALCULATOR, ScriptedModel, Stuck, Tools, agent_file, agents, ask, calculator, calls, post, told
from tests.support import Neighbours


async def test_a_run_calls_tools_and_answers(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR])
    model = ScriptedModel([calls(("calculator", {"expression": "17*23"})), "It is 391."])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))) as app:
        context = replace(background(), session="s-1")
        result = await post(app, "/v1/agents/tester/run", {"query": "What is 17*23?"}, context)
    assert (result["answer"], result["outcome"], result["session_id"]) == ("It is 391.", "answered", "s-1")
    assert result["trace"] == {"trace_id": context.trace_id}
    assert result["usage"] == {
        "tokens_in": 20,
        "tokens_out": 6,
        "model": "default",
        "by_model": [{"model": "default", "tokens_in": 20, "tokens_out": 6, "calls": 2}],
    }
    [first, second] = result["steps"]
    [used] = first["tool_calls"]
    assert (first["step"], first["model"], second["content"], second["tool_calls"]) == (1, "default", "It is 391.", [])
    assert (used["name"], json.loads(used["arguments"]), used["result"], used["status"]) == (
        "calculator",
        {"expression": "17*23"},
        391,
        "ok",
    )
    assert used["duration_ms"] >= 0
    assert told(model.requests[1]) == ["391"]
    assert model.requests[1]["messages"][-2]["tool_calls"][0]["id"] == model.requests[1]["messages"][-1]["tool_call_id"]
    assert model.requests[0]["tools"][0]["function"]["description"] == "The calculator."


async def test_used_up_iterations_end_with_a_last_word_without_tools(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR], orchestration={"max_iterations": 2})
    again = calls(("calculator", {"expression": "2+2"}))
    model = ScriptedModel([again, again, "So far: 4."])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))) as app:
        result = await ask(app)
    assert (result["outcome"], result["answer"], len(result["steps"])) == ("max_iterations", "So far: 4.", 3)
    assert "tools" in model.requests[1]
    assert "tools" not in model.requests[2]


async def test_used_up_iterations_without_a_last_word_say_so(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR], orchestration={"max_iterations": 1})
    again = calls(("calculator", {"expression": "2+2"}))
    model = ScriptedModel([again, again])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))) as app:
        result = await ask(app)
    assert result["answer"] == "The agent stopped after 1 iterations without an answer."


async def test_an_answer_that_the_model_cut_short_is_called_truncated(tmp_path: Path) -> None:
    agent_file(tmp_path)
    model = ScriptedModel([{"content": "Half of", "finish_reason": "length"}])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        assert (await ask(app))["outcome"] == "truncated"


async def test_a_run_beyond_its_time_is_cancelled_and_names_agent_and_limit(tmp_path: Path) -> None:
    agent_file(tmp_path, orchestration={"timeout_seconds": 0.05})
    stuck = Stuck()
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([stuck]))) as app:
        with pytest.raises(DeadlineExceeded, match=r"'tester' did not finish within its 0.05 s .*timeout_seconds"):
            await ask(app)
    assert stuck.cancelled.is_set()


async def test_the_request_deadline_ends_a_run_too(tmp_path: Path) -> None:
    agent_file(tmp_path)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([Stuck()]))) as app:
        with pytest.raises(DeadlineExceeded, match="request's deadline"):
            await post(app, "/v1/agents/tester/run", {"query": "Go."}, background(deadline_s=0.05))


async def test_a_caller_who_leaves_cancels_model_and_tools(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[{"name": "slow", "type": "builtin"}])
    in_tool, in_model = Stuck(), Stuck()
    for script, stuck in (([calls(("slow", {}))], in_tool), ([in_model], in_model)):
        neighbours = Neighbours(inference=ScriptedModel(list(script)), tools=Tools({"slow": in_tool}))
        async with agents(tmp_path, neighbours) as app:
            run = asyncio.create_task(ask(app))
            await stuck.entered.wait()
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert stuck.cancelled.is_set()


async def test_a_failure_within_a_run_never_claims_that_nothing_has_begun(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR])
    model = ScriptedModel([calls(("calculator", {"expression": "2+2"})), NotBegun("draining")])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))) as app:
        with pytest.raises(NotBegun) as raised:
            await ask(app)
    assert "X-Astromesh-Not-Begun" not in raised.value.headers
    assert raised.value.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("body", "param"), [({}, "$"), ({"query": ""}, "$.query"), ({"query": "Go.", "sesion_id": "x"}, "$"), ({"query": 7}, "$.query")]
)
async def test_a_run_request_of_the_wrong_shape_is_refused(tmp_path: Path, body: Any, param: str) -> None:
    agent_file(tmp_path)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([]))) as app:
        with pytest.raises(InvalidBody) as raised:
            await post(app, "/v1/agents/tester/run", body)
    assert raised.value.param == param


async def test_a_session_id_that_no_path_carries_is_refused(tmp_path: Path) -> None:
    agent_file(tmp_path)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([]))) as app:
        with pytest.raises(BadRequest, match="session id"):
            await ask(app, session_id="a/b")


async def test_a_run_without_a_session_gets_one_that_names_the_store(tmp_path: Path) -> None:
    agent_file(tmp_path)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["Hi."]))) as app:
        assert (await ask(app))["session_id"].startswith("s_555555555555_")


async def test_an_unknown_agent_is_answered_with_those_there_are(tmp_path: Path) -> None:
    agent_file(tmp_path, "anna")
    agent_file(tmp_path, "bert")
    async with agents(tmp_path, Neighbours()) as app:
        with pytest.raises(AgentNotFound, match=r"'carl' here; there is anna, bert\."):
            await ask(app, name="carl")


async def test_half_a_surrogate_pair_passes_through(tmp_path: Path) -> None:
    agent_file(tmp_path)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["Half \ud83d pair", "Half \ud83d pair"]))) as app:
        body = json.dumps({"query": "\ud83d"}).encode()
        headers = [(b"content-type", b"application/json"), (b"accept", b"text/event-stream")]
        async with call(app, "POST", "/v1/agents/tester/run", body=body, headers=headers) as reply:
            assert b"Half \\ud83d pair" in await reply.read()
