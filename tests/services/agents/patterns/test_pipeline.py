"""pipeline: stages in order, each with its own prompt and model, each given what the one before it made."""

from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidBody, NodeError, ProviderError, ProviderUnavailable
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
    plays,
    post,
    said,
)
from tests.support import Neighbours

SPEC: dict[str, Any] = {
    "model": plays("stage:draft", "stage:check", "stage:edit"),
    "prompts": {
        "system": "You write for {{ context.paper }}.",
        "templates": {
            "stage_draft": "Draft on: {{ query }}",
            "check": "Check the draft for {{ query }} ({{ draft | length }} letters).",
            "stage:edit": "Edit what was checked. The draft was: {{ stages.draft }}",
        },
    },
    "orchestration": {"pattern": "pipeline", "stages": ["draft", {"name": "check"}, "edit"]},
    "tools": [CALCULATOR],
}
TOLD: dict[str, Any] = {"context": {"paper": "the Post"}}


def scripted(draft: Any, check: Any = "Checked.", edit: Any = "Edited.") -> ScriptedModel:
    listed = {"stage:draft": draft, "stage:check": check, "stage:edit": edit}
    return ScriptedModel({stage: script if isinstance(script, list) else [script] for stage, script in listed.items()})


async def test_each_stage_is_given_what_the_one_before_it_made_and_told_its_own_prompt(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC)
    model = scripted([calls(("calculator", {"expression": "2+2"})), "Four."])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))) as app:
        result = await ask(app, "What is 2+2?", **TOLD)
    assert (result["answer"], result["outcome"]) == ("Edited.", "answered")
    assert [step["role"] for step in result["steps"]] == ["stage:draft", "stage:draft", "stage:check", "stage:edit"]
    shown = [(request["model"], said(request, "system"), said(request)) for request in model.requests[1:]]
    assert shown == [
        ("stage:draft", "You write for the Post.\n\nDraft on: What is 2+2?", "What is 2+2?"),
        ("stage:check", "You write for the Post.\n\nCheck the draft for What is 2+2? (5 letters).", "Four."),
        ("stage:edit", "You write for the Post.\n\nEdit what was checked. The draft was: Four.", "Checked."),
    ]


async def test_without_stages_there_are_three(tmp_path: Path) -> None:
    agent_file(tmp_path, orchestration={"pattern": "pipeline"})
    model = ScriptedModel(["A.", "B.", "C."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        result = await ask(app, "Why?")
    assert [step["role"] for step in result["steps"]] == ["stage:analyze", "stage:process", "stage:synthesize"]
    assert "Yours is process" in said(model.requests[1], "system")
    assert "What all this is for: Why?" in said(model.requests[1], "system")
    assert said(model.requests[2]) == "B."


@pytest.mark.parametrize(
    ("failure", "error", "said"),
    [
        (ProviderUnavailable("It is down."), ProviderUnavailable, r"The stage 'check' of agent 'tester' failed: It is down\."),
        ("", ProviderError, r"The result of the stage 'check' of agent 'tester' is empty"),
        ({"content": "Half", "finish_reason": "content_filter"}, ProviderError, r"'check' of agent 'tester' was withheld"),
    ],
)
async def test_a_stage_that_fails_ends_the_run_and_is_named(tmp_path: Path, failure: Any, error: type[NodeError], said: str) -> None:
    agent_file(tmp_path, **SPEC)
    model = scripted("Draft.", failure)
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))) as app:
        with pytest.raises(error, match=said):
            await ask(app, **TOLD)
    assert model.asked("stage:edit") == []


async def test_a_template_that_lacks_something_names_the_stage(tmp_path: Path) -> None:
    templates = {"draft": "For {{ customer.name }}"}
    agent_file(tmp_path, prompts={"templates": templates}, orchestration={"pattern": "pipeline", "stages": ["draft"]})
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([]))) as app:
        with pytest.raises(InvalidBody, match=r"The template `stage:draft` of agent 'tester' .* needs something"):
            await ask(app)


async def test_a_result_on_the_way_that_was_cut_short_is_told_in_the_outcome(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC)
    neighbours = Neighbours(inference=scripted({"content": "Half of", "finish_reason": "length"}), tools=Tools({"calculator": calculator}))
    async with agents(tmp_path, neighbours) as app:
        assert (await ask(app, **TOLD))["outcome"] == "truncated"


async def test_a_client_tools_call_in_a_stage_does_not_end_the_work(tmp_path: Path) -> None:
    tools = [{"name": "show", "type": "client"}]
    agent_file(tmp_path, tools=tools, orchestration={"pattern": "pipeline", "stages": ["draw", "tell"]})
    model = ScriptedModel(["Drawn.", calls(("show", {})), "Told."])
    body = {"model": "agent/tester", "messages": [{"role": "user", "content": "Draw."}]}
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        answer = await post(app, "/v1/chat/completions", body)
    assert answer["choices"][0]["message"]["content"] == "Told."


async def test_memory_keeps_the_question_and_the_answer(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC | {"memory": {"conversational": {}}})
    memory = Memory()
    model = scripted("Draft.", edit=[calls(("calculator", {"expression": "2+2"})), "Edited."])
    neighbours = Neighbours(inference=model, tools=Tools({"calculator": calculator}), memory=memory)
    async with agents(tmp_path, neighbours) as app:
        await ask(app, "Write.", session_id="s", **TOLD)
    assert memory.turns["tester", "s"] == [[{"role": "user", "content": "Write."}, {"role": "assistant", "content": "Edited."}]]


@pytest.mark.parametrize(("narrate", "heard"), [(False, ["Edited."]), (True, ["Draft.", "Checked.", "Edited."])])
async def test_the_last_stage_is_heard_and_the_others_where_the_agent_narrates(tmp_path: Path, narrate: bool, heard: list[str]) -> None:
    agent_file(tmp_path, **SPEC | {"orchestration": SPEC["orchestration"] | {"narrate": narrate}})
    async with agents(tmp_path, Neighbours(inference=scripted("Draft."), tools=Tools({"calculator": calculator}))) as app:
        told = await events(app, **TOLD)
    assert [data["text"] for kind, data in told if kind == "token"] == heard
    assert [data["role"] for kind, data in told if kind == "step"] == ["stage:draft", "stage:check", "stage:edit"]
