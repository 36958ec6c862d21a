"""Runs of agents and calls of tools, in numbers, by the names of OpenTelemetry's GenAI conventions as Prometheus spells them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

from app.errors import NodeError
from app.metrics import SECONDS, FewNames, Histogram

_AGENTS, _TOOLS = 500, 500


class Timed:
    """What is being measured; ``outcome`` is what it ends with, unless it raises."""

    outcome = "ok"


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._agent_names, self._tool_names = FewNames(_AGENTS), FewNames(_TOOLS)
        self._runs = Histogram(
            "gen_ai_invoke_agent_duration_seconds",
            "Runs of agents, by how they ended: answered, truncated, …, cancelled (the client left), or an error's code.",
            ["gen_ai_agent_name", "outcome"],
            registry=registry,
            buckets=SECONDS,
        )
        self._calls = Histogram(
            "gen_ai_execute_tool_duration_seconds",
            "Calls of tools, by how they ended: ok, error, client (handed over), cancelled.",
            ["gen_ai_tool_name", "outcome"],
            registry=registry,
            buckets=SECONDS,
        )

    @contextmanager
    def run(self, agent: str) -> Iterator[Timed]:
        with _timed(self._runs, self._agent_names(agent)) as timed:
            yield timed

    @contextmanager
    def call(self, tool: str) -> Iterator[Timed]:
        with _timed(self._calls, self._tool_names(tool)) as timed:
            yield timed


@contextmanager
def _timed(histogram: Histogram, name: str) -> Iterator[Timed]:
    timed, began, outcome = Timed(), time.perf_counter(), "cancelled"
    try:
        yield timed
        outcome = timed.outcome
    except NodeError as error:
        outcome = error.code
        raise
    except Exception:
        outcome = "internal_error"
        raise
    finally:
        histogram.labels(name, outcome).observe(time.perf_counter() - began)
