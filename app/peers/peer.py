"""One peer as this node sees it: its address, what it says of itself, and how it fares."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from app.connection import Connection

WATCH_AFTER_S = 2.0
REFRESH_S = 0.5
"""How long a request waits for fresh news before it is told that nobody can serve it."""
State = Literal["unknown", "up", "suspect", "down"]


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What a peer says in its status. ``keys`` maps a service to the keys it has there; a service that is not in it takes any key."""

    node_id: str = ""
    node_name: str = ""
    services: frozenset[str] = frozenset()
    reaches: frozenset[str] = frozenset()
    keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    store_id: str = ""
    draining: bool = False
    in_flight: int = 0
    believes_us: bool = True

    @classmethod
    def parse(cls, status: Any) -> "PeerFacts":
        """From the JSON of ``GET /v1/system/status``; what is missing or of another shape is left out."""
        if not isinstance(status, Mapping):
            return cls()
        services, keys = status.get("services"), status.get("keys")
        return cls(
            node_id=_name(status.get("node_id")),
            node_name=_name(status.get("node_name")),
            services=frozenset(name for name, on in services.items() if on) if isinstance(services, Mapping) else frozenset(),
            reaches=_names(status.get("reaches")),
            keys={name: _names(each) for name, each in keys.items()} if isinstance(keys, Mapping) else {},
            store_id=_name(status.get("store_id")),
            draining=bool(status.get("draining")),
            in_flight=load if isinstance(load := status.get("in_flight"), int) else 0,
            believes_us=status.get("believes_caller") is not False,
        )


def _name(value: Any) -> str:
    """A name that can stand in a header and a message; "" for anything else."""
    return value if isinstance(value, str) and len(value) < 128 and value.isascii() and value.isprintable() else ""


def _names(value: Any) -> frozenset[str]:
    return frozenset(map(str, value)) if isinstance(value, list) else frozenset()


class Peer:
    """``services`` are those that the profile names; once the peer has spoken, only those of them that it has count."""

    __slots__ = ("facts", "in_flight", "load", "name", "reason", "services", "skipped", "state", "url")

    def __init__(self, name: str, url: str, services: Iterable[str]) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self.services = frozenset(services)
        self.facts: PeerFacts | None = None
        self.state: State = "unknown"
        self.reason = ""
        self.in_flight: set[Connection] = set()
        self.load = 0
        self.skipped = 0
        """How often placement passed it over because it was suspect."""

    @property
    def node_id(self) -> str:
        return self.facts.node_id if self.facts else ""

    @property
    def store_id(self) -> str:
        return self.facts.store_id if self.facts else ""

    @property
    def busy(self) -> int:
        """Requests in flight there: one's own count, or what its last answer said in passing."""
        return max(len(self.in_flight), self.load)

    @property
    def usable(self) -> bool:
        """In the routing view: it has spoken, does not fail, and is not shutting down."""
        return self.state == "up" and not (self.facts and self.facts.draining)

    def offers(self, service: str) -> bool:
        return service in self.services and (self.facts is None or service in self.facts.services)

    def reaches(self, service: str) -> bool:
        return self.facts is not None and service in self.facts.reaches

    def has(self, service: str, key: str | None) -> bool:
        """Whether it says that it serves this key; True for services that take any."""
        keys = self.facts.keys.get(service) if self.facts else None
        return key is None or keys is None or key in keys

    def watch(self, now: float) -> None:
        """Have the lines of what takes long there watched (loop time): a machine that has vanished breaks no connection by itself."""
        for connection in self.in_flight:
            if not connection.watched and now - connection.begun_at > WATCH_AFTER_S:
                connection.watch()

    def abort(self) -> None:
        """End what is in flight there, at once: it is lost."""
        for connection in list(self.in_flight):
            connection.abort(self.reason or "it stopped answering")


class Peers(Protocol):
    """The local view of the peers, wherever it comes from: the profile, or the mesh."""

    def all(self) -> list[Peer]: ...

    def failed(self, peer: Peer, reason: str) -> None:
        """Forwarding to it failed: it leaves the view at once and comes back by a successful probe."""
        ...

    async def refresh(self) -> None:
        """Return once what is known of the peers is fresh, or soon all the same: a "nobody has it" must not rest on old news."""
        ...

    async def reread(self, service: str) -> None:
        """Ask those that offer a service what they have of it now, after a change there; return when they have said so, or soon all the
        same."""
        ...

    async def run(self) -> None: ...
