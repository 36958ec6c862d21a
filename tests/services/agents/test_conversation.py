"""What agents remember: read before a run, stored whole after it, and nothing acknowledged that was not stored."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.call import call
from app.context import background
from app.errors import BodyTooLarge, ProviderUnavailable, ServiceUnavailable, StoreUnavailable
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


async def remembered(folder: Path, script: list[Any], limit: int = 4096, query: str = "Go.") -> list[Any]:
    """What the real memory service keeps, with room for ``limit`` bytes, of a run with a tool that returns its argument over and over."""
    agent_file(folder, memory=REMEMBERS, tools=[{"name": "repeat", "type": "builtin"}])
    tools = Tools({"repeat": lambda text, times: text * times})
    async with mounted(MemoryService({"max_turn_bytes": limit}, node_context(folder))) as memory:
        async with agents(folder, Neighbours(inference=ScriptedModel(script), memory=memory, tools=tools)) as app:
            assert (await ask(app, query, session_id="s"))["outcome"] == "answered"
            async with call(memory, "GET", "/v1/memory/tester/history/s") as reply:
                kept: list[Any] = (await reply.json())["messages"]
    assert kept[0] == {"role": "user", "content": query}
    assert mend(kept) == kept
    return kept


async def test_results_that_memory_has_no_room_for_are_stored_cut_and_say_so(tmp_path: Path) -> None:
    wanted = calls(("repeat", {"text": "x", "times": 20_000}), ("repeat", {"text": "short", "times": 1}))
    kept = await remembered(tmp_path, [wanted, "Done."])
    assert [message["role"] for message in kept] == ["user", "assistant", "tool", "tool", "assistant"]
    assert kept[2]["content"] == "x" * 1024 + "\n[cut to fit into memory: 20000 characters, 1024 kept]"
    assert (kept[3]["content"], kept[4]["content"]) == ("short", "Done.")


async def test_words_and_arguments_are_cut_when_the_results_are_not_what_is_large(tmp_path: Path) -> None:
    kept = await remembered(tmp_path, [calls(("repeat", {"text": "x" * 9000, "times": 1})), "é" * 9000])
    assert json.loads(kept[1]["tool_calls"][0]["function"]["arguments"]).keys() == {"left_out"}
    assert kept[3]["content"].startswith("éé")
    assert kept[3]["content"].endswith(" kept]")


async def test_of_too_many_messages_the_answer_stays(tmp_path: Path) -> None:
    many = calls(*[("repeat", {"text": "x", "times": 1})] * 100)
    kept = await remembered(tmp_path, [many, "Done."])
    assert [message["role"] for message in kept] == ["user", "assistant"]
    assert kept[1]["content"] == "Done.\n[101 messages before this one are left out: memory has no room for them]"


async def test_a_question_that_memory_has_no_room_for_is_refused_before_any_work(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS)
    model, memory = ScriptedModel(["Noted."]), Memory()
    async with agents(tmp_path, Neighbours(inference=model, memory=memory), {"question_bytes": 1000}) as app:
        with pytest.raises(BodyTooLarge, match=r"at most 1000 \(spec\.agents\.question_bytes\)"):
            await ask(app, "é" * 500)
        assert (model.requests, memory.requests) == ([], [])
        await ask(app, "é" * 400)


@pytest.mark.parametrize("session", [{}, {"session_id": "s-1"}])
async def test_a_question_too_large_for_memory_is_told_a_remedy_that_works_for_runs_and_for_chat_completions(
    tmp_path: Path, session: dict[str, str]
) -> None:
    agent_file(tmp_path, memory=REMEMBERS)
    chat = {"model": "agent/tester", "messages": [{"role": "user", "content": "x" * 2000}]}
    asked = {"/v1/agents/tester/run": {"query": "x" * 2000, **session}, "/v1/chat/completions": {**chat, "session_id": "s-2"}}
    memory = Memory()
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["Noted."]), memory=memory), {"question_bytes": 1000}) as app:
        for path, body in asked.items():
            with pytest.raises(BodyTooLarge, match="ask agent/tester by a chat completion without a session, which keeps nothing"):
                await post(app, path, body)
        assert (await post(app, "/v1/chat/completions", chat))["choices"][0]["message"]["content"] == "Noted."
    assert memory.requests == []


async def test_a_question_that_no_cutting_makes_fit_is_the_callers_413(tmp_path: Path) -> None:
    with pytest.raises(BodyTooLarge, match=r"spec\.memory\.max_turn_bytes"):
        await remembered(tmp_path, ["Done."], query="x" * 5000)


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


def test_a_call_without_an_id_in_a_history_that_a_client_wrote_is_left_out() -> None:
    user, named, nameless = {"role": "user", "content": "hi"}, {"id": "c1", "type": "function"}, {"type": "function"}
    both = {"role": "assistant", "content": "", "tool_calls": [nameless, named]}
    answered = {"role": "tool", "tool_call_id": "c1", "content": "No result was given."}
    assert mend([user, both]) == [user, {**both, "tool_calls": [named]}, answered]
    assert mend([user, {**both, "tool_calls": [nameless]}]) == [user, {"role": "assistant", "content": ""}]


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
