"""The metrics as JSON."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from app.call import call
from app.metrics import FewNames, Histogram
from app.services.observability import Observability
from tests.support import mounted, node_context


async def read(folder: Path, registry: CollectorRegistry) -> Any:
    async with (
        mounted(Observability({}, replace(node_context(folder), metrics=registry))) as app,
        call(app, "GET", "/v1/metrics") as reply,
    ):
        assert reply.status == 200
        return await reply.json()


async def test_counters_gauges_and_histograms_are_told_with_their_extremes(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    Counter("things", "Things.", ["kind", "a"], registry=registry).labels('say "hi"', "1").inc(3)
    Gauge("level", "Level.", registry=registry).set(7)
    bare = Histogram("bare", "Bare.", registry=registry)
    labelled = Histogram("labelled", "Labelled.", ["b", "a"], registry=registry)
    Histogram("silent", "Silent.", registry=registry)
    for value in (0.5, 2.0, 0.25):
        bare.observe(value)
        labelled.labels("x", "y").observe(value * 10)
    labelled.labels("x", "z").observe(1)
    told = await read(tmp_path, registry)
    assert told["counters"]['things_total{a="1",kind="say \\"hi\\""}'] == 3
    assert told["gauges"]["level"] == 7
    assert told["gauges"]["process_resident_memory_bytes"] > 1e6
    assert told["histograms"]["bare"] == {"count": 3, "sum": 2.75, "avg": 2.75 / 3, "min": 0.25, "max": 2.0}
    assert told["histograms"]['labelled{a="y",b="x"}'] == {"count": 3, "sum": 27.5, "avg": 27.5 / 3, "min": 2.5, "max": 20.0}
    assert told["histograms"]['labelled{a="z",b="x"}']["max"] == 1
    assert "silent" not in told["histograms"]


def test_only_so_many_names_become_labels() -> None:
    few = FewNames(2)
    assert [few(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]
