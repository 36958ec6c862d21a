"""The peers that the profile lists: probed all the time, out of the view while they fail, back by themselves."""

import asyncio
import json
import logging
from collections.abc import Sequence
from contextlib import suppress

from app.connection import BrokenError
from app.context import background
from app.node_client import NodeClient
from app.peers.peer import REFRESH_S, Peer, PeerFacts
from app.upstream import NotSentError

PROBE_INTERVAL_S = 2.0
PROBE_TIMEOUT_S = 2.0
RETRY_S = (0.1, 0.5)
"""Seconds between probes of a failing peer: the first, doubling up to the second."""
LOST_AFTER_S = 6.0
"""A peer that answered no probe for this long, for whatever reason, has lost what it was working on (three missed probes)."""
FRESH_S = 0.1
"""How old news may be to count as fresh."""
MAX_STATUS_BYTES = 1024 * 1024
log = logging.getLogger(__name__)


class StaticPeers:
    """Keeps each Peer's state."""

    def __init__(self, peers: Sequence[Peer], client: NodeClient) -> None:
        self._peers = list(peers)
        self._client = client
        self._wake = {peer.name: asyncio.Event() for peer in peers}
        self._asked = {peer.name: asyncio.Event() for peer in peers}
        self._asked_at = {peer.name: float("-inf") for peer in peers}
        self._failing_since: dict[str, float] = {}

    def all(self) -> list[Peer]:
        return self._peers

    def failed(self, peer: Peer, reason: str) -> None:
        if peer.state != "down":
            log.warning("peer %s at %s left the routing view: %s", peer.name, peer.url, reason)
            self._wake[peer.name].set()  # once: what fails over and over is probed at its own, slower pace
        peer.state, peer.reason = "down", reason

    async def refresh(self) -> None:
        """Ask the peers that do not fail what they can do now. What fails is asked all the time."""
        since = asyncio.get_running_loop().time() - FRESH_S
        peers = [peer for peer in self._peers if peer.state in ("unknown", "up") and self._asked_at[peer.name] < since]
        for peer in peers:
            self._asked[peer.name].clear()
            self._wake[peer.name].set()
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_S):
                for peer in peers:
                    await self._asked[peer.name].wait()

    async def reread(self, service: str) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_S):
                await asyncio.gather(*(self.probe(peer) for peer in self._peers if peer.usable and peer.offers(service)))

    async def run(self) -> None:
        """Probe each peer until cancelled."""
        async with asyncio.TaskGroup() as group:
            for peer in self._peers:
                group.create_task(self._keep_probing(peer))

    async def probe(self, peer: Peer) -> None:
        """Ask for its status once and take in the outcome."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                answer, body = await self._client.fetch(peer.url, "/v1/system/status", background(), MAX_STATUS_BYTES)
        except TimeoutError:
            self._missed(peer, "")
        except NotSentError as error:
            self._missed(peer, "" if error.silent else str(error))
        except BrokenError as error:
            self._missed(peer, str(error))
        else:
            self._spoke(peer, answer.status, body)

    async def _keep_probing(self, peer: Peer) -> None:
        wake, delay = self._wake[peer.name], RETRY_S[0]
        while True:
            wake.clear()
            try:
                await self.probe(peer)
            except Exception:  # a peer of which nobody knows what it says next must not end this node
                log.exception("probing peer %s failed", peer.name)
                self.failed(peer, "its status could not be read")
            peer.watch(asyncio.get_running_loop().time())
            self._asked[peer.name].set()
            self._asked_at[peer.name] = asyncio.get_running_loop().time()
            delay = PROBE_INTERVAL_S if peer.state == "up" else min(RETRY_S[1], delay * 2 if delay < PROBE_INTERVAL_S else RETRY_S[0])
            try:
                async with asyncio.timeout(delay):
                    await wake.wait()
                delay = RETRY_S[0]
            except TimeoutError:
                pass

    def _spoke(self, peer: Peer, status: int, body: bytes) -> None:
        self._failing_since.pop(peer.name, None)
        if status != 200:
            self.failed(peer, f"its status answers {status}" + (f"; {self._client.credentials.remedy}" if status == 401 else ""))
            return
        try:
            facts = PeerFacts.parse(json.loads(body))
        except (ValueError, RecursionError):
            self.failed(peer, "its status is not JSON; is this an Astromesh node?")
            return
        if not facts.believes_us:  # it would take the requests of all clients for those of one
            self.failed(peer, f"it takes this node for a client; {self._client.credentials.remedy}")
            return
        peer.facts = facts
        if peer.state != "up":
            log.info("peer %s at %s is up", peer.name, peer.url)
        peer.state, peer.reason, peer.load = "up", "", peer.facts.in_flight

    def _missed(self, peer: Peer, reason: str) -> None:
        """A probe brought no answer; without a ``reason`` none came in time, so that it may be busy and is still a last resort. In the end
        what it was working on is lost: a machine that has vanished breaks no connection."""
        now = asyncio.get_running_loop().time()
        since = self._failing_since.setdefault(peer.name, now if reason else now - PROBE_TIMEOUT_S)
        if now - since >= LOST_AFTER_S:
            self.failed(peer, reason or f"no answer for {now - since:.0f} s")
            peer.abort()
        elif reason:
            self.failed(peer, reason)
        elif peer.state != "down":
            log.warning("peer %s at %s does not answer; it is a last resort now", peer.name, peer.url)
            peer.state, peer.reason = "suspect", f"no answer within {PROBE_TIMEOUT_S:g} s"
