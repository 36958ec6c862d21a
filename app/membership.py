"""This node as a member of the mesh: the protocol on the event loop, what the node says of itself, and the peers that follow from it."""

import asyncio
import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from app.call import Headers
from app.config.profile import MeshSettings
from app.connection import BrokenError
from app.errors import NodeError, NotBegun
from app.mesh import settings as timings
from app.mesh.address import addresses, each_address, host_of, is_loopback, node_url, own_address
from app.mesh.gossip import Maia
from app.mesh.loop import Loop
from app.mesh.members import Identity, Load, Member, Status, View
from app.mesh.messages import Event, Join, Message
from app.mesh.transport import Transport
from app.mesh_metrics import MeshMetrics
from app.node_client import NodeClient
from app.peers.mesh import MeshPeers
from app.services.contract import Facts
from app.signing import Signer
from app.system.load import MachineLoad
from app.upstream import NotSentError, Upstream

RENEW_S = 1.0
"""Seconds between looks at what this node has to say of itself."""
ADDRESS_S = 10.0
"""Seconds between looks at the seeds' names and at this node's own address."""
ALONE_S = 1.0
"""The same, while nobody is known."""
LEAVE_S = 1.0
MAX_ANSWER_BYTES = 128 * 1024
log = logging.getLogger("app.mesh")
_LEVELS = {"suspect": logging.WARNING, "dead": logging.WARNING, "unreachable": logging.WARNING, "displaced": logging.WARNING}
_LEVELS |= {"stalled": logging.WARNING, "changed": logging.DEBUG, "accused": logging.WARNING, "forgotten": logging.DEBUG}


@dataclass(frozen=True, slots=True)
class Self:
    """What the mesh is to know of this node. ``facts`` are those of its services now; ``in_flight`` counts requests; ``rename`` is told
    the name under which the others show this node."""

    node_id: str
    name: str
    cluster: str
    advertise_url: str | None
    services: tuple[str, ...]
    facts: Callable[[], Mapping[str, Facts]]
    in_flight: Callable[[], int]
    rename: Callable[[str], None]


class Membership:
    """``peers`` is the view that placement uses."""

    def __init__(
        self, me: Self, settings: MeshSettings, client: NodeClient, line: tuple[Upstream, Signer | None], registry: CollectorRegistry
    ) -> None:
        self._me, self._settings = me, settings
        self._upstream, signer = line
        self._url_fixed = bool(me.advertise_url)
        self._url_fails = False
        self._stood_still_at = float("-inf")
        times = timings.MeshSettings(
            settings.heartbeat_interval, settings.gossip_interval, settings.gossip_fanout, settings.failure_timeout,
            settings.dead_timeout, settings.seeds,
        )  # fmt: skip
        identity = Identity(me.node_id, me.name, me.advertise_url or "", me.cluster)
        maia = Maia(identity, times, random.Random())
        transport = Transport(self._post, signer)
        self._loop = Loop(maia, transport, self._on_events)
        self.peers = MeshPeers(lambda: maia.view, client, self._loop.evidence)
        read = {
            "sent_bytes": ("Bytes of messages that this node sent of its own accord.", lambda: transport.sent),
            "received_bytes": ("Bytes of the answers to them.", lambda: transport.received),
            "rounds": ("Rounds of gossip that this node began.", lambda: self._loop.rounds),
            "view_differences": ("Answers that came with another view than this node's.", lambda: self._loop.differences),
            "skipped_healthy": ("Times that placement passed over a suspect that then proved alive.", lambda: self.peers.skipped_healthy),
        }
        self.metrics = MeshMetrics(registry, lambda: maia.view, read)
        self._loop.on_round_trip = self.metrics.round_trip.observe
        self._version = 0
        self._draining = self._started = self._taking_in = False
        self._over = asyncio.Event()

    @property
    def node_id(self) -> str:
        return self._me.node_id

    @property
    def view(self) -> View:
        return self._loop.maia.view

    @property
    def shown_name(self) -> str:
        """This node's name, with the beginning of its id where another live member has that name too."""
        return self.view.shown_names()[self._me.node_id]

    async def run(self, host: str, port: int) -> None:
        """Take part until cancelled; ``host`` and ``port`` are where the node listens for the others."""
        await self._look_up(host, port)
        self._started = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop.run())
            group.create_task(self._end_when_over())
            group.create_task(self.peers.run())
            group.create_task(self._renew())
            group.create_task(self._keep_addresses(host, port))

    async def receive(self, message: Message, came_from: str) -> Message:
        """Take another node's message and return the answer to it. Raises NotBegun until this node takes part."""
        if not self._started:
            raise NotBegun("This node is starting and takes no messages yet; ask again shortly.")
        if isinstance(message.body, Join):
            self._learn_url(message.body.dialed, came_from)
        return await self._loop.receive(message, came_from)

    def drain(self) -> None:
        """Tell the others to send nothing new here."""
        self._draining = True
        self._loop.update_own(draining=True)

    async def leave(self) -> None:
        """Leave for good, until the node starts anew."""
        if not self._loop.maia.has_left:
            await self._loop.leave(LEAVE_S)

    # ---- what people see

    def summary(self) -> dict[str, Any]:
        """The mesh in the node's status."""
        view, leader = self.view, self.view.leader()
        return {
            "enabled": True,
            "node_id": self._me.node_id,
            "node_name": self.shown_name,
            "leader": leader.node_id if leader else None,
            "cluster_size": view.count,
            "status": _STATUSES[view.me.status],
            "url": view.me.url or None,
        }

    def state(self) -> dict[str, Any]:
        """All members as this node sees them, in the shape of ``GET /v1/mesh/state``. Times are seconds since 1970 by this node's clock."""
        view, leader = self.view, self.view.leader()
        names = view.shown_names()
        since = time.time() - asyncio.get_running_loop().time()
        taken = {each.url for each in view if each.is_live}
        shown = [each for each in view if each.is_live or (each.status is Status.DEAD and each.url not in taken)]
        rows = [
            self._row(each, names, since) | {"leader": each is leader}
            for each in sorted(shown, key=lambda each: (each.status, each.record.name, each.node_id))
        ]
        return {"nodes": rows, "leader_id": leader.node_id if leader else None, "version": self._version}

    def _row(self, member: Member, names: Mapping[str, str], since: float) -> dict[str, Any]:
        me, load = member is self.view.me, member.load
        heard_at = member.heartbeat_at if member.heard_at == float("-inf") else max(member.heartbeat_at, member.heard_at)
        return {
            "node_id": member.node_id,
            "name": names.get(member.node_id, member.record.name),
            "url": member.url,
            "services": list(member.record.services),
            "agents": self._agents(member, me=me),
            "load": {"cpu_percent": load.cpu_percent, "memory_percent": load.memory_percent, "active_requests": load.active_requests},
            "status": _STATUSES[member.status],
            "joined_at": round(since + member.joined_at, 3),
            "last_heartbeat": round(since + (asyncio.get_running_loop().time() if me else heard_at), 3),
            "draining": member.record.draining,
            "reachable": me or member.reachable is not False,
        }

    def _agents(self, member: Member, *, me: bool) -> list[str]:
        if me:
            facts = self._me.facts().get("agents")
            return sorted(facts.keys or ()) if facts else []
        catalogue = self.peers.catalogue(member.node_id)
        return sorted(catalogue.keys.get("agents", ())) if catalogue else []

    # ---- what the node says of itself

    async def _renew(self) -> None:
        machine, clock = MachineLoad(), asyncio.get_running_loop().time
        due = clock()
        while True:
            if clock() >= due:  # more often is of no use: a load is told with a heartbeat
                cpu_percent, memory_percent = machine.cpu_percent(), machine.memory_percent()
                due = clock() + self._settings.heartbeat_interval
            facts = self._me.facts()
            keys = {name: sorted(each.keys) for name, each in facts.items() if each.keys is not None}
            self._loop.update_own(
                Load(cpu_percent, memory_percent, self._me.in_flight()),
                services=self._me.services,
                catalogue_hash=hashlib.blake2b(json.dumps(keys, sort_keys=True).encode(), digest_size=8).hexdigest(),
                store_id=next((each.store_id for each in facts.values() if each.store_id), ""),
                draining=self._draining,
            )
            self._take_in()
            await asyncio.sleep(RENEW_S)

    async def _keep_addresses(self, host: str, port: int) -> None:
        while True:
            await asyncio.sleep(ADDRESS_S if self.view.others else ALONE_S)
            await self._look_up(host, port)

    async def _look_up(self, host: str, port: int) -> None:
        """Where the seeds are now, and how this node is reached from there."""
        urls, ips = list[str](), list[str]()
        for seed in self._settings.seeds:
            found = await addresses(seed)
            ips += found
            urls += each_address(seed, found)
        self._loop.update_seeds(dict.fromkeys(urls))
        if self._url_fixed:
            return
        if not ips:
            ips = [ip for member in self._unreached()[:3] for ip in await addresses(member.url)]
        own = host if host not in ("0.0.0.0", "::") else own_address(ips)  # noqa: S104
        if own and node_url(own, port) != self.view.me.url:
            self._take_url(node_url(own, port))

    def _unreached(self) -> list[Member]:
        """The others, where none of them reaches this node at its address: that may have changed."""
        others = [each for each in self.view.others if each.status is Status.ALIVE]
        return others if all(each.told_unreachable for each in others) else []

    def _learn_url(self, dialed: str, came_from: str) -> None:
        """A node without seeds takes the address at which a joiner reached it, and a better one where the first proves to be of no use."""
        mine = self.view.me.url
        if self._url_fixed or self._settings.seeds or not dialed or dialed == mine:
            return
        if is_loopback(host_of(dialed)) and not is_loopback(came_from):
            return  # a forwarded port, which no other node can call
        if not mine or self._url_fails or (is_loopback(host_of(mine)) and not is_loopback(host_of(dialed))):
            self._take_url(dialed)

    def _take_url(self, url: str) -> None:
        log.info("other nodes reach this one at %s", url)
        self._url_fails = False
        self._loop.update_own(url=url)

    # ---- what happens

    async def _end_when_over(self) -> None:
        await self._over.wait()
        raise NodeError("This node's identity in the mesh is used up, which only a hostile member brings about; start it anew.")

    def _on_events(self, events: Sequence[Event]) -> None:
        self._version += len(events)
        for event in events:
            self.metrics.happened(event)
            self._tell(event)
        if not self._taking_in:  # once for all that happens in one turn of the loop: a thousand may join at once
            self._taking_in = True
            asyncio.get_running_loop().call_soon(self._take_in)

    def _take_in(self) -> None:
        self._taking_in = False
        self.peers.follow(asyncio.get_running_loop().time())
        self._me.rename(self.shown_name)

    def _tell(self, event: Event) -> None:
        if event.kind == "expelled":
            self._over.set()
        if event.kind == "stalled":
            self._stood_still_at = asyncio.get_running_loop().time()
        if event.kind == "address_fails":
            if asyncio.get_running_loop().time() - self._stood_still_at < self._settings.failure_timeout:
                return  # it did not answer because it stood still, not because its address is wrong
            self._url_fails = True
            by = self.view.get(event.by)
            log.warning(
                "%s cannot reach this node at %s; set ASTROMESH_ADVERTISE_URL to an address at which it can",
                by.record.name if by else event.by, self.view.me.url,
            )  # fmt: skip
            return
        member = self.view.get(event.node_id)
        name, url = (member.record.name, member.url) if member else (event.node_id, "")
        reason = f": {event.reason}" if event.reason else ""
        if event.kind == "unreachable" and member and member.status is Status.ALIVE:
            reason += "; if it is alive, its ASTROMESH_ADVERTISE_URL is wrong, or the network between the two"
        log.log(
            _LEVELS.get(event.kind, logging.INFO), "member %s (%s at %s) %s%s", name, event.node_id[:6], url, _WORDS[event.kind], reason
        )

    async def _post(self, url: str, headers: Headers, body: bytes) -> tuple[int, Headers, bytes]:
        try:
            answer = await self._upstream.send("POST", url, headers, body)
            try:
                return answer.status, answer.headers, await answer.read(MAX_ANSWER_BYTES)
            finally:
                answer.close()
        except (NotSentError, BrokenError) as error:
            raise ConnectionError(str(error)) from error


_STATUSES = {Status.ALIVE: "alive", Status.SUSPECT: "suspect", Status.DEAD: "dead", Status.LEFT: "left"}
_WORDS = {
    "joined": "is in the mesh",
    "alive": "is alive",
    "suspect": "is suspect",
    "dead": "is dead",
    "left": "has left",
    "changed": "says something new of itself",
    "forgotten": "is forgotten",
    "unreachable": "does not answer this node",
    "reachable": "answers this node again",
    "accused": "was accused, and refuted that",
    "displaced": "has lost its address",
    "stalled": "stood still",
    "synchronised": "has the whole view",
    "expelled": "has lost its identity",
}
