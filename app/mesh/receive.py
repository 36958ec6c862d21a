"""What messages do to this node: requests, answers and missing answers. All that others claim comes in here, is checked for authority and
merged: a record by its version, a standing by (incarnation, status); a death that others claim is only a reason to look."""

from dataclasses import replace

from app.mesh.detector import Detector
from app.mesh.members import Member, Status
from app.mesh.mesh import GOSSIP, Aim, Exchange, Mesh, Purpose
from app.mesh.messages import Entry, Gossip, Header, Join, Leave, LoadEntry, Message, Page, Pending, Probe, Refusal, Sync, Verdict
from app.mesh.seeds import Seeds
from app.mesh.settings import MAX_DOUBT, MAX_MEMBERS
from app.mesh.sync import Synchroniser
from app.mesh.wire import MAX_COUNTER

FOREIGN = "foreign_cluster"
LEAVERS_TELL = 8


class Receiver:
    def __init__(self, mesh: Mesh, detector: Detector, sync: Synchroniser, seeds: Seeds) -> None:
        self._mesh = mesh
        self._detector = detector
        self._sync = sync
        self._seeds = seeds
        self._last_ticket = 0

    # ---- requests

    def request(self, message: Message, came_from: str) -> Message | Pending:
        header = message.header
        if refusal := self._refusal(message):
            return Message(self._mesh.header(header.sender), refusal)
        if self._mesh.me.status is Status.LEFT:
            return Message(self._mesh.header(header.sender), Leave())
        if header.sender == self._mesh.me.node_id:  # this node found its own address
            return Message(self._mesh.header(header.sender), GOSSIP)
        if isinstance(message.body, Join):
            self._learn_own_url(message.body.dialed)
        corrections = self._absorb(message)
        self._displace(header.to, self._mesh.me.url)
        return self._answer(message, corrections, came_from)

    def _refusal(self, message: Message) -> Refusal | None:
        mesh, header = self._mesh, message.header
        if header.cluster != mesh.cluster:
            return Refusal(403, FOREIGN, f"This node is in cluster {mesh.cluster}, not {header.cluster}. Set ASTROMESH_CLUSTER.")
        if isinstance(message.body, Page | Verdict | Refusal):
            return Refusal(400, "no_request", f"A {message.kind} is an answer; it cannot be sent on its own.")
        if self._too_many(message):
            return Refusal(413, "too_many_members", f"This node knows {mesh.view.count} members and takes at most {MAX_MEMBERS}.")
        return None

    def _too_many(self, message: Message) -> bool:
        view = self._mesh.view
        if view.count + len(message.entries) <= MAX_MEMBERS:
            return False
        fresh = {each.node_id for each in message.entries if each.standing[1] <= Status.SUSPECT and each.node_id not in view.members}
        return view.count + len(fresh) > MAX_MEMBERS

    def _answer(self, message: Message, corrections: tuple[Entry, ...], came_from: str) -> Message | Pending:
        mesh, sender, body = self._mesh, message.header.sender, message.body
        want = () if sender in mesh.view.members else (sender,)
        match body:
            case Probe(target=target):
                return self._relay(target, sender)
            case Sync():
                return self._sync.page(sender, body, came_from[:64])
            case Join():
                self._call_back(sender)
                return self._sync.page(sender, Sync(), came_from[:64])
            case Gossip(round=is_round):
                given = tuple(each for each in self._sync.records(message.want) if each)
                return mesh.message(sender, Gossip(is_round), corrections + given, want)
            case _:
                return mesh.message(sender, GOSSIP, corrections)

    def _relay(self, target: str, asker: str) -> Message | Pending:
        """Call a member for somebody else; only at the address that this node itself has for it."""
        mesh, member = self._mesh, self._mesh.view.get(target)
        if member is None or not member.url or member is mesh.me:
            verdict = self._detector.verdict(target, reached=member is mesh.me)
            return mesh.message(asker, verdict)
        self._last_ticket += 1
        timeout_s = 0.9 * mesh.settings.exchange_timeout
        aim = Aim(member.url, target, Purpose.RELAY, about=asker, ticket=self._last_ticket)
        mesh.call(aim, mesh.message(target), timeout_s)
        return Pending(self._last_ticket, timeout_s)

    def _call_back(self, sender: str) -> None:
        """Whether a joiner's address answers is asked at once, so that a wrong one is named before anybody relies on it."""
        mesh, member = self._mesh, self._mesh.view.get(sender)
        if member and member.url and member.reachable is not True:
            mesh.call(Aim(member.url, sender, Purpose.CALLBACK), mesh.message(sender))

    def _learn_own_url(self, dialed: str) -> None:
        me = self._mesh.me
        if dialed and not me.url:
            self._mesh.rewrite(replace(me.record, url=dialed, version=me.record.version + 1), urgent=True)

    def leave(self) -> None:
        mesh = self._mesh
        others = [each for each in mesh.view.others if each.status is Status.ALIVE]
        mesh.view.set_standing(mesh.me, (mesh.me.incarnation, Status.LEFT), mesh.now)
        for member in mesh.rng.sample(others, min(LEAVERS_TELL, len(others))):
            aim = Aim(member.url, member.node_id, Purpose.NEWS)
            mesh.call(aim, Message(mesh.header(member.node_id), Leave()))
        mesh.event("left", mesh.me)

    # ---- outcomes

    def answer(self, exchange: Exchange, message: Message) -> None:
        """An answer came. Whoever answers at an address owns it, also from another cluster."""
        mesh, aim, sender = self._mesh, exchange.aim, message.header.sender
        if mesh.me.status is Status.LEFT:
            self._conclude(exchange, None)
            return
        foreign = message.header.cluster != mesh.cluster
        if foreign or (aim.to and sender != aim.to) or sender == mesh.me.node_id or self._too_many(message):
            self._misdirected(exchange, message, foreign)
            return
        corrections = self._absorb(message)
        if aim.purpose is Purpose.JOIN:
            self._seeds.answered(exchange, sender)
        member = mesh.view.get(sender)
        if member is None:
            self._conclude(exchange, None)
            return
        self._detector.reached(member)
        self._follow_up(exchange, member, message, corrections)
        self._conclude(exchange, message)

    def failure(self, exchange: Exchange, reason: str) -> None:
        self._conclude(exchange, None, reason)
        if not exchange.void and self._mesh.me.status is not Status.LEFT:
            self._missed(exchange)

    def _missed(self, exchange: Exchange) -> None:
        """Look closer at a member that did not answer, unless this was a closer look itself."""
        member = self._mesh.view.get(exchange.aim.to)
        if member and exchange.aim.purpose in (Purpose.ROUND, Purpose.CALLBACK, Purpose.NEWS, Purpose.PUSH):
            self._detector.missed(member)

    def _conclude(self, exchange: Exchange, message: Message | None, reason: str = "no answer") -> None:
        """Tell whoever waits for the outcome. ``message`` is None where the member that was meant did not answer."""
        mesh, aim = self._mesh, exchange.aim
        if aim.purpose is Purpose.RELAY:
            mesh.reply(aim.ticket, mesh.message(aim.about, self._detector.verdict(aim.to, reached=message is not None)))
        elif aim.purpose is Purpose.HELP:
            verdict = message.body if message and isinstance(message.body, Verdict) else None
            self._detector.helper_done(exchange, verdict)
        elif aim.purpose is Purpose.CHECK and message is None:
            self._detector.direct_failed(exchange, reason)
        elif aim.purpose is Purpose.SYNC and message is None:
            self._sync.failed(exchange)

    def _follow_up(self, exchange: Exchange, member: Member, message: Message, corrections: tuple[Entry, ...]) -> None:
        """Say what the answer showed that the other one lacks."""
        mesh, sync, purpose = self._mesh, self._sync, exchange.aim.purpose
        if purpose is Purpose.SYNC:
            sync.answered(exchange, member, message)
        elif purpose is Purpose.JOIN:
            sync.met(member, message)
        elif message.want and purpose is not Purpose.PUSH:
            sync.give(member, message.want)
        refuted = message.accused is not None and message.accused < mesh.me.standing
        if (corrections or refuted) and purpose is not Purpose.PUSH:
            mesh.tell(member, Purpose.PUSH, corrections)

    def _misdirected(self, exchange: Exchange, message: Message, foreign: bool) -> None:
        """Somebody else answers at a member's address."""
        mesh, aim, sender = self._mesh, exchange.aim, message.header.sender
        if aim.purpose is Purpose.JOIN:
            if not foreign and sender == mesh.me.node_id:
                self._seeds.answered(exchange, sender)
                self._sync.alone()
                self._learn_own_url(aim.url)
        elif not isinstance(message.body, Refusal) or foreign:
            if not self._displace(aim.to, aim.url):
                self._missed(exchange)
            if not foreign and sender != mesh.me.node_id and sender not in mesh.view.members:
                self._seeds.join(aim.url)
        self._conclude(exchange, None, f"{sender} answers at {aim.url}")

    def _displace(self, node_id: str, url: str) -> bool:
        """The address of this member is another's now, which proves its end at once; once only, should it refute that."""
        mesh, member = self._mesh, self._mesh.view.get(node_id)
        if member is None or member is mesh.me or member.url != url or not url or not member.is_live:
            return False
        if member.displaced:
            self._detector.unreachable(member, f"another node answers at {url}")
            return False
        member.displaced = True
        mesh.event("displaced", member, reason=f"another node answers at {url}")
        mesh.mark(member, (member.incarnation, Status.DEAD), mesh.me.node_id, f"another node answers at {url}")
        return True

    # ---- claims

    def _absorb(self, message: Message) -> tuple[Entry, ...]:
        """Merge all that a message claims; returns what the sender should know better."""
        sender, is_news = message.header.sender, not isinstance(message.body, Page) or self._sync.settled
        if message.accused and self._is_for_me(message):
            self._accused(message.accused, sender)
        stale = [each for each in message.entries if self._claim(each, sender, is_news)]
        for load in message.loads:
            self._load(load)
        self._speaker(message)
        corrections = (self._mesh.news.entry(each.node_id, with_record=each.record is not None) for each in stale)
        return tuple(each for each in corrections if each)

    def _speaker(self, message: Message) -> None:
        """The sender speaks for itself: it is alive at its incarnation, or has left."""
        mesh, header = self._mesh, message.header
        member = mesh.view.get(header.sender)
        if member is None:
            return
        status = Status.LEFT if isinstance(message.body, Leave) else Status.ALIVE
        was_dead = member.status is Status.DEAD
        mesh.mark(member, (header.incarnation, status), header.sender)
        self._detector.heard(member)
        self._heartbeat(member, header)
        if self._is_for_me(message):
            if message.unreachable and not member.told_unreachable:
                mesh.event("address_fails", mesh.me, header.sender, f"{mesh.me.url} does not answer {member.record.name}")
            member.told_unreachable = message.unreachable
        if was_dead and member.is_live:
            self._sync.ask(member)
        self._sync.consider(member, header)

    def _is_for_me(self, message: Message) -> bool:
        """What was meant for an older owner of this address says nothing about this node."""
        return message.header.to in ("", self._mesh.me.node_id)

    def _heartbeat(self, member: Member, header: Header) -> None:
        if header.heartbeat > member.heartbeat:
            member.heartbeat, member.heartbeat_at = header.heartbeat, self._mesh.now

    def _accused(self, claim: tuple[int, Status], by: str) -> None:
        mesh = self._mesh
        if mesh.refute(claim, by):
            mesh.doubt = min(MAX_DOUBT, mesh.doubt + 1)

    def _claim(self, entry: Entry, source: str, is_news: bool) -> bool:
        """One entry. True where this node knows better."""
        mesh = self._mesh
        if entry.node_id == mesh.me.node_id:
            self._about_me(entry, source)
            return False
        member = mesh.view.get(entry.node_id)
        if member is None:
            self._unknown(entry, source, is_news)
            return False
        if entry.standing == member.standing and (entry.record is member.record or entry.record is None):
            return False
        stale = self._standing(member, entry, source)
        if entry.record and entry.record.version > member.record.version and entry.record.url:
            self._rewritten(member, entry, source, is_news)
        elif entry.record and entry.record.version < member.record.version:
            stale = True
        return stale

    def _unknown(self, entry: Entry, source: str, is_news: bool) -> None:
        mesh = self._mesh
        if entry.standing[1] <= Status.SUSPECT:
            if (member := mesh.admit(entry, source, is_news=is_news)) and (older := mesh.view.owner_of(member.url, member.node_id)):
                self._contested(older)
        elif entry.standing[1] is Status.LEFT and entry.record and mesh.view.tombstone_room > 0:
            mesh.view.add(Member(entry.record, entry.standing, mesh.now))

    def _contested(self, older: Member) -> None:
        """Two members give one address: some ask at once who is there, the others hear of it or come round to it."""
        mesh = self._mesh
        if mesh.rng.random() < 4 / mesh.view.count:
            mesh.tell(older, Purpose.NEWS)

    def _standing(self, member: Member, entry: Entry, source: str) -> bool:
        mesh, standing = self._mesh, entry.standing
        if standing[1] is Status.DEAD and standing > member.standing and member.is_live:
            self._said_dead(member, standing, source)
            return False
        mesh.mark(member, standing, source)
        return standing < member.standing

    def _said_dead(self, member: Member, standing: tuple[int, Status], source: str) -> None:
        """Verify it. Where another member has its address by now, two accounts agree."""
        mesh = self._mesh
        if mesh.view.owner_of(member.url, member.node_id):
            mesh.mark(member, standing, source, "another node has its address")
            return
        mesh.mark(member, (standing[0], member.status), source)
        self._detector.claimed_dead(member, standing)

    def _rewritten(self, member: Member, entry: Entry, source: str, is_news: bool) -> None:
        mesh, record = self._mesh, entry.record
        assert record is not None
        if record.url != member.url:
            member.reachable, member.displaced = None, False
        urgent = record.draining is not member.record.draining
        mesh.view.set_record(member, record, mesh.now)
        if is_news and member.is_live:
            mesh.news.add(member.node_id, source, urgent=urgent, with_record=True)
        mesh.event("changed", member, source)

    def _about_me(self, entry: Entry, source: str) -> None:
        """Nobody else writes this node's record or counts its incarnations: whatever is above its own is overtaken."""
        mesh, mine = self._mesh, self._mesh.me.record
        self._accused(entry.standing, source)
        record = entry.record
        if record is None or record.version < mine.version or record == mine:
            return
        if record.version >= MAX_COUNTER:
            mesh.event("expelled", mesh.me, source, f"version {record.version} is the last one")
        else:
            mesh.rewrite(replace(mine, version=record.version + 1), urgent=True)

    def _load(self, entry: LoadEntry) -> None:
        member = self._mesh.view.get(entry.node_id)
        if member is None or member is self._mesh.me or entry.heartbeat <= member.heartbeat:
            return
        member.heartbeat, member.heartbeat_at, member.load = entry.heartbeat, self._mesh.now, entry.load
        self._mesh.news.add_load(member.node_id)
