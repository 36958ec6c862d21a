"""What the parts of the protocol share: the view, the news, the open exchanges, and the step that is being made. Every change of a member's
standing goes through ``mark``, every word to another node through ``call`` or ``message``."""

import random
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from app.mesh.members import Identity, Member, Record, Standing, Status, View
from app.mesh.messages import Body, Entry, Event, EventKind, Gossip, Header, LoadEntry, Message, Page, Reply, Send, Step
from app.mesh.news import News
from app.mesh.ring import Ring
from app.mesh.settings import LEAP_S, MAX_LEAP, NEWS_BYTES, QUIET_BYTES, MeshSettings
from app.mesh.wire import MAX_COUNTER, entry_size

GOSSIP = Gossip()
HEADER_BYTES = 210  # of the budget of a quiet message: the longest cluster label, and the braces around loads


class Purpose(Enum):
    ROUND = "round"
    NEWS = "news"  # urgent news or an accusation
    PUSH = "push"  # what an answer showed to be lacking there: its own answer leads to no other, or two nodes would never stop
    CHECK = "check"  # the direct try of a check
    HELP = "help"  # asking a helper
    RELAY = "relay"  # calling somebody as a helper
    JOIN = "join"
    SYNC = "sync"
    CALLBACK = "callback"  # does a joiner's address answer?


class Aim(NamedTuple):
    """Where an exchange goes and why. ``about`` is the member that it is to find out about, ``ticket`` who waits for that."""

    url: str
    to: str
    purpose: Purpose
    about: str = ""
    ticket: int = 0


@dataclass(slots=True)
class Exchange:
    """An open exchange. One that a stall made void proves nothing by failing."""

    number: int
    aim: Aim
    opened_at: float
    void: bool = False


def is_far(claimed: int, known: int) -> bool:
    """Whether a count is so far above what is known of it that it is a lie: its owner raises it by one, now and then. Believed, a single
    one would use up what is left of the counter."""
    return claimed - known > MAX_LEAP


class Mesh:
    def __init__(self, me: Identity, settings: MeshSettings, rng: random.Random) -> None:
        self.cluster = me.cluster
        self.settings = settings
        self.rng = rng
        self.now = 0.0
        self.doubt = 0
        self.me = Member(Record(me.node_id, 1, me.name, me.url), (0, Status.ALIVE), 0.0)
        self.suspects: dict[str, float] = {}
        """Suspects, and until when each may refute."""
        self.suspicions_changed = False
        self.exchanges: dict[int, Exchange] = {}
        self._last_exchange = 0
        self._leapt_at = float("-inf")
        self.forget_all()
        self.step = Step()

    def forget_all(self) -> None:
        """Know nobody but this node itself."""
        self.view = View(self.me)
        self.news = News(self.view)
        self.ring = Ring(self.view, self.rng)
        self.suspects.clear()

    # ---- time

    @property
    def timeout(self) -> float:
        """T, stretched by up to 2.5 while this node doubts itself."""
        return self.settings.exchange_timeout * (1 + self.doubt / 4)

    # ---- words

    def header(self, to: str) -> Header:
        me = self.me
        return Header(
            self.cluster, me.node_id, to, me.record.version, me.incarnation, me.heartbeat, self.view.hash, self.view.count
        )  # fmt: skip

    def message(self, to: str, body: Body = GOSSIP, entries: tuple[Entry, ...] = (), want: tuple[str, ...] = ()) -> Message:
        """A message to a member (or whoever answers): what it is accused of, ``entries``, the news, and in a round the loads."""
        member = self.view.get(to)
        accused = member.accusation if member else None
        told = {each.node_id for each in entries}
        entries = (*entries, *self.news.take(to, told, NEWS_BYTES))
        unreachable = member is not None and member.reachable is False
        loads: list[LoadEntry] = []
        if isinstance(body, Gossip) and body.round:
            loads = self.news.take_loads(to, QUIET_BYTES - HEADER_BYTES - sum(map(entry_size, entries)))
        return Message(self.header(to), body, accused, unreachable, entries, tuple(loads), want)

    def call(self, aim: Aim, message: Message, timeout_s: float = 0.0) -> int:
        self._last_exchange += 1
        number = self._last_exchange
        self.exchanges[number] = Exchange(number, aim, self.now)
        self.step.sends.append(Send(number, aim.url, message, timeout_s or self.timeout))
        return number

    def tell(self, member: Member, purpose: Purpose, entries: tuple[Entry, ...] = ()) -> None:
        """Say something to a member at once."""
        if member.url and member is not self.me:
            self.call(Aim(member.url, member.node_id, purpose), self.message(member.node_id, GOSSIP, entries))

    def my_entry(self) -> Entry:
        return Entry(self.me.node_id, self.me.standing, self.me.record)

    def page(self, to: str, page: Page, entries: tuple[Entry, ...], want: tuple[str, ...]) -> Message:
        """A page has its own bound; news would come on top."""
        member = self.view.get(to)
        unreachable = member is not None and member.reachable is False
        return Message(self.header(to), page, member.accusation if member else None, unreachable, entries, (), want)

    def reply(self, ticket: int, message: Message) -> None:
        self.step.replies.append(Reply(ticket, message))

    def event(self, kind: EventKind, member: Member, by: str = "", reason: str = "") -> None:
        self.step.events.append(Event(kind, member.node_id, by or self.me.node_id, reason))

    # ---- changes

    def admit(self, entry: Entry, source: str, *, is_news: bool) -> Member | None:
        """A live member that was not known. ``is_news``: others may not know it either. Without an address it could never be found dead."""
        if entry.record is None or not entry.record.url:
            return None
        member = Member(entry.record, entry.standing, self.now)
        self.view.add(member)
        self.ring.add(member.node_id)
        self._watch(member)
        if is_news:
            self.news.add(member.node_id, source, urgent=True, with_record=True)
        self.event("joined", member, source)
        return member

    def mark(self, member: Member, standing: Standing, source: str, reason: str = "") -> None:
        """Raise a member's standing, tell it on, and start or end its time to refute."""
        if standing <= member.standing or is_far(standing[0], member.incarnation):
            return
        was = member.status
        self.view.set_standing(member, standing, self.now)
        self._watch(member)
        if not was <= Status.SUSPECT and member.is_live:
            self.ring.add(member.node_id)
        self.news.add(member.node_id, source, urgent=True, with_record=False)
        if self.view.tombstone_room < 0:
            self.view.forget(self.now)
        if member.status is not was:
            self.event(_KINDS[member.status], member, source, reason)

    def _watch(self, member: Member) -> None:
        if member.status is Status.SUSPECT:
            self.suspects[member.node_id] = self.now + self.settings.suspicion
            self.suspicions_changed = True
        elif self.suspects.pop(member.node_id, None):
            self.suspicions_changed = True

    def rewrite(self, record: Record, *, urgent: bool) -> None:
        """Change this node's own record, of a higher version, as long as there is one."""
        if record.version >= MAX_COUNTER:
            self.event("expelled", self.me, self.me.node_id, f"version {record.version} is the last one")
            return
        self.view.set_record(self.me, record, self.now)
        self.news.add(self.me.node_id, self.me.node_id, urgent=urgent, with_record=True)

    def may_follow(self, claimed: int, own: int) -> bool:
        """Whether this node's own counter may go above what is claimed of it. Only a liar claims more than the node has said itself. It is
        overtaken, since others may believe it, but not far, and only so often: whoever believes it goes on accusing until then."""
        if claimed <= own:
            return True
        if is_far(claimed, own) or self.now - self._leapt_at < LEAP_S:
            return False
        self._leapt_at = self.now
        return True

    def refute(self, claim: Standing, by: str) -> bool:
        """Answer an accusation by a higher incarnation. False where it is below what was refuted already, or nothing above is left."""
        if claim < self.me.standing or claim[1] is Status.ALIVE or not self.may_follow(claim[0], self.me.incarnation):
            return False
        if claim[0] >= MAX_COUNTER:
            self.event("expelled", self.me, by, f"incarnation {claim[0]} is the last one")
            return False
        self.view.set_standing(self.me, (claim[0] + 1, Status.ALIVE), self.now)
        self.news.add(self.me.node_id, self.me.node_id, urgent=True, with_record=False)
        self.event("accused", self.me, by, claim[1].name.lower())
        return True


_KINDS: dict[Status, EventKind] = {Status.ALIVE: "alive", Status.SUSPECT: "suspect", Status.DEAD: "dead", Status.LEFT: "left"}
