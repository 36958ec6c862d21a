"""plan_and_execute: the plan is structured, its steps are carried out with tools, what fails is planned around."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import BadRequest, ProviderError, ProviderUnavailable
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
    "model": plays("planner", "worker", "synthesizer"),
    "orchestration": {"pattern": "plan_and_execute"},
    "tools": [CALCULATOR],
}


def plan(*steps: str) -> str:
    return json.dumps({"steps": steps})


def scripted(planner: list[Any], worker: list[Any], synthesizer: list[Any]) -> ScriptedModel:
    return ScriptedModel({"planner": planner, "worker": worker, "synthesizer": synthesizer})


def around(model: ScriptedModel, **more: Any) -> Neighbours:
    return Neighbours(inference=model, tools=Tools({"calculator": calculator}), **more)


async def test_steps_are_planned_carried_out_with_tools_and_made_into_an_answer(tmp_path: Path) -> None:
    agent_file(tmp_path, prompts={"system": "You are exact."}, **SPEC)
    worker = [calls(("calculator", {"expression": "17*23"})), "391", "391 is odd."]
    model = scripted([plan("Multiply 17 by 23.", "Say whether it is odd.")], worker, ["Odd: 391."])
    async with agents(tmp_path, around(model)) as app:
        result = await ask(app, "Is 17*23 odd?")
    assert (result["answer"], result["outcome"]) == ("Odd: 391.", "answered")
    assert [(step["role"], step.get("task")) for step in result["steps"]] == [
        ("planner", None),
        ("worker", "Multiply 17 by 23."),
        ("worker", "Multiply 17 by 23."),
        ("worker", "Say whether it is odd."),
        ("synthesizer", None),
    ]
    assert [step["step"] for step in result["steps"]] == [1, 2, 3, 4, 5]
    assert result["steps"][1]["tool_calls"][0]["result"] == 391
    [planned] = model.asked("planner")
    assert "tools" not in planned
    assert "You are exact." in said(planned, "system")
    assert "- calculator: The calculator." in said(planned, "system")
    assert "Multiply 17 by 23.\nResult: 391" in said(model.asked("worker")[2])
    assert "Is 17*23 odd?" in said(model.asked("worker")[2])
    assert "391 is odd." in said(model.asked("synthesizer")[0])
    assert {row["model"]: row["calls"] for row in result["usage"]["by_model"]} == {"planner": 1, "worker": 3, "synthesizer": 1}


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        ("First I would multiply.", "no JSON object with a list"),
        ('{"steps": "multiply"}', "no JSON object with a list"),
        (plan("a", ""), "must be a text"),
        (plan(*"abc"), "it has 3 entries, 2 are allowed"),
    ],
)
async def test_a_plan_that_cannot_be_read_is_asked_for_once_more(tmp_path: Path, first: str, problem: str) -> None:
    agent_file(tmp_path, **SPEC | {"orchestration": {"pattern": "plan_and_execute", "max_iterations": 2}})
    model = scripted([first, f"<think>{{hm}}</think> Here: ```json\n{plan('Do it.')}\n```"], ["Done."], ["All done."])
    async with agents(tmp_path, around(model)) as app:
        result = await ask(app)
    assert result["answer"] == "All done."
    repair = model.asked("planner")[1]["messages"]
    assert (repair[-2], problem in repair[-1]["content"]) == ({"role": "assistant", "content": first}, True)


async def test_a_planner_that_plans_nothing_twice_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC)
    async with agents(tmp_path, around(scripted(["No.", "No!"], [], []))) as app:
        with pytest.raises(ProviderError, match=r"planner of agent 'tester' gave no plan, twice: .*give the role `planner` a better model"):
            await ask(app)


@pytest.mark.parametrize(
    "failure", ["FAILED: The page is gone.", BadRequest("The page is gone."), {"content": "", "finish_reason": "stop"}]
)
async def test_a_step_that_fails_is_planned_around(tmp_path: Path, failure: Any) -> None:
    agent_file(tmp_path, **SPEC)
    planner = [plan("Get the title.", "Read the page.", "Sum up."), plan("Read the copy.", "Sum up.")]
    model = scripted(planner, ["A title.", failure, "The copy says so.", "A sum."], ["So it says."])
    async with agents(tmp_path, around(model)) as app:
        result = await ask(app)
    assert (result["answer"], result["outcome"]) == ("So it says.", "answered")
    again = said(model.asked("planner")[1])
    assert "Get the title.\nResult: A title." in again
    assert "Read the page.\nFailed: " in again
    tasks = [step["task"] for step in result["steps"] if step["role"] == "worker"]
    assert tasks == ["Get the title.", "Read the page.", "Read the copy.", "Sum up."]
    shown = [step.get("error") for step in result["steps"] if step.get("task") == "Read the page."]
    assert shown == ["The page is gone." if isinstance(failure, BadRequest) else None]


async def test_plans_are_changed_a_few_times_and_then_the_answer_says_what_is_missing(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC)
    model = scripted([plan("Try.", "Tell.")] * 4, ["FAILED: no"] * 4, ["I could not."])
    async with agents(tmp_path, around(model)) as app:
        result = await ask(app)
    assert (result["answer"], result["outcome"]) == ("I could not.", "max_iterations")
    assert "after 4 steps and 3 changes of the plan. Not done: Try.; Tell." in said(model.asked("synthesizer")[0])


async def test_the_steps_of_all_plans_together_are_bounded_by_max_iterations(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC | {"orchestration": {"pattern": "plan_and_execute", "max_iterations": 3}})
    model = scripted([plan("a", "b"), plan("c")], ["A.", "FAILED: no", "FAILED: no"], ["Partly."])
    async with agents(tmp_path, around(model)) as app:
        result = await ask(app)
    assert (result["outcome"], len(model.asked("worker"))) == ("max_iterations", 3)
    assert "at most 1 entries" in said(model.asked("planner")[1], "system")


async def test_workers_none_of_whose_models_answers_end_the_run_with_what_they_met(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC)
    model = scripted([plan("Try.")] * 4, [ProviderUnavailable("down")] * 4, [])
    async with agents(tmp_path, around(model)) as app:
        with pytest.raises(ProviderUnavailable, match=r"No worker of agent 'tester' could do its task\. 'Try\.': down"):
            await ask(app)


async def test_what_needs_no_work_is_answered_at_once(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC)
    model = scripted([plan()], [], ["Hello."])
    async with agents(tmp_path, around(model)) as app:
        assert (await ask(app, "Hi."))["answer"] == "Hello."
    assert model.asked("synthesizer")[0]["messages"] == [{"role": "user", "content": "Hi."}]


async def test_memory_keeps_the_question_and_the_answer_and_the_planner_sees_them_the_next_time(tmp_path: Path) -> None:
    agent_file(tmp_path, memory={"conversational": {}}, **SPEC)
    model, memory = scripted([plan("Do it."), plan()], ["Done."], ["First.", "Second."]), Memory()
    async with agents(tmp_path, around(model, memory=memory)) as app:
        await ask(app, "One?", session_id="s")
        await ask(app, "Two?", session_id="s")
    assert memory.turns["tester", "s"][0] == [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "First."}]
    assert [message["content"] for message in model.asked("planner")[1]["messages"][1:]] == ["One?", "First.", "Two?"]


async def test_only_the_answer_is_heard_but_every_step_and_tool_is_told(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC)
    model = scripted([plan("Add.")], [calls(("calculator", {"expression": "2+2"})), "Four it is."], ["It is 4."])
    async with agents(tmp_path, around(model)) as app:
        told = await events(app)
    assert "".join(data["text"] for kind, data in told if kind == "token") == "It is 4."
    roles = [(kind, data["role"]) for kind, data in told if kind not in ("token", "done")]
    assert roles == [
        ("step", "planner"),
        ("step", "worker"),
        ("tool_call", "worker"),
        ("tool_result", "worker"),
        ("step", "worker"),
        ("step", "synthesizer"),
    ]
    assert {data["step"] for kind, data in told if kind in ("tool_call", "tool_result")} == {2}


async def test_an_agent_that_narrates_is_heard_throughout(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC | {"orchestration": {"pattern": "plan_and_execute", "narrate": True}})
    async with agents(tmp_path, around(scripted([plan("Add.")], ["Four."], ["It is 4."]))) as app:
        told = await events(app)
    heard = {data["step"]: "" for kind, data in told if kind == "token"}
    for kind, data in told:
        heard |= {data["step"]: heard[data["step"]] + data["text"]} if kind == "token" else {}
    assert list(heard.values()) == [plan("Add."), "Four.", "It is 4."]


async def test_a_chat_completion_streams_the_answer_alone_and_the_answers_format_is_not_asked_of_the_planner(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC)
    model = scripted([plan("Add.")], ["Four."], ["It is 4."])
    body = {"model": "agent/tester", "messages": [{"role": "user", "content": "2+2?"}], "max_tokens": 9, "temperature": 0}
    async with agents(tmp_path, around(model)) as app:
        answer = await post(app, "/v1/chat/completions", body)
    assert answer["choices"][0]["message"]["content"] == "It is 4."
    assert [(request.get("max_tokens"), request["temperature"]) for request in model.requests] == [(None, 0), (None, 0), (9, 0)]


async def test_templates_of_the_file_tell_the_roles_what_to_do(tmp_path: Path) -> None:
    templates = {
        "planner": "Plan like {{ agent.name }}.",
        "worker": "Work on {{ task }} for {{ query }}.",
        "synthesizer": "Weigh {{ results | length }} results.",
    }
    agent_file(tmp_path, prompts={"templates": templates}, **SPEC)
    model = scripted([plan("Add.")], ["Four."], ["It is 4."])
    async with agents(tmp_path, around(model)) as app:
        await ask(app, "2+2?")
    first, second, third = (said(request, "system") for request in model.requests)
    assert first.startswith("Plan like tester.")
    assert '{"steps": ["...", "..."]}' in first
    assert (second, third) == ("Work on Add. for 2+2?.", "Weigh 1 results.")
