"""Guardrails and output schemas over patterns of several roles: everybody's words are guarded, the answer alone has the form."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import GuardrailBlocked
from tests.services.agents.world import Memory, ScriptedModel, agent_file, agents, ask, calls, events
from tests.support import Neighbours

WORDS = {"type": "content_filter", "forbidden_keywords": ["bomb"]}
FAN_OUT = {"pattern": "parallel_fan_out"}
TASKS = json.dumps({"tasks": ["one", "two"]})


async def test_a_word_that_one_of_several_workers_may_not_say_blocks_the_run(tmp_path: Path) -> None:
    agent_file(tmp_path, orchestration=FAN_OUT, guardrails={"output": [WORDS]})
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([TASKS, "The bomb.", "The bomb."]))) as app:
        result = await ask(app)
    assert (result["outcome"], result["guardrail"], result["answer"]) == ("blocked", "output: content_filter", "")


async def test_the_plan_has_its_own_form_and_the_answer_that_of_the_schema(tmp_path: Path) -> None:
    agent_file(tmp_path, orchestration=FAN_OUT, output_schema={"n": {"type": "integer"}})
    model = ScriptedModel([TASKS, "1", "2", "Three.", '{"n": 3}'])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        streamed = await events(app)
    assert [data["text"] for kind, data in streamed if kind == "token"] == ['{"n": 3}']
    assert streamed[-1][1]["data"] == {"n": 3}
    assert ["response_format" in request for request in model.requests] == [False, False, False, True, True]


async def test_a_swarm_that_a_guardrail_stops_ends_blocked(tmp_path: Path) -> None:
    spec: dict[str, Any] = {"orchestration": {"pattern": "swarm"}, "guardrails": {"output": [WORDS]}}
    agent_file(tmp_path, **spec)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["The bomb."]))) as app:
        assert (await ask(app))["outcome"] == "blocked"


async def test_an_agent_that_is_lent_a_swarms_conversation_keeps_its_own_guardrails(tmp_path: Path) -> None:
    agent_file(tmp_path, orchestration={"pattern": "swarm"}, tools=[{"name": "to_clerk", "type": "agent", "agent": "clerk"}])
    agent_file(tmp_path, "clerk", orchestration={"pattern": "swarm"}, guardrails={"output": [WORDS]})
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([calls(("to_clerk", {})), "The bomb."]))) as app:
        result = await ask(app)
    assert (result["outcome"], result["guardrail"], result["answer"]) == ("blocked", "output: content_filter", "")


LENT: dict[str, Any] = {
    "orchestration": {"pattern": "swarm"},
    "tools": [{"name": "to_clerk", "type": "agent", "agent": "clerk"}],
    "memory": {"conversational": {}},
}


def swarm(folder: Path, *guardrails: dict[str, Any]) -> None:
    """A swarm whose first agent has guardrails, and passes conversations on to one that has none."""
    agent_file(folder, guardrails={"output": list(guardrails)}, **LENT)
    agent_file(folder, "clerk")


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_guardrails_of_a_swarms_agent_hold_for_whoever_has_its_conversation(tmp_path: Path, streaming: bool) -> None:
    swarm(tmp_path, WORDS, {"type": "pii_detection"})
    memory, script = Memory(), [calls(("to_clerk", {})), "Write to ada@example.com.", "Ask bob@example.com for the bomb."]
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(script), memory=memory)) as app:
        told = await events(app, session_id="s") if streaming else []
        redacted = told[-1][1] if streaming else await ask(app, session_id="s")
        told += await events(app, session_id="s") if streaming else []
        blocked = told[-1][1] if streaming else await ask(app, session_id="s")
    assert (redacted["answer"], redacted["steps"][-1]["content"]) == ("Write to [EMAIL_REDACTED].",) * 2
    assert (blocked["outcome"], blocked["guardrail"], blocked["answer"], blocked["steps"]) == ("blocked", "output: content_filter", "", [])
    words = "".join(data["text"] for kind, data in told if kind == "token")
    assert words == ("Write to [EMAIL_REDACTED].Ask [EMAIL_REDACTED] for the" if streaming else "")
    assert all(secret not in json.dumps([told, *memory.turns.values()]) for secret in ("ada@", "bob@", "bomb"))


async def test_a_swarms_guardrail_cuts_and_counts_what_others_say(tmp_path: Path) -> None:
    swarm(tmp_path, {"type": "max_length", "max_chars": 5}, {"type": "cost_limit", "max_tokens_per_turn": 400})
    script = [calls(("to_clerk", {})), "A long answer.", "Never asked."]
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(script), memory=Memory())) as app:
        cut = await ask(app, session_id="s")
        with pytest.raises(GuardrailBlocked, match="cost_limit"):
            await ask(app, "word " * 400, session_id="s")
    assert (cut["answer"], cut["outcome"], cut["guardrail"]) == ("A lon", "truncated", "output: max_length")
