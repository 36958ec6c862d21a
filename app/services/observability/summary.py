"""The node's metrics as JSON, for people and small programs: every series by its name and labels as Prometheus writes them."""

import json
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from app.metrics import Histogram


def summary(registry: CollectorRegistry) -> dict[str, Any]:
    """{counters: {series: value}, gauges: {series: value}, histograms: {series: {count, sum, avg, min, max}}}; ``min`` and
    ``max`` are those of all observations since the start, and histograms without any are left out."""
    counters, gauges, histograms = dict[str, float](), dict[str, float](), dict[str, dict[str, float]]()
    extremes = _extremes(registry)
    for family in registry.collect():
        if family.type == "counter":
            counters |= {_series(each.name, each.labels): each.value for each in family.samples if each.name.endswith("_total")}
        elif family.type == "gauge":
            gauges |= {_series(each.name, each.labels): each.value for each in family.samples}
        elif family.type == "histogram":
            histograms |= _histograms(family, extremes)
    return {"counters": counters, "gauges": gauges, "histograms": histograms}


def _histograms(family: Any, extremes: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for sample in family.samples:
        for part in ("count", "sum"):
            if sample.name == f"{family.name}_{part}":
                found.setdefault(_series(family.name, sample.labels), {})[part] = sample.value
    for series, row in found.items():
        least, most = extremes.get(series, (None, None))
        row |= {"avg": row["sum"] / row["count"] if row["count"] else 0.0}
        if least is not None and most is not None:
            row |= {"min": least, "max": most}
    return {series: row for series, row in found.items() if row["count"]}


def _extremes(registry: CollectorRegistry) -> dict[str, tuple[float, float]]:
    """By series. What is registered is no public property of a registry; tests/services/observability asserts that it is still there."""
    collectors = [each for each in registry._collector_to_names if isinstance(each, Histogram)]
    return {_series(collector._name, labels): (least, most) for collector in collectors for labels, least, most in collector.extremes()}


def _series(name: str, labels: Mapping[str, str]) -> str:
    """As Prometheus writes it, labels in the order of their names."""
    told = ",".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in sorted(labels.items()))
    return f"{name}{{{told}}}" if told else name
