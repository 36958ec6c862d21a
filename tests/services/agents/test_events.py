"""Runs as streams of events."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from app.call import call
from app.context import background
from app.errors import AnsweredError, NodeError, ProviderError, ProviderUnavailable, StoreUnavailable
from app.services.agents.events import Emit, Event, listen
from app.sse import decode
from tests.services.agents.world import CALCULATOR, Memory, ScriptedModel, Stuck, Tools, agent_file, agents, calls, events
from tests.support import Neighbours

SSE = [(b"accept", b"text/event-stream")]


async def test_a_stream_tells_steps_tokens_tools_and_the_whole_result(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR])
    model = ScriptedModel([{"content": "Let me see."} | calls(("calculator", {"expression": "2+2"})) | {"content": "Let me"}, "It is 4."])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": lambda expression: 4}))) as app:
        told = await events(app, "What is 2+2?")
    assert [kind for kind, _ in told] == ["step", "token", "token", "tool_call", "tool_result", "step", "token", "token", "token", "done"]
    assert "".join(data["text"] for kind, data in told if kind == "token" and data["step"] == 2) == "It is 4."
    assert json.loads(told[3][1]["arguments"]) == {"expression": "2+2"}
    assert (told[3][1]["id"], told[3][1]["client"]) == (told[4][1]["id"], False)
    assert (told[4][1]["result"], told[4][1]["status"]) == (4, "ok")
    result = told[-1][1]
    assert (result["answer"], result["outcome"], len(result["steps"])) == ("It is 4.", "answered", 2)
    assert result["usage"]["tokens_out"] == 6
    assert model.requests[0]["stream_options"] == {"include_usage": True}


async def test_results_are_told_as_they_come(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[{"name": "slow", "type": "builtin"}, {"name": "fast", "type": "builtin"}])
    fast_was_told = asyncio.Event()

    async def slow() -> str:
        await fast_was_told.wait()
        return ""

    model = ScriptedModel([calls(("slow", {}), ("fast", {})), "Done."])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"slow": slow, "fast": lambda: ""}))) as app:
        async with call(app, "POST", "/v1/agents/tester/run", body={"query": "Go."}, headers=SSE, context=background()) as reply:
            order = []
            async for event in decode(reply.chunks()):
                if event.name == "tool_result":
                    order.append(json.loads(event.data)["name"])
                    fast_was_told.set()
    assert order == ["fast", "slow"]


async def test_a_failure_before_the_first_event_has_its_own_status(tmp_path: Path) -> None:
    agent_file(tmp_path)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([ProviderUnavailable("down")]))) as app:
        with pytest.raises(ProviderUnavailable):
            await events(app)


@pytest.mark.parametrize(
    ("script", "spec", "code", "said"),
    [
        ([{"content": "Half", "breaks": ProviderError("The provider went away.")}], {}, "provider_error", "went away"),
        ([calls(("ghost", {})), Stuck()], {"orchestration": {"timeout": 0.05}}, "deadline_exceeded", "'tester' did not finish within"),
        ([calls(("ghost", {})), ProviderUnavailable("down now")], {}, "provider_unavailable", "down now"),
    ],
)
async def test_a_failure_within_a_stream_is_its_last_event(
    tmp_path: Path, script: list[Any], spec: dict[str, Any], code: str, said: str
) -> None:
    agent_file(tmp_path, model={"primary": {"model": "one"}}, **spec)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(script))) as app:
        told = await events(app)
    assert told[-1][0] == "error"
    assert told[-1][1]["error"]["code"] == code
    assert said in told[-1][1]["error"]["message"]
    assert "done" not in [kind for kind, _ in told]


async def test_once_words_were_told_no_other_model_is_asked(tmp_path: Path) -> None:
    agent_file(tmp_path, model={"primary": {"model": "one"}, "fallback": {"model": "two"}})
    model = ScriptedModel([{"content": "Half", "breaks": ProviderUnavailable("gone")}, "Never said."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        told = await events(app)
    assert (told[-1][0], len(model.requests)) == ("error", 1)


@pytest.mark.parametrize("failure", [ProviderUnavailable("down"), {"content": "", "breaks_at_once": ProviderError("gone")}])
async def test_before_any_word_the_fallback_is_asked_in_a_stream_too(tmp_path: Path, failure: Any) -> None:
    agent_file(tmp_path, model={"primary": {"model": "one"}, "fallback": {"model": "two"}})
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([failure, "Yes."]))) as app:
        told = await events(app)
    assert told[0] == ("step", {"step": 1, "role": "reasoner", "model": "two"})


@pytest.mark.parametrize(
    ("raw", "error", "said"),
    [
        ("{broken", ProviderError, "no part of a chat completion"),
        ("[]", ProviderError, "no part of a chat completion"),
        ('{"choices": [7]}', ProviderError, "no part of a chat completion"),
        ('{"error": {"message": "The context is too long."}}', AnsweredError, "too long"),
        ('{"choices": []}', None, "broke off before its end"),
    ],
)
async def test_a_model_that_streams_something_else_is_an_error_and_no_answer(
    tmp_path: Path, raw: str, error: type[NodeError] | None, said: str
) -> None:
    agent_file(tmp_path)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([{"content": "", "raw": raw}]))) as app:
        if error:
            with pytest.raises(error, match=said):
                await events(app)
        else:
            assert said in (await events(app))[-1][1]["error"]["message"]


async def test_done_is_not_told_when_the_turn_cannot_be_stored(tmp_path: Path) -> None:
    agent_file(tmp_path, memory={"conversational": {}})
    neighbours = Neighbours(inference=ScriptedModel(["Noted."]), memory=Memory(fails=StoreUnavailable("disk full")))
    async with agents(tmp_path, neighbours) as app:
        told = await events(app)
    assert [kind for kind, _ in told] == ["step", "token", "error"]
    assert told[-1][1]["error"]["code"] == "store_unavailable"


async def test_a_listener_who_leaves_cancels_the_run(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[{"name": "slow", "type": "builtin"}])
    stuck = Stuck()
    neighbours = Neighbours(inference=ScriptedModel([calls(("slow", {}))]), tools=Tools({"slow": stuck}))
    async with agents(tmp_path, neighbours) as app:
        async with call(app, "POST", "/v1/agents/tester/run", body={"query": "Go."}, headers=SSE, context=background()) as reply:
            async for event in decode(reply.chunks()):
                if event.name == "tool_call":
                    break
            await stuck.entered.wait()
        assert stuck.cancelled.is_set()


async def test_what_a_run_raises_reaches_its_listener_after_the_events() -> None:
    async def run(emit: Emit) -> None:
        await emit(Event("step", {}))
        raise NodeError("broken")

    async with aclosing(listen(run)) as stream:
        assert (await anext(stream)).kind == "step"
        with pytest.raises(NodeError, match="broken"):
            await anext(stream)
