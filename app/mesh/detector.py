"""Who is alive. A direct exchange that fails starts a check: helpers and one more direct try, in parallel. When all fail the member is
suspect, which is news and told to itself; it refutes, or after the suspicion period and one last call it is dead. Deaths that others claim
start a check too, and shorten the period where it fails. A node that doubts itself waits longer and never refuses to see."""

from dataclasses import dataclass, field

from app.mesh.members import Member, Standing, Status
from app.mesh.mesh import GOSSIP, Aim, Exchange, Mesh, Purpose
from app.mesh.messages import Entry, Message, Probe, Verdict
from app.mesh.settings import HELPERS, MAX_DOUBT

RETRY_S, RETRIES = 1.0, 3  # members that requests failed at are tried again so often, so many at a time
HEARD_SHARE = 1 / 3  # of failure_timeout: how long the word of a member that does not answer counts as life


@dataclass(slots=True)
class Check:
    """An open check. ``spoke``: the member itself spoke to this node meanwhile, or lately to a helper, though it does not answer."""

    pending: set[int] = field(default_factory=set)
    is_last_call: bool = False
    was_unreachable: bool = False
    helpers: int = 0
    helpers_answered: int = 0
    reached: bool = False
    spoke: bool = False


class Detector:
    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._checks: dict[str, Check] = {}
        self._claimed: dict[str, None] = {}
        """Members that others hold dead, to be looked at when this node may accuse again."""
        self._due = float("inf")
        self._failed_at: dict[str, None] = {}
        self._retry_at = float("-inf")
        self.quiet_until = float("-inf")
        """Until then this node accuses nobody: it has stalled."""

    @property
    def deadline(self) -> float:
        """When the next suspect's time is over, claims may be looked into, or somebody is tried again."""
        retry_at = self._retry_at if self._failed_at else float("inf")
        return min(retry_at, self._deadline())

    def _deadline(self) -> float:
        if not self._mesh.suspects and not self._claimed:
            return float("inf")
        if self._mesh.suspicions_changed:
            self._mesh.suspicions_changed = False
            waiting = [when for node_id, when in self._mesh.suspects.items() if node_id not in self._checks]
            self._due = self.quiet_until if self._claimed else max(min(waiting, default=float("inf")), self.quiet_until)
        return self._due

    def tick(self) -> None:
        """Look into what was claimed while this node was quiet; give the last call to suspects whose time is over."""
        mesh = self._mesh
        self._try_again()
        if mesh.now < self.quiet_until:
            return
        for node_id in self._claimed:
            if (member := mesh.view.get(node_id)) and member.hearsay:
                self.missed(member)
        if self._claimed:
            self._claimed.clear()
            mesh.suspicions_changed = True
        for node_id, when in list(mesh.suspects.items()):
            member = mesh.view.get(node_id)
            if when <= mesh.now and node_id not in self._checks and member:
                self._check(member, is_last_call=True)

    def request_failed(self, member: Member) -> None:
        """A request of a client failed there."""
        self.missed(member)
        self.unreachable(member, "forwarding failed")
        if not self._failed_at:
            self._retry_at = self._mesh.now + RETRY_S
        self._failed_at[member.node_id] = None

    def _try_again(self) -> None:
        """Members that requests failed at are tried some at a time, so that this node uses them again soon after it can. Nothing is told to
        them: news that never arrives would count as told."""
        mesh = self._mesh
        if not self._failed_at or mesh.now < self._retry_at:
            return
        self._retry_at = mesh.now + RETRY_S
        for node_id in list(self._failed_at)[:RETRIES]:
            del self._failed_at[node_id]
            member = mesh.view.get(node_id)
            if member and member.status is Status.ALIVE and member.reachable is False and member.url:
                self._failed_at[node_id] = None  # at the end of the line
                if node_id not in self._checks:
                    hello = Message(mesh.header(node_id), GOSSIP, member.accusation, unreachable=True)
                    mesh.call(Aim(member.url, node_id, Purpose.CHECK, about=node_id), hello)

    def stalled(self, gap_s: float) -> None:
        """This node stood still: its checks are void, suspects get the time that it lost, and for a round it accuses nobody."""
        mesh = self._mesh
        self._checks.clear()
        self._claimed.update((each.node_id, None) for each in mesh.view if each.hearsay)
        mesh.suspicions_changed = True
        for node_id in mesh.suspects:
            mesh.suspects[node_id] += gap_s
        self.quiet_until = mesh.now + mesh.settings.gossip_interval + mesh.settings.exchange_timeout

    def missed(self, member: Member) -> None:
        """A direct exchange with it failed, or others say that it is dead."""
        if member.status is Status.ALIVE and self._mesh.now >= self.quiet_until and member.node_id not in self._checks:
            self._check(member)

    def claimed_dead(self, member: Member, standing: Standing) -> None:
        """Others hold it dead: look at it, at once or when this node may accuse again. A suspect had its time to refute there."""
        if member.status is Status.SUSPECT:
            self._hasten(member)
            return
        member.hearsay = standing
        if self._mesh.now < self.quiet_until:
            self._claimed[member.node_id] = None
            self._mesh.suspicions_changed = True
        self.missed(member)

    def _hasten(self, member: Member) -> None:
        """Its last call comes as soon as its answer to being suspected could have come."""
        suspects = self._mesh.suspects
        suspects[member.node_id] = min(suspects[member.node_id], self._mesh.now + self._mesh.timeout)
        self._mesh.suspicions_changed = True

    def reached(self, member: Member) -> None:
        """It answered this node."""
        mesh = self._mesh
        mesh.doubt = max(0, mesh.doubt - 1)
        if self._checks.pop(member.node_id, None):
            mesh.suspicions_changed = True
        self.heard(member)
        if member.reachable is False:
            self._failed_at.pop(member.node_id, None)
            mesh.event("reachable", member)
        member.reachable = True

    def heard(self, member: Member) -> None:
        """It spoke to this node. That it is alive then is sure, that it can be reached is not."""
        member.heard_at = self._mesh.now
        if check := self._checks.get(member.node_id):
            check.spoke = True

    def direct_failed(self, exchange: Exchange, reason: str) -> None:
        """The direct try of a check failed."""
        member = self._mesh.view.get(exchange.aim.about)
        if member is None or member.node_id not in self._checks:
            return
        self.unreachable(member, reason)
        self._settle(member, exchange)

    def unreachable(self, member: Member, reason: str) -> None:
        if member.reachable is not False:
            member.reachable = False
            self._mesh.event("unreachable", member, reason=reason)

    def helper_done(self, exchange: Exchange, verdict: Verdict | None) -> None:
        """A helper answered, or (None) did not."""
        member = self._mesh.view.get(exchange.aim.about)
        check = self._checks.get(exchange.aim.about)
        if member is None or check is None or exchange.number not in check.pending:
            return
        if verdict:
            check.helpers_answered += 1
            check.reached = check.reached or verdict.reached
            check.spoke = check.spoke or (verdict.heard and check.was_unreachable)
            if verdict.reached and member.status is not Status.DEAD:
                self._mesh.mark(member, (verdict.incarnation, Status.ALIVE), exchange.aim.to)
        self._settle(member, exchange)

    def verdict(self, target: str, *, reached: bool) -> Verdict:
        """What this node, as a helper, says of a member."""
        member = self._mesh.view.get(target)
        if member is None:
            return Verdict(target)
        return Verdict(target, reached, self._spoke_lately(member), member.incarnation)

    def _spoke_lately(self, member: Member) -> bool:
        return self._mesh.now - member.heard_at < self._mesh.settings.failure_timeout * HEARD_SHARE

    def _check(self, member: Member, *, is_last_call: bool = False) -> None:
        mesh, check = self._mesh, Check(is_last_call=is_last_call, was_unreachable=member.reachable is False)
        self._checks[member.node_id] = check
        mesh.suspicions_changed = True
        base = mesh.settings.exchange_timeout if is_last_call else mesh.timeout  # the last call keeps dead_timeout's promise
        charge = (Entry(member.node_id, member.standing),) if member.status is Status.SUSPECT else ()
        fit = [each for each in mesh.view.others if each.status is Status.ALIVE and each.reachable is not False and each is not member]
        for helper in mesh.rng.sample(fit, min(HELPERS, len(fit))):
            aim = Aim(helper.url, helper.node_id, Purpose.HELP, about=member.node_id)
            message = mesh.message(helper.node_id, Probe(member.node_id), charge)
            check.pending.add(mesh.call(aim, message, 1.5 * base))
            check.helpers += 1
        aim = Aim(member.url, member.node_id, Purpose.CHECK, about=member.node_id)
        check.pending.add(mesh.call(aim, mesh.message(member.node_id), 1.5 * base if is_last_call else base))

    def _settle(self, member: Member, exchange: Exchange) -> None:
        """One try of a check is over; after the last one, or once it was reached, the check is."""
        mesh, check = self._mesh, self._checks[member.node_id]
        check.pending.discard(exchange.number)
        if check.pending and not (check.reached and member.reachable is False):
            return
        del self._checks[member.node_id]
        mesh.suspicions_changed = True
        if check.helpers and not check.helpers_answered:
            mesh.doubt = min(MAX_DOUBT, mesh.doubt + 1)
        lives = check.reached or check.spoke or (check.was_unreachable and self._spoke_lately(member))
        if check.is_last_call and member.status is Status.SUSPECT:
            if lives:  # it was told: give its refutation the time to come
                mesh.suspects[member.node_id] = mesh.now + mesh.settings.exchange_timeout + 1
            else:
                mesh.mark(member, (member.incarnation, Status.DEAD), mesh.me.node_id, "answered neither this node nor its helpers")
        elif not lives and member.status is Status.ALIVE:
            is_claimed = member.hearsay is not None
            mesh.mark(member, (member.incarnation, Status.SUSPECT), mesh.me.node_id, "no answer")
            mesh.tell(member, Purpose.NEWS)
            if is_claimed:
                self._hasten(member)
        elif lives:
            member.hearsay = None
