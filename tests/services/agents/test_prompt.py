"""System prompts: what they see, and what happens when they cannot be rendered."""

from pathlib import Path

import pytest

from app.errors import (
    AgentUnavailable,
    InvalidBody,
    NodeError,
)
from tests.services.agents.world import ScriptedModel, agent_file, agents, ask
from tests.support import Neighbours


async def test_the_prompt_is_rendered_with_agent_tools_and_context(tmp_path: Path) -> None:
    prompt = "{{ agent.display_name }}/{{ tools | join('+') }}/{{ context.user }}/{{ user }}"
    agent_file(tmp_path, identity={"display_name": "Tess"}, tools=[{"name": "wave", "type": "client"}], prompts={"system": prompt})
    model = ScriptedModel(["Hi."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        await ask(app, context={"user": "{{ agent.name }}", "agent": "someone else"})
    assert model.requests[0]["messages"][0] == {"role": "system", "content": "Tess/wave/{{ agent.name }}/{{ agent.name }}"}


@pytest.mark.parametrize(
    ("prompt", "error", "said"),
    [
        ("{{ user.name }}", InvalidBody, "'user' is undefined"),
        ("{{ 1 // 0 }}", AgentUnavailable, "cannot be rendered"),
        ("{{ ''.__class__.__mro__ }}", AgentUnavailable, "unsafe"),
        ("{{ 'x' * 1000000000 }}", AgentUnavailable, "makes too much"),
        ("{{ 9 ** 999999999 }}", AgentUnavailable, "too large"),
        ("{% for i in range(5000) %}xxxxxxxxxx{% endfor %}", AgentUnavailable, "grows beyond 1000 characters"),
        ("{% include 'other' %}", AgentUnavailable, "`include` has no place in a prompt"),
    ],
)
async def test_a_prompt_that_cannot_be_rendered_names_its_file(tmp_path: Path, prompt: str, error: type[NodeError], said: str) -> None:
    path = agent_file(tmp_path, prompts={"system": prompt})
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([])), {"prompt_chars": 1000}) as app:
        with pytest.raises(error, match=said) as raised:
            await ask(app)
    assert str(path) in raised.value.message


async def test_context_may_hold_any_name(tmp_path: Path) -> None:
    names = ["self", "args", "kwargs", "context", "range", "loop", "", " budget"]
    agent_file(tmp_path, prompts={"system": "{{ context.self }}{% for i in range(1) %}{{ i }}{% endfor %}"})
    model = ScriptedModel(["Hi."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        assert (await ask(app, context=dict.fromkeys(names, 1)))["answer"] == "Hi."
    assert model.requests[0]["messages"][0]["content"] == "10"
