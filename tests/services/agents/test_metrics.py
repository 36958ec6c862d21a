"""What runs of agents and calls of tools leave in the metrics."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from app.errors import ProviderUnavailable
from app.services.agents import Agents
from tests.services.agents.world import CALCULATOR, ScriptedModel, Stuck, Tools, agent_file, ask, calculator, calls
from tests.support import Neighbours, mounted, node_context


def count(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(f"{name}_seconds_count", labels) or 0.0


async def test_runs_and_tool_calls_are_counted_by_their_outcome(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR])
    model = ScriptedModel([calls(("calculator", {"expression": "2+2"}), ("ghost", {})), "Done.", ProviderUnavailable("away")])
    registry = CollectorRegistry()
    node = replace(node_context(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))), metrics=registry)
    async with mounted(Agents({}, node)) as app:
        await ask(app)
        with pytest.raises(ProviderUnavailable):
            await ask(app)
    assert count(registry, "gen_ai_invoke_agent_duration", gen_ai_agent_name="tester", outcome="answered") == 1
    assert count(registry, "gen_ai_invoke_agent_duration", gen_ai_agent_name="tester", outcome="provider_unavailable") == 1
    assert count(registry, "gen_ai_execute_tool_duration", gen_ai_tool_name="calculator", outcome="ok") == 1
    assert count(registry, "gen_ai_execute_tool_duration", gen_ai_tool_name="unknown", outcome="error") == 1


async def test_a_client_that_leaves_is_an_outcome_of_its_own(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR])
    stuck = Stuck()
    registry = CollectorRegistry()
    model = ScriptedModel([calls(("calculator", {}))])
    node = replace(node_context(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": stuck}))), metrics=registry)
    async with mounted(Agents({}, node)) as app:
        running = asyncio.create_task(ask(app))
        await stuck.entered.wait()
        running.cancel()
        await asyncio.wait([running])
    assert count(registry, "gen_ai_invoke_agent_duration", gen_ai_agent_name="tester", outcome="cancelled") == 1
    assert count(registry, "gen_ai_execute_tool_duration", gen_ai_tool_name="calculator", outcome="cancelled") == 1
