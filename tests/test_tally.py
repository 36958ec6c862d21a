"""Our counts tell Prometheus what prometheus-client's own would."""

import re

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from app.tally import Durations, Tally

SECONDS = [0.0, 0.004, 0.005, 0.0051, 0.3, 1.0, 9.99, 10.0, 10.1, 600.0]


def told(registry: CollectorRegistry) -> str:
    text: bytes = generate_latest(registry) + openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
    return re.sub(r"^(\S+_created\b.*) \S+$", r"\1 then", text.decode(), flags=re.MULTILINE)


def test_a_tally_is_told_as_a_counter_of_prometheus_client() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = Tally("things", "Things, by kind and size.", ["kind", "size"], ours)
    counter = Counter("things", "Things, by kind and size.", ["kind", "size"], registry=theirs)
    assert told(ours) == told(theirs)
    for kind, size in (("a", "1"), ("a", "2"), ('quoted "b"\n', "1"), ("a", "1")):
        tally.add(kind, size)
        counter.labels(kind, size).inc()
    assert told(ours) == told(theirs)
    assert "_created" in told(ours)


def test_durations_are_told_as_a_histogram_of_prometheus_client() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    durations = Durations("took_seconds", "How long.", "path", ours)
    histogram = Histogram("took_seconds", "How long.", ["path"], registry=theirs)
    assert told(ours) == told(theirs)
    for number, seconds in enumerate(SECONDS):
        durations.observe(f"/{number % 2}", seconds)
        histogram.labels(f"/{number % 2}").observe(seconds)
    assert told(ours) == told(theirs)
