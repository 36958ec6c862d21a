"""Histograms that also know the least and the most that was observed, and label values that stay few."""

import math
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import prometheus_client

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Buckets for what takes from a millisecond to ten minutes: models, agents, tools."""
TOKENS = tuple(float(4**power) for power in range(14))
"""Buckets that OpenTelemetry's GenAI conventions advise for numbers of tokens."""


class Histogram(prometheus_client.Histogram):
    """Prometheus' own, and the extremes since the node's start."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self.least, self.most = math.inf, -math.inf
        self._extremes_lock = threading.Lock()

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        super().observe(amount, exemplar)
        if amount < self.least or amount > self.most:  # seldom after the first ones
            with self._extremes_lock:
                self.least, self.most = min(self.least, amount), max(self.most, amount)

    def extremes(self) -> Iterator[tuple[Mapping[str, str], float, float]]:
        """(labels, least, most) of each series that has observations."""
        children: dict[Any, Any] = dict(self._metrics) if self._labelnames else {(): self}
        for values, child in children.items():
            if child.least <= child.most:
                yield dict(zip(self._labelnames, values, strict=True)), child.least, child.most


class FewNames:
    """Lets so many different values through as labels; those that come after them are "other"."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known = set[str]()

    def __call__(self, name: str) -> str:
        if name in self._known or len(self._known) < self._limit:
            self._known.add(name)
            return name
        return "other"
