"""Maia, the protocol of the mesh as a pure state machine: time, randomness and messages come in, a Step goes out. README.md has the rules.

    maia = Maia(identity, settings, rng)
    step = maia.start(now)              # send step.sends, publish step.events, call tick at step.deadline
    step = maia.tick(now)
    answer, step = maia.receive(now, message, came_from)    # a request; the answer may be Pending and come as a Reply in a later step
    step = maia.answered(now, exchange, message)            # the outcome of a Send, or
    step = maia.failed(now, exchange, reason)
    step = maia.update_own(now, services=(...), ...), .update_seeds(now, urls), .evidence(now, node_id, ok), .leave(now)
    maia.view                           # members as this node sees them: read only

Its laws: ``now`` is one monotonic clock; no call raises for anything that a decoded message may hold; what a member says of itself is
changed by that member alone; for one node_id (incarnation, status) never falls.
"""

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import TypedDict, Unpack

from app.mesh.claims import Claims
from app.mesh.detector import Detector
from app.mesh.members import Identity, Load, Status, View
from app.mesh.mesh import GOSSIP, Aim, Exchange, Mesh, Purpose
from app.mesh.messages import Gossip, Message, Pending, Step
from app.mesh.receive import Receiver
from app.mesh.seeds import Seeds
from app.mesh.settings import BURST_GAP_S, BURST_SIZE, MAX_DOUBT, NEWS_DELAY_S, STALL_GAP_S, STALL_LATE_S, TOMBSTONE_S, MeshSettings
from app.mesh.sync import Synchroniser

NEVER = float("inf")
_GONE = frozenset(("left", "dead", "displaced"))
LAG_S = 0.25  # woken this much late, a node trusts itself less


class OwnChanges(TypedDict, total=False):
    """What a node may change of its own record."""

    url: str
    services: tuple[str, ...]
    catalogue_hash: str
    store_id: str
    draining: bool


class Maia:
    def __init__(self, me: Identity, settings: MeshSettings, rng: random.Random) -> None:
        self._mesh = Mesh(me, settings, rng)
        self._detector = Detector(self._mesh)
        self._sync = Synchroniser(self._mesh)
        self._seeds = Seeds(self._mesh, settings.seeds)
        self._claims = Claims(self._mesh, self._detector, self._sync)
        self._receiver = Receiver(self._mesh, self._claims, self._detector, self._sync, self._seeds)
        self._next_round = self._next_beat = NEVER
        self._next_burst, self._last_burst = NEVER, float("-inf")
        self._ran_at = self._due_at = NEVER
        self._load = Load()

    @property
    def view(self) -> View:
        return self._mesh.view

    @property
    def has_left(self) -> bool:
        return self._mesh.me.status is Status.LEFT

    # ---- inputs

    def start(self, now: float) -> Step:
        mesh = self._mesh
        mesh.now = self._ran_at = self._due_at = now
        mesh.me.joined_at = mesh.me.since = mesh.me.heartbeat_at = mesh.view.changed_at = now
        self._next_round = now + mesh.rng.uniform(0, mesh.settings.gossip_interval)
        self._next_beat = now + mesh.rng.uniform(0, mesh.settings.heartbeat_interval)
        self._seeds.hurry()
        return self._done()

    def tick(self, now: float) -> Step:
        self._wake(now)
        return self._done()

    def receive(self, now: float, message: Message, came_from: str | None = None) -> tuple[Message | Pending, Step]:
        """Take a request. The answer is to be sent back; a Refusal among them changed nothing."""
        self._wake(now)
        answer = self._receiver.request(message, came_from or "")
        return answer, self._done()

    def answered(self, now: float, exchange: int, message: Message) -> Step:
        self._wake(now)
        if found := self._mesh.exchanges.pop(exchange, None):
            self._receiver.answer(found, message)
        return self._done()

    def failed(self, now: float, exchange: int, reason: str) -> Step:
        """No answer came within the Send's time, or none that could be read."""
        self._wake(now)
        if found := self._mesh.exchanges.pop(exchange, None):
            if found.aim.purpose is Purpose.ROUND and not found.void:
                self._chase(found)
            self._receiver.failure(found, reason)
        return self._done()

    def not_sent(self, now: float, exchange: int, reason: str) -> Step:
        """This node was too busy to ask: that proves nothing about whom it would have asked."""
        self._wake(now)
        if found := self._mesh.exchanges.pop(exchange, None):
            found.void = True
            self._receiver.failure(found, reason)
        return self._done()

    def update_own(self, now: float, load: Load | None = None, **changes: Unpack[OwnChanges]) -> Step:
        """Change what this node says of itself; ``load`` is told with the next heartbeat. Give what wire.py takes, or others refuse it."""
        self._wake(now)
        mesh, record = self._mesh, self._mesh.me.record
        self._load = load or self._load
        changed = replace(record, **changes)
        if changed != record:
            urgent = changed.draining is not record.draining or changed.url != record.url
            mesh.rewrite(replace(changed, version=record.version + 1), urgent=urgent)
            if changed.url != record.url:
                self._claims.ask_own_address()
        return self._done()

    def update_seeds(self, now: float, urls: Iterable[str]) -> Step:
        """All addresses of the seeds, as their names resolve now."""
        self._wake(now)
        self._seeds.update(urls)
        return self._done()

    def evidence(self, now: float, node_id: str, ok: bool) -> Step:
        """What forwarding found out about a member: whether it answered."""
        self._wake(now)
        member = self._mesh.view.get(node_id)
        if member and member.is_live and member is not self._mesh.me:
            if ok:
                self._detector.reached(member)
            else:
                self._detector.request_failed(member)
        return self._done()

    def leave(self, now: float) -> Step:
        """Leave for good: some are told, and everybody who still calls."""
        self._wake(now)
        if not self.has_left:
            self._receiver.leave()
        return self._done()

    # ---- time

    def _wake(self, now: float) -> None:
        """Every input comes through here: what is due is done first, and whether this node stood still is noticed."""
        mesh = self._mesh
        gap, late = now - self._ran_at, now - self._due_at
        mesh.now, mesh.step = now, Step()
        self._ran_at = now
        if self.has_left:
            return
        if late > STALL_LATE_S and gap > STALL_GAP_S:
            self._stalled(gap)
        elif late > LAG_S:
            mesh.doubt = min(MAX_DOUBT, mesh.doubt + 1)
        if now < self._due_at:
            return
        self._seeds.tick()
        self._sync.tick()
        self._detector.tick()
        self._beat()
        self._round()
        self._burst()

    def _stalled(self, gap: float) -> None:
        mesh = self._mesh
        mesh.event("stalled", mesh.me, reason=f"{gap:.1f} s")
        for exchange in mesh.exchanges.values():
            exchange.void = True
        self._detector.stalled(gap)
        forgotten = gap > TOMBSTONE_S / 2
        self._sync.stalled(forgotten=forgotten)
        self._next_round = mesh.now
        if forgotten:  # others may have forgotten what this view would bring back
            mesh.forget_all()
            self._seeds.hurry()

    def _done(self) -> Step:
        mesh, step = self._mesh, self._mesh.step
        if self.has_left:
            self._due_at = NEVER
        else:
            if any(event.kind in _GONE for event in step.events):
                self._seeds.missed()
            if mesh.news.is_urgent and mesh.view.count > 1:
                self._next_burst = min(self._next_burst, max(mesh.now + NEWS_DELAY_S, self._last_burst + BURST_GAP_S))
            due = (self._next_round, self._next_beat, self._next_burst, self._detector.deadline, self._sync.deadline, self._seeds.deadline)
            self._due_at = max(mesh.now, min(due))
        step.deadline = self._due_at
        return step

    def _beat(self) -> None:
        mesh = self._mesh
        if mesh.now < self._next_beat:
            return
        mesh.me.heartbeat += 1
        mesh.me.heartbeat_at, mesh.me.load = mesh.now, self._load
        mesh.news.add_load(mesh.me.node_id)
        self._next_beat = mesh.now + mesh.settings.heartbeat_interval * mesh.rng.uniform(0.95, 1.05)

    def _round(self) -> None:
        """Meet the members whose turn it is: probe and gossip at once."""
        mesh = self._mesh
        if mesh.now < self._next_round:
            return
        self._next_round = mesh.now + mesh.settings.gossip_interval * mesh.rng.uniform(0.9, 1.1)
        mesh.view.forget(mesh.now)
        busy = self._busy()
        for _ in range(mesh.settings.gossip_fanout):
            member = mesh.ring.next(skip=busy)
            if member is None:
                return
            busy.add(member.node_id)
            mesh.call(Aim(member.url, member.node_id, Purpose.ROUND), mesh.message(member.node_id, Gossip(round=True)))

    def _chase(self, missed: Exchange) -> None:
        """A round's exchange failed: the next one's turn comes at once, so that many who fell together are found together."""
        mesh = self._mesh
        busy = self._busy() | {missed.aim.to}
        if member := mesh.ring.next(skip=busy, suspects=False):
            mesh.call(Aim(member.url, member.node_id, Purpose.ROUND), mesh.message(member.node_id, GOSSIP))

    def _busy(self) -> set[str]:
        return {each.aim.to for each in self._mesh.exchanges.values() if each.aim.purpose is Purpose.ROUND}

    def _burst(self) -> None:
        """Tell urgent news to some members now."""
        mesh = self._mesh
        if mesh.now < self._next_burst:
            return
        self._next_burst, self._last_burst = NEVER, mesh.now
        fit = [each for each in mesh.view.others if each.status is Status.ALIVE] or mesh.view.others
        for member in mesh.rng.sample(fit, min(BURST_SIZE, len(fit))):
            mesh.tell(member, Purpose.NEWS)
