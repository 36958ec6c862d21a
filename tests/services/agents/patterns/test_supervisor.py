"""supervisor: other agents are asked, in the order and as often as the supervisor sees fit, until it answers."""

from pathlib import Path
from typing import Any

import pytest

from app.errors import AgentUnavailable, ProviderUnavailable
from tests.services.agents.world import Memory, ScriptedModel, agent_file, agents, ask, calls, events, plays, post, said, told
from tests.support import Neighbours

TOOLS = [
    {"name": "ask_writer", "type": "agent", "agent": "writer", "description": "Writes verses."},
    {"name": "ask_critic", "type": "agent", "agent": "critic", "description": "Judges verses."},
]
SPEC: dict[str, Any] = {"model": plays("supervisor"), "orchestration": {"pattern": "supervisor"}, "tools": TOOLS}


def team(folder: Path, **spec: Any) -> None:
    agent_file(folder, "lead", **SPEC | spec)
    agent_file(folder, "writer", model={"primary": {"model": "writer"}})
    agent_file(folder, "critic", model={"primary": {"model": "critic"}})


def asking(tool: str, query: str) -> tuple[str, dict[str, str]]:
    return tool, {"query": query}


async def test_a_supervisor_delegates_looks_at_the_result_and_asks_again_until_it_answers(tmp_path: Path) -> None:
    team(tmp_path, memory={"conversational": {}})
    supervisor = [
        calls(asking("ask_writer", "A verse on rain.")),
        calls(asking("ask_critic", "Judge: Rain, rain.")),
        calls(asking("ask_writer", "Longer, on rain.")),
        "Here: Rain, rain, on the lane.",
    ]
    model = ScriptedModel({"supervisor": supervisor, "writer": ["Rain, rain.", "Rain, rain, on the lane."], "critic": ["Too short."]})
    memory = Memory()
    async with agents(tmp_path, Neighbours(inference=model, memory=memory)) as app:
        result = await ask(app, "A verse on rain, please.", "lead", session_id="s")
    assert (result["answer"], result["outcome"]) == ("Here: Rain, rain, on the lane.", "answered")
    assert [step["role"] for step in result["steps"]] == ["supervisor"] * 4
    assert told(model.asked("supervisor")[3]) == ["Rain, rain.", "Too short.", "Rain, rain, on the lane."]
    assert said(model.asked("writer")[1]) == "Longer, on rain."
    assert "- ask_writer: Writes verses.\n- ask_critic: Judges verses." in said(model.requests[0], "system")
    assert {row["model"]: row["calls"] for row in result["usage"]["by_model"]} == {"supervisor": 4, "writer": 2, "critic": 1}
    assert [message["role"] for message in memory.turns["lead", "s"][0]] == ["user", *["assistant", "tool"] * 3, "assistant"]


async def test_an_agent_that_fails_or_is_not_there_is_told_to_the_supervisor_who_goes_on(tmp_path: Path) -> None:
    team(tmp_path)
    (tmp_path / "config" / "agents" / "critic.agent.yaml").unlink()
    supervisor = [calls(asking("ask_writer", "Go."), asking("ask_critic", "Go.")), "Nobody could."]
    model = ScriptedModel({"supervisor": supervisor, "writer": [ProviderUnavailable("It is down.")]})
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        result = await ask(app, "A verse.", "lead")
    assert result["answer"] == "Nobody could."
    first, second = told(model.asked("supervisor")[1])
    assert (first, second.startswith("Error: There is no agent 'critic' here")) == ("Error: It is down.", True)


async def test_a_client_tools_call_of_the_supervisor_ends_a_chat_completion(tmp_path: Path) -> None:
    team(tmp_path, tools=[*TOOLS, {"name": "show", "type": "client"}])
    model = ScriptedModel({"supervisor": [calls(asking("ask_writer", "Go.")), calls(("show", {"verse": "Rain."}))], "writer": ["Rain."]})
    body = {"model": "agent/lead", "messages": [{"role": "user", "content": "Show me a verse."}]}
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        [choice] = (await post(app, "/v1/chat/completions", body))["choices"]
    assert (choice["finish_reason"], choice["message"]["tool_calls"][0]["function"]["name"]) == ("tool_calls", "show")


async def test_delegating_ends_with_the_iterations(tmp_path: Path) -> None:
    team(tmp_path, orchestration={"pattern": "supervisor", "max_iterations": 2})
    again = calls(asking("ask_writer", "Go."))
    model = ScriptedModel({"supervisor": [again, again, "So far: rain."], "writer": ["Rain.", "Rain."]})
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        result = await ask(app, "A verse.", "lead")
    assert (result["answer"], result["outcome"]) == ("So far: rain.", "max_iterations")


async def test_supervisors_who_ask_each_other_end_at_the_depth_that_agents_may_call_agents(tmp_path: Path) -> None:
    for name, other in (("anna", "bert"), ("bert", "anna")):
        tools = [{"name": "ask_other", "type": "agent", "agent": other}]
        agent_file(tmp_path, name, orchestration={"pattern": "supervisor"}, tools=tools)

    def ask_on_unless_told(request: dict[str, Any]) -> Any:
        results = told(request)
        return results[0] if results else calls(asking("ask_other", "You do it."))

    async with agents(tmp_path, Neighbours(inference=ScriptedModel([ask_on_unless_told] * 6)), {"max_depth": 2}) as app:
        result = await ask(app, "Who does it?", "anna")
    assert result["answer"] == "Error: Agents may call agents 2 deep; answer without 'ask_other'."


async def test_the_supervisors_own_template_is_told_in_place_of_the_instructions(tmp_path: Path) -> None:
    team(tmp_path, prompts={"templates": {"supervisor": "Lead {{ agents | join(' and ') }}."}})
    model = ScriptedModel({"supervisor": ["Done."]})
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        await ask(app, "Go.", "lead")
    assert said(model.requests[0], "system") == "Lead critic and writer."


async def test_delegation_is_told_as_it_happens(tmp_path: Path) -> None:
    team(tmp_path)
    model = ScriptedModel({"supervisor": [calls(asking("ask_writer", "Go.")), "Rain."], "writer": ["Rain."]})
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        stream = await events(app, "Go.", "lead")
    kinds = [(kind, data.get("role") or data.get("text")) for kind, data in stream[:-1]]
    assert kinds == [
        ("step", "supervisor"),
        ("tool_call", "supervisor"),
        ("tool_result", "supervisor"),
        ("step", "supervisor"),
        ("token", "Rain."),
    ]


@pytest.mark.parametrize("pattern", ["supervisor", "swarm"])
async def test_an_agent_that_names_itself_among_its_agents_is_a_broken_file(tmp_path: Path, pattern: str) -> None:
    tools = [{"name": "ask_me", "type": "agent", "agent": "tester"}]
    agent_file(tmp_path, orchestration={"pattern": pattern}, tools=tools)
    async with agents(tmp_path, Neighbours()) as app:
        with pytest.raises(AgentUnavailable, match="this very agent"):
            await ask(app)
