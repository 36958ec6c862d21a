"""What agents remember: read before a run, stored whole after it, and nothing acknowledged that was not stored."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.call import call
from app.context import background
from app.errors import ProviderUnavailable, ServiceUnavailable, StoreUnavailable
from app.services.agents.conversation import mend
from app.services.memory import Memory as MemoryService
from tests.services.agents.world import Memory, ScriptedModel, Tools, agent_file, agents, ask, calls, post
from tests.support import Neighbours, mounted, node_context

REMEMBERS: dict[str, Any] = {"conversational": {"strategy": "sliding_window", "max_turns": 2}}


def contents(request: dict[str, Any]) -> list[Any]:
    return [message["content"] for message in request["messages"]]


async def test_the_second_turn_remembers_the_first(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS)
    model = ScriptedModel(["Hello Ann.", "You are Ann."])
    async with agents(tmp_path, Neighbours(inference=model, memory=Memory())) as app:
        first = await ask(app, "I am Ann.")
        await ask(app, "Who am I?", session_id=first["session_id"])
    assert contents(model.requests[1]) == ["I am Ann.", "Hello Ann.", "Who am I?"]


async def test_a_turn_is_stored_whole_with_its_tool_calls(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS, tools=[{"name": "dice", "type": "builtin"}], prompts={"system": "Secret."})
    memory = Memory()
    neighbours = Neighbours(inference=ScriptedModel([calls(("dice", {})), "A six."]), memory=memory, tools=Tools({"dice": lambda: 6}))
    async with agents(tmp_path, neighbours) as app:
        await ask(app, "Roll.", session_id="s-1")
    [turn] = memory.turns["tester", "s-1"]
    assert [(message["role"], message["content"]) for message in turn] == [
        ("user", "Roll."),
        ("assistant", ""),
        ("tool", "6"),
        ("assistant", "A six."),
    ]
    assert turn[1]["tool_calls"][0]["id"] == turn[2]["tool_call_id"]


async def test_only_the_last_turns_are_asked_for(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS)
    model = ScriptedModel(["1", "2", "3", "4"])
    async with agents(tmp_path, Neighbours(inference=model, memory=Memory())) as app:
        for question in "abcd":
            await ask(app, question, session_id="s-1")
    assert contents(model.requests[3]) == ["b", "2", "c", "3", "d"]


async def test_the_real_memory_service_keeps_what_agents_store(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS, tools=[{"name": "dice", "type": "builtin"}])
    model = ScriptedModel([calls(("dice", {})), "A six.", "It was a six."])
    async with mounted(MemoryService({}, node_context(tmp_path))) as memory:
        neighbours = Neighbours(inference=model, memory=memory, tools=Tools({"dice": lambda: 6}))
        async with agents(tmp_path, neighbours) as app:
            await ask(app, "Roll.", session_id="a:b@c")
            await ask(app, "What was it?", session_id="a:b@c")
            async with call(memory, "GET", "/v1/memory/tester/history/a:b@c") as reply:
                kept = await reply.json()
    assert contents(model.requests[2]) == ["Roll.", "", "6", "A six.", "What was it?"]
    assert len(kept["turns"]) == 2


async def test_a_run_that_fails_stores_nothing(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS)
    memory = Memory()
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([ProviderUnavailable("down")]), memory=memory)) as app:
        with pytest.raises(ProviderUnavailable):
            await ask(app)
    assert memory.turns == {}


async def test_a_turn_that_cannot_be_stored_fails_the_run(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS)
    neighbours = Neighbours(inference=ScriptedModel(["Noted."]), memory=Memory(fails=StoreUnavailable("disk full")))
    async with agents(tmp_path, neighbours) as app:
        with pytest.raises(StoreUnavailable, match="disk full"):
            await ask(app)


async def test_an_agent_with_memory_says_so_when_no_node_keeps_it(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS)
    model = ScriptedModel([])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        with pytest.raises(ServiceUnavailable, match="memory"):
            await ask(app)
    assert model.requests == []


async def test_an_agent_without_memory_leaves_the_memory_service_alone(tmp_path: Path) -> None:
    agent_file(tmp_path)
    memory = Memory()
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["Hi."]), memory=memory)) as app:
        assert (await ask(app, session_id="s-1"))["session_id"] == "s-1"
    assert memory.requests == []


async def test_the_session_in_the_body_wins_and_reaches_called_agents(tmp_path: Path) -> None:
    agent_file(tmp_path, "boss", tools=[{"name": "ask_clerk", "type": "agent", "agent": "clerk"}])
    agent_file(tmp_path, "clerk", memory=REMEMBERS)
    memory = Memory()
    model = ScriptedModel([calls(("ask_clerk", {"query": "Note it."})), "Noted.", "Done."])
    async with agents(tmp_path, Neighbours(inference=model, memory=memory)) as app:
        context = replace(background(), session="header")
        result = await post(app, "/v1/agents/boss/run", {"query": "Go.", "session_id": "body"}, context)
    assert result["session_id"] == "body"
    assert list(memory.turns) == [("clerk", "body")]


CALL: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
USER: dict[str, Any] = {"role": "user", "content": "?"}
CALLS: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "c1", "content": "6"}
NO_RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "c1", "content": "No result was given."}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "!"}


@pytest.mark.parametrize(
    ("messages", "mended"),
    [
        ([USER, CALLS, RESULT, ANSWER], [USER, CALLS, RESULT, ANSWER]),
        ([RESULT, ANSWER, USER], [USER]),
        ([USER, CALLS, USER], [USER, CALLS, NO_RESULT, USER]),
        ([USER, CALLS], [USER, CALLS, NO_RESULT]),
        ([USER, RESULT, ANSWER], [USER, ANSWER]),
        ([USER, CALLS, RESULT, RESULT, USER], [USER, CALLS, RESULT, USER]),
        ([], []),
    ],
)
def test_a_history_is_mended_so_that_every_call_has_one_result(messages: list[Any], mended: list[Any]) -> None:
    assert mend(messages) == mended
