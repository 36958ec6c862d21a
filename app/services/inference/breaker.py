"""A circuit breaker: after several failures in a row a provider is left alone for a while, then tried with one request at a time."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """``recovery_timeout_s`` is how long an open circuit stays open before a trial."""

    failure_threshold: int = 5
    recovery_timeout_s: float = 30.0


class Breaker:
    """Each ``enter`` that returns 0 is followed by one ``leave``; ``now`` is monotonic seconds."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._opened_at = 0.0
        self._trial = False

    @property
    def open(self) -> bool:
        return self._failures >= self._policy.failure_threshold

    def enter(self, now: float) -> float:
        """0 when a request may go, else the seconds to wait."""
        if not self.open:
            return 0.0
        wait_s = self._opened_at + self._policy.recovery_timeout_s - now
        if wait_s > 0:
            return wait_s
        if self._trial:
            return 1.0
        self._trial = True
        return 0.0

    def leave(self, now: float, success: bool | None) -> None:
        """The request's end; None when it says nothing about the provider (the client left, the deadline passed)."""
        self._trial = False
        if success:
            self._failures = 0
        elif success is False:
            self._failures += 1
            self._opened_at = now
