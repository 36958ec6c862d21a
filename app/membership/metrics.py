"""The mesh in numbers, for Prometheus. Labels are statuses and reasons, of which there are few."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from app.mesh.members import Status, View
from app.mesh.messages import Event
from app.metrics import Histogram


class MeshMetrics:
    """Counts what happens. What others count (``read``: name -> help, value) is read when it is asked for."""

    def __init__(self, registry: CollectorRegistry, view: Callable[[], View], read: Mapping[str, tuple[str, Callable[[], int]]]) -> None:
        members = Gauge("astromesh_mesh_members", "Members in this node's view, by status.", ["status"], registry=registry)
        for status in Status:
            members.labels(status.name.lower()).set_function(_counter(view, status))
        registry.register(_Read(read))
        buckets = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
        self.round_trip = Histogram(
            "astromesh_mesh_round_trip_seconds", "From a message to its answer.", registry=registry, buckets=buckets
        )
        self.suspicions = Counter("astromesh_mesh_suspicions", "Members that became suspect in this view.", registry=registry)
        self.suspicions_refuted = Counter("astromesh_mesh_suspicions_refuted", "Suspects that proved alive.", registry=registry)
        self.refutations = Counter("astromesh_mesh_refutations", "Accusations of this node that it refuted.", registry=registry)
        self.refused = Counter("astromesh_mesh_refused_messages", "Messages refused, by reason.", ["reason"], registry=registry)
        self._suspects = set[str]()

    def happened(self, event: Event) -> None:
        """Count what the protocol tells of."""
        if event.kind == "accused":
            self.refutations.inc()
        elif event.kind == "suspect":
            self.suspicions.inc()
            self._suspects.add(event.node_id)
        elif event.kind in ("alive", "dead", "left", "displaced"):
            if event.node_id in self._suspects and event.kind == "alive":
                self.suspicions_refuted.inc()
            self._suspects.discard(event.node_id)


def _counter(view: Callable[[], View], status: Status) -> Callable[[], float]:
    return lambda: sum(each.status is status for each in view())


class _Read(Collector):
    def __init__(self, read: Mapping[str, tuple[str, Callable[[], int]]]) -> None:
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily]:
        for name, (text, value) in self._read.items():
            yield CounterMetricFamily(f"astromesh_mesh_{name}", text, value=value())
