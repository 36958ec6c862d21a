"""What messages do to this node: requests, answers and missing answers. What they claim goes to claims.py first."""

from dataclasses import replace

from app.mesh.claims import Claims
from app.mesh.detector import Detector
from app.mesh.members import Member, Status
from app.mesh.mesh import GOSSIP, Aim, Exchange, Mesh, Purpose
from app.mesh.messages import Entry, Gossip, Join, Leave, Message, Page, Pending, Probe, Refusal, Sync, Verdict
from app.mesh.seeds import Seeds
from app.mesh.settings import MAX_MEMBERS
from app.mesh.sync import Synchroniser

FOREIGN = "foreign_cluster"
LEAVERS_TELL = 8
MAX_CALLBACKS = 64
"""Calls to joiners that are under way at once: strangers, who may be many, must not take the place of rounds and checks."""


class Receiver:
    def __init__(self, mesh: Mesh, claims: Claims, detector: Detector, sync: Synchroniser, seeds: Seeds) -> None:
        self._mesh = mesh
        self._claims = claims
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
        corrections = self._claims.absorb(message)
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
        under_way = sum(each.aim.purpose is Purpose.CALLBACK for each in mesh.exchanges.values())
        if member and member.url and member.reachable is not True and under_way < MAX_CALLBACKS:
            mesh.call(Aim(member.url, sender, Purpose.CALLBACK), mesh.message(sender))

    def _learn_own_url(self, dialed: str) -> None:
        me = self._mesh.me
        if dialed and not me.url:
            self._mesh.rewrite(replace(me.record, url=dialed, version=me.record.version + 1), urgent=True)
            self._claims.ask_own_address()

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
        if foreign or (aim.to and sender != aim.to) or sender == mesh.me.node_id:
            self._misdirected(exchange, message, foreign)
            return
        if self._too_many(message):  # whom it tells of has no room here; that it answered counts all the same
            message = replace(message, entries=())
        corrections = self._claims.absorb(message)
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
