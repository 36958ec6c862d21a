"""Changes to the agents of all nodes, asked of any node: where a new one is made, and who reads its files anew."""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.body import JSONAnswer
from app.call import call
from app.connection import BrokenError
from app.context import background, current
from app.errors import NodeError, ServiceUnavailable
from app.node_client import NodeClient
from app.peers.peer import Peer
from app.placement import Placement
from app.upstream import NotSentError

RELOAD = "/v1/agents/reload"
PEER_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024
Row = dict[str, Any]
log = logging.getLogger(__name__)


class Roster:
    """``name`` is this node's. ``meshed``: its peers know one another, so whoever of them is asked by a node speaks for itself alone."""

    def __init__(self, name: Callable[[], str], placement: Placement, client: NodeClient, *, meshed: bool) -> None:
        self._name, self._placement, self._client, self._meshed = name, placement, client, meshed

    async def make(self, name: str | None, request: tuple[Scope, Receive, Send]) -> None:
        """Have an agent made: by the node that has one of that name, which refuses it, else here or by any node that has agents."""
        await self.change(self._placement.locate("agents", name), request)

    async def change(self, app: ASGIApp, request: tuple[Scope, Receive, Send]) -> None:
        """Pass a change on; once it is done elsewhere, this node knows of it before its caller does."""
        scope, receive, send = request

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300 and "agents" not in self._placement.local:
                await self._placement.peers.reread("agents")
            await send(message)

        await app(scope, receive, told)

    async def reload(self) -> JSONAnswer:
        """Have every node that has agents read their files anew: what they have then, together and by node. Nodes that did not answer are
        named in ``X-Astromesh-Partial``. Raises ServiceUnavailable where nobody can be asked."""
        peers = await self._peers()
        asked = await asyncio.gather(*(self._ask(peer) for peer in peers))
        answers, missing = list[Row](), list[str]()
        if (here := self._placement.local.get("agents")) is not None:
            async with call(here, "POST", RELOAD) as reply:
                await reply.raise_for_status()
                answers.append({"node": self._name(), **await reply.json()})
        for peer, told in zip(peers, asked, strict=True):
            if told is None:
                missing.append(peer.facts.node_name if peer.facts and peer.facts.node_name else peer.name)
            else:
                answers += told
        if peers:
            await self._placement.peers.reread("agents")
        if not answers:
            asked_of = ", ".join(missing) or "nobody, for this node knows none"
            raise ServiceUnavailable(f"No node that has agents read them anew; asked: {asked_of}.", headers={"Retry-After": "1"})
        return JSONAnswer(_together(answers), headers={"X-Astromesh-Partial": ", ".join(missing)} if missing else None)

    async def reread_when(self, asked: asyncio.Event) -> None:
        """Have the agents of this node alone read anew, as often as ``asked`` is set, until cancelled."""
        while True:
            await asked.wait()
            asked.clear()
            if (here := self._placement.local.get("agents")) is None:
                log.info("there are no agents on this node, so there is nothing to read anew")
                continue
            try:
                async with call(here, "POST", RELOAD, context=background()) as reply:
                    await reply.raise_for_status()
            except NodeError as error:
                log.error("the agents could not be read anew: %s", error.message)

    async def _peers(self) -> list[Peer]:
        if self._meshed and current().hops:
            return []
        peers = self._placement.askable(("agents",))
        if not peers or any(peer.state == "unknown" for peer in peers):
            await self._placement.peers.refresh()
        return self._placement.askable(("agents",))

    async def _ask(self, peer: Peer) -> list[Row] | None:
        """The answers of a peer and of those beyond it; None where it gives none."""
        if peer.state not in ("up", "suspect"):
            return None
        context = current()
        within_s = min(PEER_TIMEOUT_S, 0.8 * context.remaining_s())
        try:
            async with asyncio.timeout(within_s):
                answer = await self._client.send("POST", peer.url, RELOAD, self._client.headers(context))
                try:
                    body = await answer.read(MAX_ANSWER_BYTES)
                finally:
                    answer.close()
            if answer.status != 200:
                log.warning("%s did not read its agents anew: it answered %d", peer.name, answer.status)
                return None
            return [row for row in json.loads(body)["nodes"] if isinstance(row, dict) and isinstance(row.get("node"), str)]
        except (TimeoutError, NotSentError, BrokenError, NodeError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("%s did not read its agents anew: %s", peer.name, error or "no answer in time")
            return None


def _together(answers: list[Row]) -> Row:
    """One answer from those of the nodes, each node once: agents by name, broken and unavailable ones with the ``nodes`` that say so."""
    by_node = {str(answer["node"]): answer for answer in answers}
    loaded = sorted({str(name) for answer in by_node.values() for name in answer.get("loaded", ())})
    return {
        "agents": len(loaded),
        "loaded": loaded,
        "broken": _rows(by_node, "broken", ("name", "file")),
        "unavailable": _rows(by_node, "unavailable", ("name", "reason")),
        "nodes": list(by_node.values()),
    }


def _rows(by_node: Mapping[str, Row], field: str, identity: tuple[str, str]) -> list[Row]:
    merged = dict[tuple[str, ...], Row]()
    for node, answer in by_node.items():
        for row in answer.get(field, ()):
            merged.setdefault(tuple(str(row.get(each)) for each in identity), {**row, "nodes": []})["nodes"].append(node)
    return list(merged.values())
