"""Knows the truth about a world, and checks at every step that no view contradicts it more than the protocol promises."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.mesh.members import Member, Record, Standing, Status, View, token
from app.mesh.messages import Event, Step
from app.mesh.settings import QUIET_BYTES
from tests.mesh.world import FOREVER, HTTP_BYTES, OTHER, Cut, Node, World, describe

SHORT_STALL_S = 1.0  # what a process may stand still without being excused
HEAL_SMALL_S, HEAL_LARGE_S, LARGE = 15.0, 30.0, 100
WORTH_NOTING = {"stalled", "expelled", "accused"}


@dataclass(slots=True)
class Crash:
    """What fell at one instant; ``before`` is who lived until then."""

    when: float
    before: list[Node]
    victims: list[Node]


@dataclass(slots=True)
class Oracle:
    world: World
    violations: list[str] = field(default_factory=list)
    suspicions: int = 0
    false_suspicions: int = 0
    false_deaths_excused: int = 0
    messages_refuted: int = 0
    _by_id: dict[str, Node] = field(default_factory=dict)
    _seen: dict[tuple[str, str], Standing] = field(default_factory=dict)
    _mates_seen: dict[tuple[str, int], tuple[set[str], int]] = field(default_factory=dict)
    _views: dict[tuple[str, str], int] = field(default_factory=dict)
    _crash: Crash | None = None
    _vanished_at: float = float("-inf")
    _quiet_from: float = FOREVER

    def violated(self, text: str) -> None:
        self.world.note(f"VIOLATION {text}")
        self.violations.append(f"{self.world.now:.2f} {text}")

    # ---- every step

    def watch(self, node: Node, step: Step) -> None:
        for event in step.events:
            if event.node_id != node.id:
                self._never_smaller(node, event.node_id)
            self._note(node, event)
            if event.kind == "suspect" and event.by == node.id:
                self._suspected(node, event.node_id)
            elif event.kind == "dead":
                self._died(node, event.node_id)
        if self.world.rng.random() < 0.01:
            self.audit(node)

    def _note(self, node: Node, event: Event) -> None:
        """What many views see alike is one line."""
        if event.kind in ("dead", "displaced", "left"):
            count = self._views[event.kind, event.node_id] = self._views.get((event.kind, event.node_id), 0) + 1
            if count & (count - 1) == 0:
                self.world.note(f"{node.id[:6]}: {describe(event)}; so in {count} views")
        elif event.kind in WORTH_NOTING or (event.kind == "suspect" and event.by == node.id):
            self.world.note(f"{node.id[:6]}: {describe(event)}")

    def audit(self, node: Node) -> None:
        """All of one view: nothing fell, nobody wrote another's record, the hash is what it should be."""
        view, expected = node.maia.view, 0
        for member in view:
            self._never_smaller(node, member.node_id)
            truth = self.node(member.node_id)
            if truth is None or member.record.version > truth.maia.view.me.record.version:
                self.violated(f"{node.id[:6]} holds a record of {member.node_id[:6]} that it never wrote")
            if member.is_live:
                expected ^= token(member.node_id, member.record.version)
        if expected != view.hash or view.count != sum(each.is_live for each in view):
            self.violated(f"{node.id[:6]} has a hash or count that its members do not have")

    def _never_smaller(self, node: Node, node_id: str) -> None:
        member = node.maia.view.get(node_id)
        if member is None:
            return
        before = self._seen.get((node.id, node_id))
        if before is not None and member.standing < before:
            self.violated(f"{node.id[:6]} moved {node_id[:6]} from {before} to {member.standing}")
        if before is not None and before[1] is Status.LEFT and member.is_live:
            self.violated(f"{node_id[:6]} had left and lives again in {node.id[:6]}")
        self._seen[node.id, node_id] = member.standing

    def _suspected(self, node: Node, node_id: str) -> None:
        """Suspicion is allowed, but not to who has just stood still; and nobody healthy is suspected while nothing is wrong."""
        now, settings = self.world.now, self.world.settings
        subject = self.node(node_id)
        self.suspicions += 1
        if subject is None or not subject.up(now):
            return
        self.false_suspicions += 1
        grace = settings.gossip_interval + settings.exchange_timeout
        for start, end in node.frozen:
            if end - start > 3 + 1 and end <= now < end + grace - 0.05:
                self.violated(f"{node.id[:6]} stood still until {end:.2f} and accuses {node_id[:6]}")
        if now - settings.exchange_timeout * 2.5 > self._quiet_from and not self._excused(node, now - settings.failure_timeout):
            self.violated(f"{node.id[:6]} suspects {node_id[:6]}, though nothing is wrong any more")

    def _died(self, node: Node, node_id: str) -> None:
        world, subject = self.world, self.node(node_id)
        if subject is None or subject.left or not subject.up(world.now):
            return
        since = world.now - world.settings.failure_timeout
        if self._excused(subject, since) or self._excused(node, since):
            self.false_deaths_excused += 1
            return
        mates, living = self._mates(subject)
        if node.id in mates and 2 * (len(mates) + 1) > living:
            self.violated(f"{node_id[:6]} runs, is in touch with {len(mates)} of {living}, and is dead in {node.id[:6]}")
        else:
            self.false_deaths_excused += 1

    def _mates(self, subject: Node) -> tuple[set[str], int]:
        """Who could exchange messages with it over the last failure_timeout, and how many live; looked up ten times a second."""
        now, key = self.world.now, (subject.id, int(self.world.now * 10))
        if key not in self._mates_seen:
            since = now - self.world.settings.failure_timeout
            living = list(self.world.living(subject.identity.cluster))
            well = [each for each in living if each is not subject and not self._excused(each, since)]
            cuts = self._cuts_since(since)
            self._mates_seen[key] = {each.id for each in well if not _cut_off(cuts, each, subject)}, len(living)
        return self._mates_seen[key]

    def _excused(self, node: Node, since: float) -> bool:
        """Whether it was not there all the time since, or stood still."""
        if node.started > since or not node.up(self.world.now):
            return True
        return any(end > since and start < self.world.now and end - start > SHORT_STALL_S for start, end in node.frozen)

    def _cuts_since(self, since: float) -> list[Cut]:
        return [cut for cut in self.world.cuts if cut.end > since and cut.start < self.world.now]

    def node(self, node_id: str) -> Node | None:
        if node_id not in self._by_id:
            self._by_id = {each.id: each for each in self.world.nodes}
        return self._by_id.get(node_id)

    # ---- crashes

    def crashed(self, victims: list[Node]) -> None:
        """They crashed just now: when must who know it? What falls in one instant is one crash."""
        world, settings = self.world, self.world.settings
        self._vanished_at = max(self._vanished_at, world.now)
        if self._crash and self._crash.when == world.now:
            self._crash.victims += victims
            return
        crash = self._crash = Crash(world.now, [*world.living(), *world.living(OTHER), *victims], list(victims))
        world.after(settings.failure_timeout + 0.05, self._must_know, crash, Status.SUSPECT)
        world.after(settings.dead_timeout + 0.05, self._must_know, crash, Status.DEAD)
        world.after(settings.dead_timeout + 5.05, self._must_know, crash, None)

    def _must_know(self, crash: Crash, least: Status | None) -> None:
        """``least`` None: the bound that holds also when more than half are gone."""
        for cluster in {each.identity.cluster for each in crash.victims}:
            before = [each for each in crash.before if each.identity.cluster == cluster]
            well = [each for each in before if not self._excused(each, crash.when)]
            cuts = self._cuts_since(crash.when)
            for node in self.world.living(cluster):
                if self._excused(node, crash.when - 5):
                    continue
                mates = sum(each is not node and not _cut_off(cuts, each, node) for each in well)
                if (len(before) - mates - 1) * 2 > len(before) and least is not None:
                    continue
                if mates or len(before) <= 2:
                    self._knows_of(node, crash, Status.DEAD if least is None else least)

    def _knows_of(self, node: Node, crash: Crash, least: Status) -> None:
        """Of a victim that it has heard of since (a node that stood still may tell of who is long dead) it knows later; how much later, the
        equality of views at the end bounds: maia.md promises times for views that held the victim when it crashed."""
        for victim in crash.victims:
            member = node.maia.view.get(victim.id)
            if member and member.status < least and member.joined_at <= crash.when:
                late = self.world.now - crash.when
                self.violated(f"{victim.id[:6]} crashed {late:.1f} s ago and is {member.status.name} in {node.id[:6]}")

    # ---- the end

    def converged(self, cluster: str = "astromesh") -> bool:
        living = list(self.world.living(cluster))
        truth = {each.id: each.maia.view.me.record.version for each in living}
        expected = 0
        for node_id, version in truth.items():
            expected ^= token(node_id, version)
        views = [each.maia.view for each in living]
        if any(view.hash != expected or view.count != len(truth) for view in views):
            return False
        return all(_is_true(view, truth) for view in views)

    def differences(self, cluster: str = "astromesh") -> Iterable[str]:
        living = list(self.world.living(cluster))
        truth = {each.id for each in living}
        for node in living:
            view = {each.node_id for each in node.maia.view if each.status is Status.ALIVE}
            doubtful = {each.node_id for each in node.maia.view if each.status is Status.SUSPECT}
            stale = {
                each.id for each in living if (m := node.maia.view.get(each.id)) and m.record.version != each.maia.view.me.record.version
            }
            if view != truth or doubtful or stale:
                parts = (("lacks", truth - view - doubtful), ("suspects", doubtful), ("keeps", view - truth), ("outdated", stale))
                told = "; ".join(f"{word} {', '.join(sorted(each[:6] for each in ids))[:120]}" for word, ids in parts if ids)
                yield f"{node.id[:6]} {node.url} {told}"

    def heal_by(self, size: int) -> float:
        """Until when all views must be equal, when the last fault ends now."""
        bound = HEAL_SMALL_S if size <= LARGE else HEAL_LARGE_S
        vanished = self._vanished_at + self.world.settings.dead_timeout + 5
        if self._has_ghosts():
            vanished = max(vanished, self.world.now + self.world.settings.dead_timeout)
        return max(self.world.now, vanished) + bound

    def _has_ghosts(self) -> bool:
        """Whether one that stood still will tell others of members that are gone without an answer at their address, and of which those
        have never heard (they started since): for them it vanishes only now, and maia.md adds dead_timeout to that."""
        views = [each.maia.view for each in self.world.living()]
        held = {each.node_id for view in views for each in view if each.is_live and each.url not in self.world.at}
        return any(node_id not in view.members for node_id in held for view in views)

    def quiet(self) -> None:
        """No fault any more, from now on."""
        self._quiet_from = self.world.now

    def frugal(self, size: int, spent: int, span_s: float) -> float:
        """What a node spends while nothing happens: the same bound for every size. Returns its bytes a second."""
        settings = self.world.settings
        bound = settings.gossip_fanout / settings.gossip_interval * (HTTP_BYTES + 2 * QUIET_BYTES)
        if (per_node := spent / size / span_s) > bound:
            self.violated(f"each of {size} quiet nodes spends {per_node:.0f} bytes a second, more than {bound:.0f}")
        return per_node


def _is_true(view: View, truth: dict[str, int]) -> bool:
    """Whether it holds alive who lives, at that version, and nobody else."""
    live = [each for each in view if each.is_live]
    if len(live) != len(truth):
        return False
    return all(each.status is Status.ALIVE and truth.get(each.node_id) == each.record.version for each in live)


def _cut_off(cuts: list[Cut], one: Node, other: Node) -> bool:
    return any(cut.blocks(one.url, other.url) or cut.blocks(other.url, one.url) for cut in cuts)


@contextmanager
def every_change_checked(oracle: Oracle) -> Iterator[None]:
    """While it is open, no view changes a standing or a record without the oracle looking: nothing may fall, and who left stays so."""
    set_standing, set_record = View.set_standing, View.set_record

    def checked_standing(view: View, member: Member, standing: Standing, now: float) -> None:
        if standing <= member.standing or (member.status is Status.LEFT and standing[1] is not Status.LEFT):
            oracle.violated(f"{view.me.node_id[:6]} moves {member.node_id[:6]} from {member.standing} to {standing}")
        if member is not view.me and (truth := oracle.node(member.node_id)) and standing[0] > truth.maia.view.me.incarnation:
            oracle.violated(f"{view.me.node_id[:6]} gives {member.node_id[:6]} an incarnation that it never had: {standing}")
        set_standing(view, member, standing, now)

    def checked_record(view: View, member: Member, record: Record, now: float) -> None:
        if record.version <= member.record.version:
            oracle.violated(f"{view.me.node_id[:6]} replaces {member.record} by {record}")
        set_record(view, member, record, now)

    View.set_standing, View.set_record = checked_standing, checked_record  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        View.set_standing, View.set_record = set_standing, set_record  # type: ignore[method-assign]
