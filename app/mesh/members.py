"""Members and the view of them. Each part of a member has one rule: its record is the owner's (the higher version wins), its standing is
(incarnation, status), which only rises; only the owner raises its incarnation. Heartbeats are freshness, never evidence of life."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b

from app.mesh.settings import TOMBSTONE_S

MIN_TOMBSTONES = 256


class Status(IntEnum):
    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


Standing = tuple[int, Status]
"""(incarnation, status): the greater one wins."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is. ``node_id`` is random per start (16 hex digits); ``url`` is empty until it is known."""

    node_id: str
    name: str
    url: str = ""
    cluster: str = "astromesh"


@dataclass(frozen=True, slots=True)
class Load:
    cpu_percent: int = 0
    memory_percent: int = 0
    active_requests: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """What a member says of itself. It alone writes it, and raises ``version`` with every change."""

    node_id: str
    version: int
    name: str
    url: str = ""
    services: tuple[str, ...] = ()
    catalogue_hash: str = ""
    store_id: str = ""
    draining: bool = False

    def __hash__(self) -> int:
        """Of what tells nearly all records apart; they are looked up for every entry of every message."""
        return hash((self.node_id, self.version))


class Member:
    """A member as one node sees it. ``reachable`` is whether it answers from here, None before the first try; being alive is another fact.

    ``hearsay`` is a death that others claim and that is being verified here; ``displaced`` that another id once answered at its address.
    Times are the observer's own.
    """

    __slots__ = (
        "displaced",
        "heard_at",
        "hearsay",
        "heartbeat",
        "heartbeat_at",
        "incarnation",
        "joined_at",
        "load",
        "reachable",
        "record",
        "since",
        "status",
        "told_unreachable",
    )  # fmt: skip

    def __init__(self, record: Record, standing: Standing, now: float) -> None:
        self.record = record
        self.incarnation, self.status = standing
        self.joined_at = self.since = self.heartbeat_at = now
        self.heard_at = float("-inf")
        self.heartbeat = 0
        self.load = Load()
        self.reachable: bool | None = None
        self.hearsay: Standing | None = None
        self.displaced = False
        self.told_unreachable = False

    @property
    def node_id(self) -> str:
        return self.record.node_id

    @property
    def url(self) -> str:
        return self.record.url

    @property
    def standing(self) -> Standing:
        return (self.incarnation, self.status)

    @property
    def is_live(self) -> bool:
        """Alive or suspect: a member of the mesh; the others are tombstones."""
        return self.status <= Status.SUSPECT

    @property
    def accusation(self) -> Standing | None:
        """What it should be told, so that it can refute."""
        return self.standing if self.status is not Status.ALIVE else self.hearsay


@lru_cache(maxsize=16_384)
def token(node_id: str, version: int) -> int:
    """What a member adds to the hash of a view."""
    return int.from_bytes(blake2b(f"{node_id}:{version}".encode(), digest_size=8).digest(), "big")


class View:
    """All members that this node knows, itself included. ``hash`` and ``count`` are over the live ones only: with incarnations, suspicions
    or tombstones in it two views would hardly ever be equal. Only its own methods change a member's record or standing."""

    def __init__(self, me: Member) -> None:
        self.me = me
        self.members: dict[str, Member] = {me.node_id: me}
        self.hash = token(me.node_id, me.record.version)
        self.count = 1
        self.changed_at = me.since
        self._at: dict[str, dict[str, None]] = {}
        """Addresses, and the ids of the live members that give them as their own; no sets, whose order differs by process."""
        self._settle(me)
        self._others: list[Member] | None = None

    def get(self, node_id: str) -> Member | None:
        return self.members.get(node_id)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

    @property
    def others(self) -> list[Member]:
        """Live members but this one. Not to be changed."""
        if self._others is None:
            self._others = [each for each in self.members.values() if each.is_live and each is not self.me]
        return self._others

    def add(self, member: Member) -> None:
        self.members[member.node_id] = member
        if member.is_live:
            self._toggle(member, 1, member.since)

    def set_record(self, member: Member, record: Record, now: float) -> None:
        if not member.is_live:
            member.record = record
            return
        self.hash ^= token(member.node_id, member.record.version) ^ token(member.node_id, record.version)
        self.changed_at = now
        self._unsettle(member)
        member.record = record
        self._settle(member)

    def set_standing(self, member: Member, standing: Standing, now: float) -> None:
        was_live = member.is_live
        if standing[1] is not member.status:
            member.since = now
        member.incarnation, member.status = standing
        member.hearsay = None
        if member.is_live is not was_live:
            self._toggle(member, 1 if member.is_live else -1, now)

    def _toggle(self, member: Member, by: int, now: float) -> None:
        self.hash ^= token(member.node_id, member.record.version)
        self.count += by
        self.changed_at = now
        self._others = None
        if by > 0:
            self._settle(member)
        else:
            self._unsettle(member)

    def _settle(self, member: Member) -> None:
        self._at.setdefault(member.url, {})[member.node_id] = None

    def _unsettle(self, member: Member) -> None:
        here = self._at[member.url]
        here.pop(member.node_id, None)
        if not here:
            del self._at[member.url]

    def owner_of(self, url: str, besides: str) -> Member | None:
        """The live member, other than ``besides``, that gives this address as its own."""
        return next((self.members[each] for each in self._at.get(url, ()) if each != besides), None)

    @property
    def tombstones(self) -> int:
        return len(self.members) - self.count

    @property
    def tombstone_room(self) -> int:
        return max(MIN_TOMBSTONES, 4 * self.count) - self.tombstones

    def forget(self, now: float) -> None:
        """Drop tombstones that are too old, and the oldest beyond the bound."""
        if not self.tombstones:
            return
        dead = sorted((each for each in self if not each.is_live), key=lambda each: each.since)
        excess = -self.tombstone_room
        for position, member in enumerate(dead):
            if position < excess or now - member.since > TOMBSTONE_S:
                del self.members[member.node_id]

    def leader(self) -> Member | None:
        """The smallest id among the alive that are not draining: advisory, and equal wherever views are."""
        fit = (each for each in self if each.status is Status.ALIVE and not each.record.draining)
        return min(fit, key=lambda each: each.node_id, default=None)

    def shown_names(self) -> dict[str, str]:
        """Names by id: a member's own, or name-<id6> where another live member has the same."""
        names = Counter(each.record.name for each in self if each.is_live)
        shown = {}
        for each in self:
            is_twin = names[each.record.name] > (1 if each.is_live else 0)
            shown[each.node_id] = f"{each.record.name}-{each.node_id[:6]}" if is_twin else each.record.name
        return shown
