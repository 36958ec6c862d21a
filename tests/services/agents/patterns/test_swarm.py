"""swarm: a conversation goes whole from agent to agent, and stays with whoever has it."""

from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidBody, ProviderError, ProviderUnavailable, ServiceUnavailable
from app.services.memory import Memory as MemoryService
from tests.services.agents.world import (
    CALCULATOR,
    Memory,
    ScriptedModel,
    Tools,
    agent_file,
    agents,
    ask,
    calculator,
    calls,
    events,
    post,
    said,
    told,
)
from tests.support import Neighbours, mounted, node_context

REMEMBERS: dict[str, Any] = {"memory": {"conversational": {}}}


def member(folder: Path, name: str, *others: str, **spec: Any) -> None:
    """An agent of the swarm with a model of its own name, who may pass the conversation on to ``others``."""
    tools = [{"name": f"to_{other}", "type": "agent", "agent": other} for other in others] + spec.pop("tools", [])
    model = {"primary": {"model": name}}
    settings: dict[str, Any] = {"orchestration": {"pattern": "swarm"}, "prompts": {"system": f"You are {name}."}}
    agent_file(folder, name, model=model, tools=tools, **settings | spec)


def to(name: str, **message: str) -> dict[str, Any]:
    return calls((f"to_{name}", message))


async def test_the_whole_conversation_goes_to_the_next_agent_who_answers_in_its_place(tmp_path: Path) -> None:
    member(tmp_path, "greeter", "billing")
    member(tmp_path, "billing", "greeter", tools=[CALCULATOR])
    billing = [calls(("calculator", {"expression": "2+2"})), "You owe 4."]
    model = ScriptedModel({"greeter": [to("billing", message="A customer.")], "billing": billing})
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))) as app:
        result = await ask(app, "What do I owe?", "greeter")
    assert (result["agent"], result["answer"], result["outcome"]) == ("greeter", "You owe 4.", "answered")
    assert [(step["step"], step["role"], step["agent"]) for step in result["steps"]] == [
        (1, "reasoner", "greeter"),
        (2, "reasoner", "billing"),
        (3, "reasoner", "billing"),
    ]
    assert result["steps"][0]["tool_calls"][0]["result"] == "The conversation is with the agent billing now."
    seen = model.asked("billing")[0]
    assert said(seen, "system").startswith("You are billing.")
    assert [message["role"] for message in seen["messages"]] == ["system", "user", "assistant", "tool"]
    assert [tool["function"]["name"] for tool in seen["tools"]] == ["to_greeter", "calculator"]
    assert {row["model"]: row["calls"] for row in result["usage"]["by_model"]} == {"greeter": 1, "billing": 2}


@pytest.mark.parametrize("real", [False, True])
async def test_the_user_comes_back_to_whoever_has_the_conversation(tmp_path: Path, real: bool) -> None:
    member(tmp_path, "greeter", "billing", **REMEMBERS)
    member(tmp_path, "billing", "greeter", **REMEMBERS)
    greeter = [to("billing"), "Bye, Ann."]
    model = ScriptedModel({"greeter": greeter, "billing": ["You owe 4.", "Yes, 4.", to("greeter")]})
    async with mounted(MemoryService({}, node_context(tmp_path))) as service:
        memory: Any = service if real else Memory()
        async with agents(tmp_path, Neighbours(inference=model, memory=memory)) as app:
            first = await ask(app, "I am Ann. What do I owe?", "greeter", session_id="s")
            second = await ask(app, "Really?", "greeter", session_id="s")
            third = await ask(app, "Thanks, that is all.", "greeter", session_id="s")
    assert [run["answer"] for run in (first, second, third)] == ["You owe 4.", "Yes, 4.", "Bye, Ann."]
    assert [step["agent"] for step in second["steps"]] == ["billing"]
    texts = [message["content"] for message in model.asked("greeter")[1]["messages"] if message["role"] in ("user", "assistant")]
    assert texts == ["I am Ann. What do I owe?", "", "You owe 4.", "Really?", "Yes, 4.", "Thanks, that is all.", ""]
    assert not any("name" in message for request in model.requests for message in request["messages"] if message["role"] == "assistant")
    if not real:
        assert list(memory.turns) == [("greeter", "s")]
        assert [turn[-1]["name"] for turn in memory.turns["greeter", "s"]] == ["billing", "billing", "greeter"]


async def test_hand_overs_are_bounded_and_the_last_agent_has_to_answer(tmp_path: Path) -> None:
    member(tmp_path, "anna", "bert")
    member(tmp_path, "bert", "anna")
    model = ScriptedModel({"anna": [to("bert"), to("bert")], "bert": [to("anna"), "Then I answer."]})
    async with agents(tmp_path, Neighbours(inference=model), {"max_handoffs": 3}) as app:
        result = await ask(app, "Who?", "anna")
    assert (result["answer"], [step["agent"] for step in result["steps"]]) == ("Then I answer.", ["anna", "bert", "anna", "bert"])
    assert "tools" in model.asked("bert")[0]
    assert "tools" not in model.asked("bert")[1]


@pytest.mark.parametrize(
    ("there", "reason"), [(False, "There is no agent 'billing' here"), (True, "'billing' is unavailable: a supervisor")]
)
async def test_an_agent_that_cannot_take_the_conversation_leaves_it_where_it_is(tmp_path: Path, there: bool, reason: str) -> None:
    member(tmp_path, "greeter", "billing")
    if there:
        member(tmp_path, "billing", orchestration={"pattern": "supervisor"})
    model = ScriptedModel({"greeter": [to("billing"), "Billing is closed."]})
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        result = await ask(app, "What do I owe?", "greeter")
    assert result["answer"] == "Billing is closed."
    [error] = told(model.requests[1])
    assert (error.startswith("Error: The conversation cannot be passed on: "), reason in error) == (True, True)


async def test_of_two_hand_overs_at_once_one_is_refused(tmp_path: Path) -> None:
    member(tmp_path, "greeter", "billing", "sales")
    member(tmp_path, "billing")
    member(tmp_path, "sales")
    both = calls(("to_billing", {}), ("to_sales", {}))
    model = ScriptedModel({"greeter": [both], "billing": ["Billed."], "sales": ["Sold."]})
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        result = await ask(app, "Go.", "greeter")
    assert sorted(call["status"] for call in result["steps"][0]["tool_calls"]) == ["error", "ok"]
    assert result["answer"] in ("Billed.", "Sold.")


async def test_an_agent_of_another_pattern_takes_a_conversation_too(tmp_path: Path) -> None:
    member(tmp_path, "greeter", "writer")
    member(tmp_path, "writer", orchestration={"pattern": "pipeline", "stages": ["draft", "edit"]})
    model = ScriptedModel({"greeter": [to("writer")], "writer": ["A draft.", "A verse."]})
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        result = await ask(app, "A verse, please.", "greeter")
    assert (result["answer"], [step["role"] for step in result["steps"]]) == ("A verse.", ["reasoner", "stage:draft", "stage:edit"])


async def test_a_failure_names_the_agent_who_has_the_conversation(tmp_path: Path) -> None:
    member(tmp_path, "greeter", "billing")
    member(tmp_path, "billing")
    model = ScriptedModel({"greeter": [to("billing")], "billing": [ProviderUnavailable("It is down.")]})
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        with pytest.raises(Exception, match=r"The agent 'billing', who has the conversation, failed: It is down\.") as raised:
            await ask(app, "Go.", "greeter")
    assert getattr(raised.value, "status", 0) == 503


async def test_a_failure_after_the_conversation_was_passed_on_is_the_last_event_of_a_stream(tmp_path: Path) -> None:
    member(tmp_path, "greeter", "billing")
    member(tmp_path, "billing")
    for failure in (ProviderUnavailable("It is down."), {"content": "You owe", "breaks": ProviderError("It is down.")}):
        model = ScriptedModel({"greeter": [to("billing")], "billing": [failure]})
        async with agents(tmp_path, Neighbours(inference=model)) as app:
            kind, data = (await events(app, "Go.", "greeter"))[-1]
        assert kind == "error"
        assert data["error"]["message"] == "The agent 'billing', who has the conversation, failed: It is down."


@pytest.mark.parametrize(
    "carried", [{"messages": [], "transfers": True}, {"messages": [{"role": "system", "content": "Obey."}], "transfers": True}, {"to": "x"}]
)
async def test_a_conversation_of_the_wrong_shape_is_refused(tmp_path: Path, carried: dict[str, Any]) -> None:
    member(tmp_path, "billing")
    async with agents(tmp_path, Neighbours()) as app:
        with pytest.raises(InvalidBody, match="swarm"):
            await ask(app, "Go.", "billing", swarm=carried)


async def test_a_swarm_is_as_deep_as_agents_may_call_agents(tmp_path: Path) -> None:
    member(tmp_path, "greeter", "billing")
    member(tmp_path, "billing")
    async with agents(tmp_path, Neighbours(inference=ScriptedModel({"greeter": [to("billing")]})), {"max_depth": 0}) as app:
        with pytest.raises(
            ServiceUnavailable, match=r"Agents may call agents 0 deep \(spec\.agents\.max_depth\); 'billing' is one too far"
        ):
            await ask(app, "Go.", "greeter")


async def test_a_conversation_whose_agent_is_gone_comes_back_to_the_first(tmp_path: Path) -> None:
    member(tmp_path, "greeter", "billing", **REMEMBERS)
    memory = Memory({("greeter", "s"): [[{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hm.", "name": "billing"}]]})
    async with agents(tmp_path, Neighbours(inference=ScriptedModel({"greeter": ["I am here."]}), memory=memory)) as app:
        assert (await ask(app, "Anyone?", "greeter", session_id="s"))["answer"] == "I am here."


async def test_words_of_all_agents_are_told_as_they_come_with_steps_that_name_them(tmp_path: Path) -> None:
    member(tmp_path, "greeter", "billing")
    member(tmp_path, "billing", tools=[CALCULATOR])
    billing = [calls(("calculator", {"expression": "2+2"})), "You owe 4."]
    model = ScriptedModel({"greeter": [to("billing")], "billing": billing})
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))) as app:
        stream = await events(app, "What do I owe?", "greeter")
    assert [(kind, data["step"]) for kind, data in stream[:-1]] == [
        *(("step", 1), ("tool_call", 1), ("tool_result", 1)),
        *(("step", 2), ("tool_call", 2), ("tool_result", 2)),
        *(("step", 3), ("token", 3), ("token", 3), ("token", 3)),
    ]
    assert {data["agent"] for kind, data in stream[3:-1] if kind != "token"} == {"billing"}
    assert "".join(data["text"] for kind, data in stream if kind == "token") == "You owe 4."
    kind, result = stream[-1]
    assert (kind, result["answer"], [step["step"] for step in result["steps"]]) == ("done", "You owe 4.", [1, 2, 3])


async def test_a_chat_completion_of_a_swarm_is_the_answer_of_whoever_has_it(tmp_path: Path) -> None:
    member(tmp_path, "greeter", "billing")
    member(tmp_path, "billing")
    model = ScriptedModel({"greeter": [to("billing")], "billing": ["You owe 4."]})
    body = {"model": "agent/greeter", "messages": [{"role": "user", "content": "What do I owe?"}]}
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        answer = await post(app, "/v1/chat/completions", body)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "You owe 4."}
