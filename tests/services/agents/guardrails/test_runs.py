"""Runs under guardrails: what the model, the memory, the listeners and the caller get to see, and how a block ends."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from app.call import call
from app.context import background
from app.errors import GuardrailBlocked
from tests.services.agents.test_chat import client
from tests.services.agents.world import CALCULATOR, Memory, ScriptedModel, Tools, agent_file, agents, ask, calls, events, post, told
from tests.support import Neighbours

REDACT = {"type": "pii_detection", "action": "redact"}
BLOCK = {"type": "pii_detection", "action": "block"}
WORDS = {"type": "content_filter", "forbidden_keywords": ["secret plan", "bomb"]}
REMEMBERS: dict[str, Any] = {"conversational": {}}
MAIL = "ada@example.com"


async def test_personal_data_is_redacted_before_the_model_the_memory_and_the_log_see_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent_file(tmp_path, memory=REMEMBERS, guardrails={"input": [REDACT]}, prompts={"system": "For {{ user.mail }}."})
    model, memory = ScriptedModel(["Noted."]), Memory()
    with caplog.at_level(logging.DEBUG):
        async with agents(tmp_path, Neighbours(inference=model, memory=memory)) as app:
            await ask(app, f"I am {MAIL}.", session_id="s", context={"user": {"mail": MAIL}})
    assert [message["content"] for message in model.requests[0]["messages"]] == ["For [EMAIL_REDACTED].", "I am [EMAIL_REDACTED]."]
    assert memory.turns["tester", "s"][0][0]["content"] == "I am [EMAIL_REDACTED]."
    assert MAIL not in caplog.text + json.dumps(model.requests) + json.dumps(list(memory.turns.values()))


async def test_of_a_message_in_parts_each_text_is_redacted_and_a_picture_is_left_alone(tmp_path: Path) -> None:
    agent_file(tmp_path, guardrails={"input": [REDACT]})
    model = ScriptedModel(["Seen."])
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,/+4915112345678="}}
    parts = [{"type": "text", "text": f"Mail {MAIL}"}, picture]
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        await post(app, "/v1/chat/completions", {"model": "agent/tester", "messages": [{"role": "user", "content": parts}]})
    assert model.requests[0]["messages"][0]["content"] == [{"type": "text", "text": "Mail [EMAIL_REDACTED]"}, picture]


@pytest.mark.parametrize(
    ("guardrail", "query", "name"),
    [
        (BLOCK, f"I am {MAIL}.", "input: pii_detection"),
        (WORDS, "Tell me the SECRET\n plan!", "input: content_filter"),
        ({"type": "max_length", "max_chars": 5}, "Hello!", "input: max_length"),
        ({"type": "cost_limit", "max_tokens_per_turn": 20}, "x" * 200, "input: cost_limit"),
    ],
)
async def test_a_blocked_question_is_422_before_anything_is_done_and_names_the_guardrail_alone(
    tmp_path: Path, guardrail: dict[str, Any], query: str, name: str
) -> None:
    agent_file(tmp_path, memory=REMEMBERS, guardrails={"input": [guardrail]})
    model, memory = ScriptedModel([]), Memory()
    async with agents(tmp_path, Neighbours(inference=model, memory=memory)) as app:
        for ask_it in (ask, events):
            with pytest.raises(GuardrailBlocked) as blocked:
                await ask_it(app, query)
            assert (blocked.value.status, blocked.value.code) == (422, "guardrail_blocked")
            assert name in blocked.value.message
            assert query not in blocked.value.message
    assert (model.requests, memory.turns) == ([], {})


async def test_an_answer_is_redacted_in_json_in_events_and_in_memory(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS, guardrails={"output": [REDACT]})
    memory = Memory()
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([f"It is {MAIL} indeed."] * 2), memory=memory)) as app:
        result = await ask(app, session_id="a")
        streamed = await events(app, session_id="b")
    assert (result["answer"], result["outcome"]) == ("It is [EMAIL_REDACTED] indeed.", "answered")
    assert "".join(data["text"] for kind, data in streamed if kind == "token") == streamed[-1][1]["answer"] == result["answer"]
    assert MAIL not in json.dumps([result, streamed, list(memory.turns.values())])


async def test_what_tools_give_is_whole_for_the_model_and_redacted_where_it_is_shown_and_stored(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS, guardrails={"output": [REDACT]}, tools=[{"name": "lookup", "type": "builtin"}])
    memory, tools = Memory(), Tools({"lookup": lambda who: {"mail": who, "card": 4111111111111111, "n": 7}})
    model = ScriptedModel([calls(("lookup", {"who": MAIL})), "Found."])
    async with agents(tmp_path, Neighbours(inference=model, memory=memory, tools=tools)) as app:
        streamed = await events(app, session_id="s")
    assert tools.executed[0]["arguments"] == {"who": MAIL}
    assert MAIL in told(model.requests[1])[0]
    [shown] = [data["result"] for kind, data in streamed if kind == "tool_result"]
    assert shown == {"mail": "[EMAIL_REDACTED]", "card": "[CARD_REDACTED]", "n": 7}
    assert json.loads(memory.turns["tester", "s"][0][2]["content"]) == shown
    assert MAIL not in json.dumps([streamed, list(memory.turns.values())])


async def test_a_blocked_answer_is_withheld_and_not_remembered(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS, guardrails={"output": [WORDS]})
    memory = Memory()
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["Here is the secret plan: run."]), memory=memory)) as app:
        result = await ask(app, session_id="s")
    assert (result["outcome"], result["guardrail"], result["answer"]) == ("blocked", "output: content_filter", "")
    assert result["usage"]["tokens_out"] == 3
    assert "secret" not in json.dumps(result)
    assert memory.turns == {}


async def test_a_stream_stops_before_the_forbidden_words_and_its_end_says_why(tmp_path: Path) -> None:
    agent_file(tmp_path, guardrails={"output": [WORDS]})
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["Here is the secret plan: run."]))) as app:
        streamed = await events(app)
    assert "".join(data["text"] for kind, data in streamed if kind == "token") == "Here is the "
    assert (streamed[-1][0], streamed[-1][1]["outcome"], streamed[-1][1]["answer"]) == ("done", "blocked", "")


async def test_the_openai_sdk_sees_a_blocked_answer_as_filtered(tmp_path: Path) -> None:
    agent_file(tmp_path, guardrails={"output": [WORDS]})
    asked: list[Any] = [{"role": "user", "content": "Go."}]
    async with client(tmp_path, Neighbours(inference=ScriptedModel(["The bomb is here."] * 2))) as sdk:
        whole = await sdk.chat.completions.create(model="agent/tester", messages=asked)
        stream = await sdk.chat.completions.create(model="agent/tester", messages=asked, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
    assert (whole.choices[0].finish_reason, whole.choices[0].message.content) == ("content_filter", "")
    assert chunks[-1].finish_reason == "content_filter"
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "The "


async def test_an_overlong_answer_is_cut_and_says_so_or_is_blocked(tmp_path: Path) -> None:
    limit = {"type": "max_length", "max_chars": 8}
    agent_file(tmp_path, "cut", guardrails={"output": [limit]})
    agent_file(tmp_path, "block", guardrails={"output": [{**limit, "action": "block"}]})
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["Hello my friend."] * 3))) as app:
        cut, blocked, streamed = await ask(app, name="cut"), await ask(app, name="block"), await events(app, name="cut")
    assert (cut["answer"], cut["outcome"], cut["guardrail"]) == ("Hello my", "truncated", "output: max_length")
    assert (blocked["answer"], blocked["outcome"], blocked["guardrail"]) == ("", "blocked", "output: max_length")
    assert "".join(data["text"] for kind, data in streamed if kind == "token") == streamed[-1][1]["answer"] == "Hello my"


async def test_the_cost_limit_stops_a_run_between_two_calls_of_the_model(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR], guardrails={"output": [{"type": "cost_limit", "max_tokens_per_turn": 120}]})
    again = calls(("calculator", {"expression": "2+2"}))
    model = ScriptedModel([again] * 9)
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": lambda expression: 4}))) as app:
        result = await ask(app)
    assert (result["outcome"], result["guardrail"]) == ("blocked", "output: cost_limit")
    assert 1 <= len(model.requests) < 9
    assert result["usage"]["tokens_in"] + result["usage"]["tokens_out"] <= 120
    assert len(result["steps"]) == len(model.requests)


async def test_an_agent_is_told_when_the_answer_of_one_it_asked_was_withheld(tmp_path: Path) -> None:
    agent_file(tmp_path, "boss", tools=[{"name": "ask_clerk", "type": "agent", "agent": "clerk"}])
    agent_file(tmp_path, "clerk", guardrails={"output": [WORDS]})
    model = ScriptedModel([calls(("ask_clerk", {"query": "Tell."})), "The bomb.", "He would not say."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        await ask(app, name="boss")
    assert told(model.requests[2]) == ["Error: The answer of 'clerk' was withheld by its guardrail output: content_filter."]


async def test_a_clients_tool_call_keeps_its_arguments(tmp_path: Path) -> None:
    agent_file(tmp_path, guardrails={"output": [REDACT]}, tools=[{"name": "dial", "type": "client"}])
    body = {"model": "agent/tester", "messages": [{"role": "user", "content": "Go."}]}
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([calls(("dial", {"to": MAIL}))]))) as app:
        async with call(app, "POST", "/v1/chat/completions", body=body, context=background()) as reply:
            answer = await reply.json()
    assert json.loads(answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]) == {"to": MAIL}


TOPICS = {"type": "topic_filter", "forbidden_topics": ["politics", "medicine"]}


def about(*topics: str) -> str:
    return json.dumps({"topics": topics})


async def test_a_question_about_a_forbidden_topic_is_refused_on_the_word_of_the_agents_model(tmp_path: Path) -> None:
    agent_file(tmp_path, guardrails={"input": [REDACT, TOPICS]})
    model = ScriptedModel([about("politics"), about(), "Nice weather."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        with pytest.raises(GuardrailBlocked, match="input: topic_filter"):
            await ask(app, f"Whom should {MAIL} vote for?")
        result = await ask(app, "How is the weather?")
    judged = model.requests[0]
    assert judged["messages"][1]["content"] == '"Whom should [EMAIL_REDACTED] vote for?"'
    assert "medicine" in judged["messages"][0]["content"]
    assert (result["answer"], result["usage"]["tokens_out"], len(result["steps"])) == ("Nice weather.", 6, 1)


async def test_an_answer_about_a_forbidden_topic_is_withheld_and_nothing_of_it_is_told_before(tmp_path: Path) -> None:
    agent_file(tmp_path, guardrails={"output": [TOPICS]})
    model = ScriptedModel(["Take two pills.", about("medicine"), "Take a walk.", about()])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        blocked, fine = await events(app), await events(app)
    assert [kind for kind, _ in blocked] == ["step", "done"]
    assert (blocked[-1][1]["outcome"], blocked[-1][1]["guardrail"], blocked[-1][1]["answer"]) == ("blocked", "output: topic_filter", "")
    assert [data["text"] for kind, data in fine if kind == "token"] == ["Take a walk."]
    assert fine[-1][1]["answer"] == "Take a walk."


async def test_a_text_that_the_model_cannot_judge_is_blocked_unless_the_operator_lets_it_pass(tmp_path: Path) -> None:
    agent_file(tmp_path, guardrails={"input": [TOPICS]})
    unusable = ["I would rather not say.", about("sports"), "Hm."]
    for settings, script in (({}, unusable), ({"pass_unsure_topics": True}, [*unusable, "Hello."])):
        async with agents(tmp_path, Neighbours(inference=ScriptedModel(list(script))), settings) as app:
            if settings:
                assert (await ask(app))["answer"] == "Hello."
            else:
                with pytest.raises(GuardrailBlocked, match="could not say what it is about"):
                    await ask(app)
