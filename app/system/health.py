"""The checks behind readiness and doctor: each service's own, none of a peer for readiness, bounded in time."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from app.peers.peer import Peer, Peers
from app.placement import LocalService
from app.services.contract import Check

CHECK_TIMEOUT_S = 2.0
CACHED_S = 1.0
OWN_ADDRESS = "leads back to this node itself, which is therefore never asked; mend its url in spec.peers, or take it out"
log = logging.getLogger(__name__)


class Health:
    """Runs the checks of the local services, at most once a second however often it is asked."""

    def __init__(
        self,
        node_id: str,
        local: Mapping[str, LocalService],
        warnings: Sequence[str],
        peers: Peers,
        mesh: Callable[[], Mapping[str, Check]] = dict,
    ) -> None:
        """``warnings`` are the profile's; ``mesh`` is the check of the node's membership."""
        self._node_id = node_id
        self._local, self._peers, self._mesh = local, peers, mesh
        self._warnings = warnings
        self._cached: tuple[float, dict[str, Check]] = (-CACHED_S, {})
        self._lock = asyncio.Lock()

    async def services(self) -> dict[str, Check]:
        """One entry per check of each local service; ``error`` means not ready."""
        async with self._lock:
            at, checks = self._cached
            if time.monotonic() - at >= CACHED_S:
                found = await asyncio.gather(*(self._check(name, service) for name, service in self._local.items()))
                checks = {name: check for each in found for name, check in each.items()} | dict(self._mesh())
                self._cached = (time.monotonic(), checks)
            return checks

    async def doctor(self) -> dict[str, Check]:
        """Everything worth telling a person: the services' checks, the profile's warnings, and the peers."""
        checks = dict(await self.services())
        for number, warning in enumerate(self._warnings, 1):
            checks[f"profile.{number}"] = Check("degraded", warning)
        return checks | {f"peer.{peer.name}": self._of_peer(peer) for peer in self._peers.all()}

    def _of_peer(self, peer: Peer) -> Check:
        if peer.node_id == self._node_id:
            return Check("degraded", f"{peer.url} {OWN_ADDRESS}")
        if not peer.usable:
            return Check("degraded", f"{peer.state} at {peer.url}: {peer.reason or 'shutting down'}")
        if wanting := sorted(service for service in peer.services if not peer.offers(service)):
            told = f"up at {peer.url}, but without {', '.join(wanting)}, which this node's profile asks of it and which is off there"
            return Check("degraded", f"{told}. Requests for that are answered 503 unless another peer has it; nothing else suffers.")
        return Check("ok", f"up at {peer.url}")

    async def _check(self, name: str, service: LocalService) -> Mapping[str, Check]:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                found = await service.service.check()
        except TimeoutError:
            return {name: Check("error", f"no result within {CHECK_TIMEOUT_S:g} s")}
        except Exception as error:
            log.exception("the check of %s failed", name)
            return {name: Check("error", f"its check failed: {error}")}
        return found or {name: Check("ok", "serving")}
