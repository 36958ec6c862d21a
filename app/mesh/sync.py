"""Two views are made equal, page by page: the asker sends digests of what it has, the answerer what the asker lacks, and asks for what it
lacks itself. Done after joining until two views were found equal, and later only where views stay different longer than news needs."""

from bisect import bisect_right
from itertools import islice

from app.mesh.members import Member
from app.mesh.mesh import Aim, Exchange, Mesh, Purpose
from app.mesh.messages import Digest, Entry, Header, Message, Page, Sync
from app.mesh.settings import PAGE_BYTES, PAGE_DIGESTS, SYNC_FIRST_S, SYNC_GROWTH, SYNC_LAST_S, SYNC_LATEST_S, SYNC_PATIENCE_S
from app.mesh.wire import entry_size

NEVER = float("inf")
EQUAL_VIEWS = 2  # that a joiner wants to have met
HASTE_S = 1.0  # least time between two synchronisations, however different the views are


class Synchroniser:
    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._open: int | None = None
        self._last_at = float("-inf")
        self._differs_since = NEVER
        self._step_s = SYNC_FIRST_S
        self._equal = 0
        self.joined = False
        self.settled = not mesh.settings.seeds
        """Whether this view is as good as others': until then, what pages bring is no news to anybody else."""
        self.deadline = NEVER

    def begin(self) -> None:
        """This node has joined: synchronise in growing steps until two views were found equal."""
        self._equal, self._step_s, self.settled, self.joined = 0, SYNC_FIRST_S, False, True
        self.deadline = self._mesh.now + self._step_s

    def tick(self) -> None:
        mesh = self._mesh
        if self.settled or mesh.now < self.deadline:
            return
        self._step_s = min(self._step_s * SYNC_GROWTH, SYNC_LAST_S)
        self.deadline = mesh.now + self._step_s
        fit = [each for each in mesh.view.others if each.reachable is not False] or mesh.view.others
        if fit and self._open is None:
            self.ask(mesh.rng.choice(fit))

    def alone(self) -> None:
        """A seed proved to be this node itself. Where nobody else is known, this view is all there is."""
        if not self._mesh.view.others:
            self.settled, self.deadline = True, NEVER

    def stalled(self, *, forgotten: bool) -> None:
        self._open = None
        self.joined = self.joined and not forgotten

    def consider(self, partner: Member, header: Header) -> None:
        """Compare views by what a message says of the sender's; ask for its view where they stay different, or are far apart."""
        mesh, since = self._mesh, self._mesh.now - self._last_at
        if header.view_hash == mesh.view.hash:
            self._differs_since = NEVER
            return
        self._differs_since = min(self._differs_since, mesh.now)
        if self._open is not None or since < HASTE_S or not partner.is_live:
            return
        far_apart = abs(header.count - mesh.view.count) > 0.2 * max(header.count, mesh.view.count)
        waited = mesh.now - mesh.view.changed_at > SYNC_PATIENCE_S or mesh.now - self._differs_since > SYNC_LATEST_S
        if far_apart or (since >= SYNC_LAST_S and waited):
            self.ask(partner)

    def ask(self, partner: Member, start: str = "") -> None:
        mesh = self._mesh
        mine = sorted((each for each in mesh.view if each.is_live and each.node_id > start), key=lambda each: each.node_id)
        upto = mine[PAGE_DIGESTS - 1].node_id if len(mine) > PAGE_DIGESTS else ""
        digests = tuple(Digest(each.node_id, each.record.version, each.standing) for each in mine[:PAGE_DIGESTS])
        aim = Aim(partner.url, partner.node_id, Purpose.SYNC)
        message = Message(mesh.header(partner.node_id), Sync(start, upto, digests), partner.accusation, entries=(mesh.my_entry(),))
        self._open, self._last_at = mesh.call(aim, message), mesh.now
        self._differs_since = NEVER

    def met(self, partner: Member, message: Message) -> None:
        """A Join was answered, with all that the other one knows: for a node that is in the mesh already, two meshes may have met."""
        if not self.joined:
            self.begin()
        if isinstance(message.body, Page) and message.body.next:
            self.ask(partner, message.body.next)
        elif self.settled and message.header.view_hash != self._mesh.view.hash:
            self.ask(partner)

    def failed(self, exchange: Exchange) -> None:
        if self._open == exchange.number:
            self._open = None

    def answered(self, exchange: Exchange, partner: Member, message: Message) -> None:
        """A page came (its entries are in the view already): send what it wants, and ask for the next one."""
        if self._open == exchange.number:
            self._open = None
        self.give(partner, message.want)
        if isinstance(message.body, Page) and message.body.next:
            self.ask(partner, message.body.next)
        elif message.header.view_hash == self._mesh.view.hash:
            self._equal += 1
            if self._equal >= EQUAL_VIEWS and not self.settled:
                self.settled, self.deadline = True, NEVER
                self._mesh.event("synchronised", self._mesh.me)

    def give(self, partner: Member, want: tuple[str, ...]) -> None:
        """Send the records that a member asked for, in messages of bounded size."""
        while want:
            entries = self.records(want)
            want = want[len(entries) :]
            known = tuple(each for each in entries if each)
            if known:
                self._mesh.tell(partner, Purpose.PUSH, known)

    def records(self, want: tuple[str, ...]) -> list[Entry | None]:
        """As many of the wanted entries, in their order, as fit into one message; None for members that are not known."""
        entries, room = list[Entry | None](), PAGE_BYTES
        for node_id in want:
            entries.append(entry := self._mesh.news.entry(node_id, with_record=True))
            room -= entry_size(entry) if entry else 0
            if room < 0:
                break
        return entries

    def page(self, asker: str, question: Sync, seen_as: str) -> Message:
        """The answer to a Sync, and with no digests to a Join."""
        mesh = self._mesh
        theirs = {each.node_id: each for each in question.digests}
        span = sorted(each.node_id for each in mesh.view if each.is_live or each.node_id in theirs)
        entries, room, following = list[Entry](), PAGE_BYTES, question.upto
        for node_id in islice(span, bisect_right(span, question.start), None):
            if question.upto and node_id > question.upto:
                break
            entry = self._difference(mesh.view.members[node_id], theirs.get(node_id))
            if entry is None or (node_id == asker and asker not in theirs):
                continue
            entries.append(entry)
            room -= entry_size(entry)
            if room < 0:
                following = node_id
                break
        want = tuple(each.node_id for each in question.digests if self._lacks(each) and (not following or each.node_id <= following))
        return mesh.page(asker, Page(following, seen_as), tuple(entries), want)

    @staticmethod
    def _difference(mine: Member, theirs: Digest | None) -> Entry | None:
        if theirs is None or theirs.version < mine.record.version:
            return Entry(mine.node_id, mine.standing, mine.record)
        return Entry(mine.node_id, mine.standing) if theirs.standing < mine.standing else None

    def _lacks(self, theirs: Digest) -> bool:
        mine = self._mesh.view.get(theirs.node_id)
        return mine is None or mine.record.version < theirs.version or (mine.standing < theirs.standing and not mine.hearsay)
