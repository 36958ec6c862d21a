"""Guardrails and output schemas over patterns of several roles: everybody's words are guarded, the answer alone has the form."""

import json
from pathlib import Path
from typing import Any

from tests.services.agents.world import ScriptedModel, agent_file, agents, ask, calls, events
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
    assert (result["outcome"], result["answer"]) == ("blocked", "")
