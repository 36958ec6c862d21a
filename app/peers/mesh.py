"""The peers that the mesh knows: alive ones are used, suspects are a last resort, draining, dead and left ones get nothing.

What forwarding finds out leaves the view at once and is evidence for the mesh, which brings the peer back by the next exchange with it.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from app.connection import BrokenError
from app.context import background
from app.mesh.members import Member, Status, View
from app.node_client import NodeClient
from app.peers.peer import REFRESH_S, Peer, PeerFacts
from app.upstream import NotSentError

CATALOGUE_TIMEOUT_S = 2.0
MAX_CATALOGUE_BYTES = 1024 * 1024
LOST_AFTER_S = 2.0
"""What a member was working on is lost when it has been suspect this long: it answered neither this node nor others for some seconds."""
KEYED = ("agents", "inference", "rag")
"""Services whose keys a catalogue lists; until it is here, a member counts as having none of them."""
log = logging.getLogger(__name__)


class MeshPeers:
    """``view`` is the mesh's; ``report`` takes evidence about a member: (node id, whether it answered)."""

    def __init__(self, view: Callable[[], View], client: NodeClient, report: Callable[[str, bool], None]) -> None:
        self._view, self._client, self._report = view, client, report
        self._peers: dict[str, Peer] = {}
        self._all: list[Peer] = []
        self._catalogues: dict[str, tuple[str, PeerFacts]] = {}
        """By node id: the hash that the member gave its catalogue when it was fetched, and what it said."""
        self._heartbeats: dict[str, int] = {}
        """By node id: the heartbeat whose load was taken in. In between, answers tell the load in passing."""
        self._due = asyncio.Event()
        self._changed = asyncio.Event()
        self.skipped_healthy = 0
        """How often placement passed over a suspect that then proved to be alive."""

    def all(self) -> list[Peer]:
        return self._all

    def failed(self, peer: Peer, reason: str) -> None:
        if peer.state != "down":
            log.warning("%s at %s left the routing view: %s", peer.name, peer.url, reason)
            peer.state, peer.reason = "down", reason
        self._report(peer.node_id, False)

    async def refresh(self) -> None:
        """Wait for catalogues that are under way; where nobody is known, for somebody to come."""
        if self._all and not any(self._lacks_catalogue(peer) for peer in self._all):
            return
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_S):
                await self._changed.wait()

    async def reread(self, service: str) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_S):
                await asyncio.gather(*(self._fetch(peer) for peer in self._all if peer.usable and peer.offers(service)))

    def follow(self, now: float) -> None:
        """Take in the view as it is now (monotonic seconds)."""
        view = self._view()
        names = view.shown_names()
        peers = dict[str, Peer]()
        others = view.others if view.me.is_live else []
        beyond = frozenset(service for each in others if each.reachable is False for service in each.record.services)
        for member in others:
            if member.url:
                peers[member.node_id] = self._take_in(member, names[member.node_id], beyond, now)
        for node_id, peer in self._peers.items():
            if node_id not in peers:
                self._let_go(peer, view)
                self._catalogues.pop(node_id, None)
                self._heartbeats.pop(node_id, None)
        if peers.keys() != self._peers.keys():
            self._changed.set()
        self._peers, self._all = peers, list(peers.values())
        if any(map(self._lacks_catalogue, self._all)):
            self._due.set()

    def catalogue(self, node_id: str) -> PeerFacts | None:
        """What a member said that it has, as last fetched."""
        return self._catalogues[node_id][1] if node_id in self._catalogues else None

    async def run(self) -> None:
        """Fetch what changed, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            lacking = [peer for peer in self._all if self._lacks_catalogue(peer) and peer.state in ("up", "suspect")]
            for start in range(0, len(lacking), 16):
                await asyncio.gather(*(self._fetch(peer) for peer in lacking[start : start + 16]))

    def _take_in(self, member: Member, name: str, beyond: frozenset[str], now: float) -> Peer:
        record = member.record
        peer = self._peers.get(member.node_id) or Peer(name, member.url, ())
        peer.name, peer.url, peer.services = name, member.url.rstrip("/"), frozenset(record.services)
        if self._heartbeats.get(member.node_id) != member.heartbeat:
            self._heartbeats[member.node_id], peer.load = member.heartbeat, member.load.active_requests
        told = self._catalogues.get(member.node_id)
        keys = told[1].keys if told else dict.fromkeys((each for each in KEYED if each in peer.services), frozenset[str]())
        reaches = frozenset() if member.reachable is False else beyond - peer.services
        peer.facts = PeerFacts(member.node_id, name, peer.services, reaches, keys, record.store_id, record.draining)
        self._set_state(peer, member, now)
        return peer

    def _set_state(self, peer: Peer, member: Member, now: float) -> None:
        """Up while nobody doubts it, else a last resort; what fails as that is tried no more until it answers."""
        suspect = member.status is Status.SUSPECT
        if not suspect and member.reachable is not False:
            self.skipped_healthy += peer.skipped
            peer.skipped = 0
            peer.state, peer.reason = "up", ""
        elif peer.state != "down":
            peer.state, peer.reason = "suspect", f"it does not answer {'anybody' if suspect else 'this node, though it does others'}"
        if suspect and now - member.since > LOST_AFTER_S and peer.in_flight:
            log.warning("%s at %s has been silent too long: %d requests are lost", peer.name, peer.url, len(peer.in_flight))
            peer.abort()
        peer.watch(now)

    @staticmethod
    def _let_go(peer: Peer, view: View) -> None:
        member = view.get(peer.node_id)
        has_left = member is not None and member.status is Status.LEFT
        peer.state, peer.reason = "down", "it has left" if has_left else "it is dead"
        if not view.me.is_live:
            peer.reason = "this node itself has left the mesh; start it anew"
        if member is None or member.status is Status.DEAD:  # one that left has finished its work first
            peer.abort()

    def _lacks_catalogue(self, peer: Peer) -> bool:
        member = self._view().get(peer.node_id)
        known = self._catalogues.get(peer.node_id)
        return member is not None and (known is None or known[0] != member.record.catalogue_hash)

    async def _fetch(self, peer: Peer) -> None:
        """Ask a member what it has. What fails is asked again when the view is next taken in."""
        member = self._view().get(peer.node_id)
        if member is None:
            return
        wanted = member.record.catalogue_hash
        try:
            async with asyncio.timeout(CATALOGUE_TIMEOUT_S):
                answer, body = await self._client.fetch(peer.url, "/v1/system/status", background(), MAX_CATALOGUE_BYTES)
            facts = PeerFacts.parse(json.loads(body)) if answer.status == 200 else None
        except (TimeoutError, NotSentError, BrokenError, ValueError, RecursionError) as error:
            log.debug("the catalogue of %s cannot be fetched now: %s", peer.name, error)
            return
        if facts is None or facts.node_id != peer.node_id or peer.facts is None:
            log.debug("the catalogue of %s cannot be fetched now: it answers %d as %r", peer.name, answer.status, facts and facts.node_id)
            return
        self._catalogues[peer.node_id] = (wanted, facts)
        peer.facts = replace(peer.facts, keys=facts.keys)
        self._changed.set()
