"""What others claim, checked for authority and merged: a record by its version, a standing by (incarnation, status); a death that others
claim is only a reason to look. Nobody else speaks for this node: what is said of it is refuted or overtaken."""

from dataclasses import replace

from app.mesh.detector import Detector
from app.mesh.members import Member, Status
from app.mesh.mesh import Mesh, Purpose, is_far
from app.mesh.messages import Entry, Header, Leave, LoadEntry, Message, Page
from app.mesh.settings import MAX_DOUBT, PAGE_BYTES
from app.mesh.sync import Synchroniser
from app.mesh.wire import entry_size


class Claims:
    def __init__(self, mesh: Mesh, detector: Detector, sync: Synchroniser) -> None:
        self._mesh = mesh
        self._detector = detector
        self._sync = sync

    def absorb(self, message: Message) -> tuple[Entry, ...]:
        """Merge all that a message claims; returns what the sender should know better."""
        sender, is_news = message.header.sender, not isinstance(message.body, Page) or self._sync.settled
        if message.accused and self._is_for_me(message):
            self._accused(message.accused, sender)
        stale = [each for each in message.entries if self._claim(each, sender, is_news)]
        for load in message.loads:
            self._load(load)
        member = self._mesh.view.get(sender)
        if member:
            self._speaker(member, message)
            if message.header.version < member.record.version:  # it does not know what others hold for its record
                stale.append(Entry(sender, member.standing, member.record))
        return self._corrections(stale)

    def _corrections(self, stale: list[Entry]) -> tuple[Entry, ...]:
        """What is known better here, as far as it fits into a message beside news and records."""
        found, room = list[Entry](), PAGE_BYTES
        for each in stale:
            if entry := self._mesh.news.entry(each.node_id, with_record=each.record is not None):
                room -= entry_size(entry)
                if room < 0:
                    break
                found.append(entry)
        return tuple(found)

    def _speaker(self, member: Member, message: Message) -> None:
        """The sender speaks for itself: it is alive at its incarnation, or has left."""
        mesh, header = self._mesh, message.header
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
        """Its own word counts also where others claimed a higher one."""
        if header.heartbeat != member.heartbeat:
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
        if is_far(entry.standing[0], member.incarnation) or (entry.record and is_far(entry.record.version, member.record.version)):
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
            if member := mesh.admit(entry, source, is_news=is_news):
                self._contested(member)
        elif entry.standing[1] is Status.LEFT and entry.record and mesh.view.tombstone_room > 0:
            mesh.view.add(Member(entry.record, entry.standing, mesh.now))

    def _contested(self, newer: Member) -> None:
        """Another member gives the same address: some ask at once who is there, the others hear of it or come round to it. Where the
        address is this node's own, it asks always: only an answer proves whose it is."""
        mesh = self._mesh
        if newer.url == mesh.me.url:
            mesh.tell(newer, Purpose.NEWS)
        elif (older := mesh.view.owner_of(newer.url, newer.node_id)) and mesh.rng.random() < 4 / mesh.view.count:
            mesh.tell(older, Purpose.NEWS)

    def ask_own_address(self) -> None:
        """This node has a new address: whoever else gives it as its own is called there."""
        mesh = self._mesh
        for member in mesh.view.others:
            if member.url == mesh.me.url:
                mesh.tell(member, Purpose.NEWS)

    def _standing(self, member: Member, entry: Entry, source: str) -> bool:
        mesh, standing = self._mesh, entry.standing
        if standing[1] is Status.DEAD and standing > member.standing and member.is_live:
            self._said_dead(member, standing, source)
            return False
        was_live = member.is_live
        mesh.mark(member, standing, source)
        if member.is_live and not was_live:
            self._contested(member)
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
        if record.url == mesh.me.url:
            mesh.tell(member, Purpose.NEWS)
        if is_news and member.is_live:
            mesh.news.add(member.node_id, source, urgent=urgent, with_record=True)
        mesh.event("changed", member, source)

    def _about_me(self, entry: Entry, source: str) -> None:
        """Nobody else writes this node's record or counts its incarnations: whatever is above its own is overtaken."""
        mesh, mine = self._mesh, self._mesh.me.record
        self._accused(entry.standing, source)
        record = entry.record
        if record and mine.version <= record.version and record != mine and mesh.may_follow(record.version, mine.version):
            mesh.rewrite(replace(mine, version=record.version + 1), urgent=True)

    def _load(self, entry: LoadEntry) -> None:
        member = self._mesh.view.get(entry.node_id)
        if member is None or member is self._mesh.me or entry.heartbeat <= member.heartbeat:
            return
        member.heartbeat, member.heartbeat_at, member.load = entry.heartbeat, self._mesh.now, entry.load
        self._mesh.news.add_load(member.node_id)
