"""What nodes say to each other, and what the protocol says to the I/O around it. Values only; wire.py has their bounds."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from app.mesh.members import Load, Record, Standing


@dataclass(frozen=True, slots=True)
class Header:
    """Who speaks. ``to`` is the id it means to reach, empty for whoever answers; ``view_hash`` and ``count`` are of its live members."""

    cluster: str
    sender: str
    to: str
    version: int
    incarnation: int
    heartbeat: int
    view_hash: int
    count: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What the sender holds of a member: its standing, and its record where the receiver may not have it."""

    node_id: str
    standing: Standing
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class LoadEntry:
    node_id: str
    heartbeat: int
    load: Load


@dataclass(frozen=True, slots=True)
class Digest:
    node_id: str
    version: int
    standing: Standing


@dataclass(frozen=True, slots=True)
class Gossip:
    """News, and in a round also loads."""

    kind: ClassVar[str] = "gossip"
    round: bool = False


@dataclass(frozen=True, slots=True)
class Join:
    """The first word at an address; ``dialed`` is that address. The sender's own entry comes along."""

    kind: ClassVar[str] = "join"
    dialed: str = ""


@dataclass(frozen=True, slots=True)
class Sync:
    """Everything live that the sender knows with ids above ``start`` and up to ``upto`` (empty: to the end)."""

    kind: ClassVar[str] = "sync"
    start: str = ""
    upto: str = ""
    digests: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Answer to Join and Sync: what the asker lacks is in the entries, what the answerer lacks in ``want``. ``next`` is where to go on,
    empty at the end; ``seen_as`` the address from which the request came."""

    kind: ClassVar[str] = "page"
    next: str = ""
    seen_as: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """Call this member for me."""

    kind: ClassVar[str] = "probe"
    target: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answer to Probe. ``reached``: it answered just now; ``heard``: it has spoken to the helper lately."""

    kind: ClassVar[str] = "verdict"
    target: str
    reached: bool = False
    heard: bool = False
    incarnation: int = 0


@dataclass(frozen=True, slots=True)
class Leave:
    """The sender has left for good: said once by itself, and answered ever after."""

    kind: ClassVar[str] = "leave"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing was changed. ``status`` is the 4xx that HTTP answers with."""

    kind: ClassVar[str] = "refusal"
    status: int
    code: str
    reason: str


Body = Gossip | Join | Sync | Page | Probe | Verdict | Leave | Refusal


@dataclass(frozen=True, slots=True)
class Message:
    """``accused``: what the sender holds against the receiver; ``unreachable``: the receiver's address does not answer the sender;
    ``want``: ids whose records the sender asks for."""

    header: Header
    body: Body
    accused: Standing | None = None
    unreachable: bool = False
    entries: tuple[Entry, ...] = ()
    loads: tuple[LoadEntry, ...] = ()
    want: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return self.body.kind


@dataclass(frozen=True, slots=True)
class Send:
    """Post ``message`` to ``url`` and hand the outcome back with ``exchange``: ``answered`` or ``failed``, once, within ``timeout_s``."""

    exchange: int
    url: str
    message: Message
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Pending:
    """The answer to a request comes later, as a Reply with this ticket, within ``timeout_s``."""

    ticket: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Reply:
    ticket: int
    message: Message


EventKind = Literal[
    "joined", "alive", "suspect", "dead", "left", "changed", "unreachable", "reachable",
    "accused", "address_fails", "displaced", "expelled", "stalled", "synchronised",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a member. ``by`` is who noticed: this node, or the id of who told it.

    joined, alive (again), suspect, dead, left: its status is now that; changed: its record; unreachable, reachable: from here.
    About this node itself: accused (and refuted), address_fails (as ``by`` finds), displaced (another node answers at ``by``'s address),
    expelled (its identity is used up; start anew under a new id), stalled, synchronised (two views were found equal after joining).
    """

    kind: EventKind
    node_id: str
    by: str = ""
    reason: str = ""


@dataclass(slots=True)
class Step:
    """What follows from one input. ``deadline`` is when ``tick`` is due; it replaces the deadline of the step before."""

    sends: list[Send] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    deadline: float = float("inf")
