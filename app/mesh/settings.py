"""The timings of the mesh in seconds, and its bounds, each with its trade-off. Configurations that cannot keep their promises are named."""

from dataclasses import dataclass

NEWS_DELAY_S = 0.02  # collects what happens at once (a rack that fails) into one message
BURST_GAP_S = 0.25  # urgent news: at most one burst in this time
BURST_SIZE = 3
HELPERS = 3  # indirect probes beside one direct retry
QUIET_BYTES = 640  # body of a message that has no news
NEWS_BYTES = 8_000
PAGE_BYTES = 24_000
PAGE_DIGESTS = 1_000
LEAP_S = 1.0  # between two leaps of one's own counters over what liars claim: using one up takes weeks
MAX_LEAP = 1_000  # by which an incarnation or a version may be ahead of what is known of it
MAX_MEMBERS = 5_000
LOAD_SENDS = 3
JOIN_FIRST_S, JOIN_LAST_S = 0.25, 5.0  # tries of a node that is alone: doubling between these
SEED_PERIOD_S = 10.0  # one try at a seed or a dead member, so that halves of a cut network meet again
MISSED_SEED_S = 1.0  # the same while a seed is away, in a mesh of two; a larger one shares the tries, two a second in all
SYNC_FIRST_S, SYNC_GROWTH, SYNC_LAST_S = 0.25, 1.6, 5.0
SYNC_PATIENCE_S = 6.0  # views may differ this long after a change: news is under way
SYNC_LATEST_S = 9.0  # the same where this view changes all the time: since it was first seen to differ
TOMBSTONE_S = 3_600.0
STALL_LATE_S, STALL_GAP_S = 1.0, 3.0
MAX_DOUBT = 6  # stretches timeouts by up to 1 + 6/4


@dataclass(frozen=True, slots=True)
class MeshSettings:
    """Times in seconds. ``seeds`` are URLs; more than one address of a seed's name are as many URLs (see ``Maia.update_seeds``)."""

    heartbeat_interval: float = 5.0
    gossip_interval: float = 2.0
    gossip_fanout: int = 3
    failure_timeout: float = 15.0
    dead_timeout: float = 30.0
    seeds: tuple[str, ...] = ()

    @property
    def exchange_timeout(self) -> float:
        """T of the protocol. A check takes T + 1.5 T, which must leave room within ``failure_timeout`` for the ring to come round."""
        return min(2.0, self.failure_timeout / 6)

    @property
    def suspicion(self) -> float:
        """How long a suspect has to refute, before its last call (1.5 T, at most T + 1) and within ``dead_timeout`` of the crash."""
        return self.dead_timeout - self.failure_timeout - self.exchange_timeout - 1.0

    def problems(self) -> list[str]:
        """Why these times cannot keep the promises of ``failure_timeout`` and ``dead_timeout``; empty when they can."""
        found = []
        least = 7 * self.gossip_interval / self.gossip_fanout + 2.5 * self.exchange_timeout + 2
        if self.failure_timeout < least:
            found.append(
                f"failure_timeout is {self.failure_timeout:g} s; with gossip_interval {self.gossip_interval:g} s and gossip_fanout "
                f"{self.gossip_fanout} a crash is noticed within {least:.1f} s at best: raise it, or gossip oftener"
            )
        least = self.failure_timeout + self.exchange_timeout + 6
        if self.dead_timeout < least:
            found.append(f"dead_timeout is {self.dead_timeout:g} s; a suspect needs time to refute: raise it to {least:.1f} s at least")
        return found
