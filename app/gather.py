"""Lists that a person expects whole (models, agents, tools, providers): from here and from peers, one hop, one second each."""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.body import JSONAnswer
from app.call import call
from app.connection import BrokenError
from app.context import current
from app.errors import NodeError, ServiceUnavailable
from app.node_client import NodeClient
from app.peers.peer import Peer
from app.peers.static import StaticPeers
from app.placement import FORWARDED, Placement
from app.upstream import NotSentError

PEER_TIMEOUT_S = 1.0
MAX_LIST_BYTES = 4 * 1024 * 1024
Row = dict[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listing:
    """A list over the network: its path, the field that holds the rows, the row's identity, and the services whose nodes have rows."""

    path: str
    rows: str
    identity: str
    services: tuple[str, ...]


LISTINGS = {
    "/v1/models": Listing("/v1/models", "data", "id", ("inference", "agents")),
    "/v1/agents": Listing("/v1/agents", "agents", "name", ("agents",)),
    "/v1/tools": Listing("/v1/tools", "tools", "name", ("tools",)),
    "/v1/rag/collections": Listing("/v1/rag/collections", "collections", "name", ("rag",)),
    "/v1/providers": Listing("/v1/providers", "providers", "name", ("inference",)),
}


class Gatherer:
    """Answers listings from the local services and from every peer that the request has not passed."""

    def __init__(self, name: Callable[[], str], placement: Placement, client: NodeClient) -> None:
        self._name, self._placement, self._client = name, placement, client

    async def answer(self, listing: Listing) -> JSONAnswer:
        """The gathered list as a response; peers that did not answer are named in ``X-Astromesh-Partial``. Raises ServiceUnavailable
        when nobody who has such rows can be asked."""
        rows, missing = await self.rows(listing)
        body: dict[str, Any] = {listing.rows: rows}
        if listing.rows == "data":
            body = {"object": "list", **body}
        else:
            body["count"] = len(rows)
        return JSONAnswer(body, headers={"X-Astromesh-Partial": ", ".join(missing)} if missing else None)

    async def rows(self, listing: Listing) -> tuple[list[Row], list[str]]:
        """(rows, names of peers that are missing), rows in the order of here, then peers, each with the ``nodes`` that have it."""
        here = [service for service in listing.services if service in self._placement.local]
        alone = bool(here) and self._asked_by_a_member()
        peers = [] if alone else self._placement.askable(listing.services)
        if not alone and (not peers or any(peer.state == "unknown" for peer in peers)):
            await self._placement.peers.refresh()
            peers = self._placement.askable(listing.services)
        if not here and not peers:
            raise ServiceUnavailable(f"No node that this one knows offers {' or '.join(listing.services)}.", headers={"Retry-After": "1"})
        within_s = min(PEER_TIMEOUT_S, 0.8 * current().remaining_s())  # a node that asks us has its own second to keep
        asked = await asyncio.gather(*(self._ask(peer, listing, within_s) for peer in peers))
        merged: dict[str, Row] = {}
        for service in here:
            for row in await self._local(service, listing):
                _merge(merged, row, listing.identity, [self._name()])
        missing = list[str]()
        for peer, answer in zip(peers, asked, strict=True):
            rows, absent = answer or ((), (_shown_name(peer),))
            missing += absent
            for row in rows:
                _merge(merged, row, listing.identity, _nodes(row) or [_shown_name(peer)])
        if not here and not any(asked):
            raise ServiceUnavailable(
                f"No node that offers {' or '.join(listing.services)} answers now; asked: {', '.join(missing)}.",
                headers={"Retry-After": "1"},
            )
        return list(merged.values()), missing

    async def answers(self, target: str) -> tuple[list[tuple[str, Any]], list[str]]:
        """What the peers answer to GET ``target``, each with its name, and the names of those that did not say."""
        peers = [] if self._asked_by_a_member() else self._placement.askable(FORWARDED)
        within_s = min(PEER_TIMEOUT_S, 0.8 * current().remaining_s())
        asked = await asyncio.gather(*(self._fetch(peer, target, within_s) for peer in peers))
        answers, missing = list[tuple[str, Any]](), list[str]()
        for peer, answer in zip(peers, asked, strict=True):
            if answer is None or answer[0] not in (200, 404):
                missing.append(_shown_name(peer))
                continue
            missing += answer[2]
            if answer[0] == 200:
                answers.append((_shown_name(peer), answer[1]))
        return answers, missing

    def _asked_by_a_member(self) -> bool:
        """Members of a mesh know each other: whoever asks one of them asks all. If each asked on, a list in a mesh of thirty would take
        thousands of requests."""
        return bool(current().hops) and not isinstance(self._placement.peers, StaticPeers)

    async def _local(self, service: str, listing: Listing) -> list[Row]:
        # Agents are models too, under another identity.
        as_models = listing.rows == "data" and service == "agents"
        path = "/v1/agents" if as_models else listing.path
        try:
            async with call(self._placement.local[service], "GET", path) as reply:
                await reply.raise_for_status()
                body = await reply.json()
        except NodeError as error:
            log.warning("the local list %s is missing: %s", path, error.message)
            return []
        return _agents_as_models(body["agents"]) if as_models else list(body[listing.rows])

    async def _ask(self, peer: Peer, listing: Listing, within_s: float) -> tuple[list[Row], list[str]] | None:
        """The peer's rows, and the nodes that it could not ask; None where it does not answer."""
        answer = await self._fetch(peer, listing.path, within_s)
        if answer is None or answer[0] != 200:
            return None
        try:
            rows = [row for row in answer[1][listing.rows] if isinstance(row, dict) and isinstance(row.get(listing.identity), str)]
        except (KeyError, TypeError):
            return None
        return rows, answer[2]

    async def _fetch(self, peer: Peer, target: str, within_s: float) -> tuple[int, Any, list[str]] | None:
        """The status of the peer's answer, its JSON, and the nodes that it could not ask; None where there is none in time."""
        if peer.state not in ("up", "suspect"):
            return None
        context = replace(current(), deadline=asyncio.get_running_loop().time() + within_s)
        try:
            async with asyncio.timeout(within_s):
                answer, body = await self._client.fetch(peer.url, target, context, MAX_LIST_BYTES)
            told = json.loads(body)
        except (TimeoutError, NotSentError, BrokenError, ValueError, RecursionError):
            return None
        partial = (answer.header(b"x-astromesh-partial") or b"").decode("latin-1")
        return answer.status, told, [name.strip() for name in partial.split(",") if name.strip()]


def _agents_as_models(agents: Sequence[Row]) -> list[Row]:
    ready = [agent for agent in agents if agent.get("status") == "ready"]
    return [{"id": f"agent/{agent['name']}", "object": "model", "created": 0, "owned_by": "astromesh-agents"} for agent in ready]


def _merge(merged: dict[str, Row], row: Row, identity: str, nodes: Sequence[str]) -> None:
    key = row[identity]
    known = merged.setdefault(key, {**row, "nodes": []})
    if _works(row) and not _works(known):  # what works somewhere is shown as it is there
        known = merged[key] = {**row, "nodes": known["nodes"]}
    known["nodes"] = [*known["nodes"], *(node for node in nodes if node not in known["nodes"])]


def _works(row: Row) -> bool:
    """Whether it says that an agent is ready, or a tool available."""
    return row.get("status") == "ready" or row.get("available") is True


def _nodes(row: Row) -> list[str]:
    nodes = row.get("nodes")
    return [node for node in nodes if isinstance(node, str)] if isinstance(nodes, list) else []


def _shown_name(peer: Peer) -> str:
    return (peer.facts.node_name if peer.facts else "") or peer.name
