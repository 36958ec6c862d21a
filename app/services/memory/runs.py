"""Runs under an Idempotency-Key: what is kept of one, and what a store says that does not give a key to whoever claims it."""

from dataclasses import dataclass, replace

from app.errors import Conflict, KeyReused, RunUnderWay

_REMEMBERED = 16
"""Attempts under one key that are still known to have been taken over: each had a whole lease, so this is long."""


@dataclass(frozen=True, slots=True)
class RunKey:
    """Whose key it is; ``key`` is a digest of the client's."""

    agent: str
    principal: str
    key: str


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt. ``state`` is running, done or released; ``answer`` is JSON, None where none is kept. ``before`` are tokens of attempts
    before it, for stores that keep the last attempt alone."""

    token: str
    session: str
    fingerprint: str
    attempt: int
    state: str
    at_us: int
    answer: bytes | None = None
    before: tuple[str, ...] = ()

    def is_alive(self, now_us: int, lease_s: float) -> bool:
        return self.state == "running" and abs(now_us - self.at_us) <= lease_s * 1e6


def claimed(there: Run | None, mine: Run, lease_s: float) -> Run:
    """What a claim makes of the one attempt that a store keeps under a key: the same run with its lease renewed, the next attempt, or the
    run that is done, which stays as it is. ``mine`` was made at the store's time now. Raises KeyReused, RunUnderWay, and Conflict for a
    token whose run has ended or been taken over."""
    if there is None:
        return mine
    if mine.token in there.before:
        raise lost()
    if there.token == mine.token:
        return replace(still(there, mine.token), at_us=mine.at_us)
    if there.fingerprint != mine.fingerprint:
        raise reused()
    if there.state == "done":
        return there
    if there.is_alive(mine.at_us, lease_s):
        raise under_way()
    return replace(mine, attempt=there.attempt + 1, before=(*there.before, there.token)[-_REMEMBERED:])


def still(there: Run | None, token: str) -> Run:
    """The run, if it is the token's and goes on. Raises Conflict."""
    if there is None or there.token != token or there.state != "running":
        raise lost()
    return there


def reused() -> KeyReused:
    told = "This Idempotency-Key was used for another request to this agent"
    return KeyReused(f"{told}; take a new key for a new request.", param="Idempotency-Key")


def under_way() -> RunUnderWay:
    told = "A run under this Idempotency-Key is under way"
    return RunUnderWay(f"{told}; ask again for its answer, or with `Prefer: wait`.", headers={"Retry-After": "2"})


def lost() -> Conflict:
    return Conflict("This run is no longer the one under its Idempotency-Key: its lease ran out, and another has begun or ended.")
