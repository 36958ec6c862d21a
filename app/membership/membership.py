"""This node as a member of the mesh: the protocol on the event loop, what the node says of itself, and the peers that follow from it."""

import asyncio
import hashlib
import json
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from app.call import Headers
from app.config.profile import MeshSettings
from app.connection import BrokenError
from app.context import background
from app.errors import NodeError, NotBegun
from app.membership.addresses import Addresses
from app.membership.metrics import MeshMetrics
from app.membership.report import Report
from app.membership.words import tell, tell_address_fails
from app.mesh import settings as timings
from app.mesh.gossip import Maia
from app.mesh.loop import Loop
from app.mesh.members import Identity, Load, View
from app.mesh.messages import Event, Join, Message, Refusal
from app.mesh.transport import Transport
from app.node_client import NodeClient
from app.peers.mesh import MeshPeers
from app.services.contract import Check, Facts
from app.signing import Signer
from app.system.load import MachineLoad
from app.upstream import NotSentError, Upstream

RENEW_S = 1.0
"""Seconds between looks at what this node has to say of itself."""
LEAVE_S = 1.0
ALONE_S = 5.0
"""How long a node with seeds may be alone before it says so."""
MAX_ANSWER_BYTES = 128 * 1024
log = logging.getLogger("app.mesh")


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
        self._client = client
        self._upstream, signer = line
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
        self.report = Report(lambda: maia.view, self.peers, me.facts)
        self._addresses = Addresses(self._loop, settings, fixed=bool(me.advertise_url))
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
        await self._addresses.look_up(host, port)
        self._say(Load())  # before the first word to anybody: a member without services would be known, and of no use
        self._started = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop.run())
            group.create_task(self._end_when_over())
            group.create_task(self.peers.run())
            group.create_task(self._renew())
            group.create_task(self._look_around())
            group.create_task(self._addresses.keep(host, port))

    async def receive(self, message: Message, came_from: str) -> Message:
        """Take another node's message and return the answer to it. Raises NotBegun until this node takes part."""
        if not self._started:
            raise NotBegun("This node is starting and takes no messages yet; ask again shortly.")
        answer = await self._loop.receive(message, came_from)
        if isinstance(message.body, Join) and message.header.sender != self._me.node_id and not isinstance(answer.body, Refusal):
            self._addresses.learn(message.body.dialed, came_from)
        return answer

    def drain(self) -> None:
        """Tell the others to send nothing new here."""
        self._draining = True
        self._loop.update_own(draining=True)

    def renew(self) -> None:
        """Tell the others at once that what this node serves has changed."""
        if self._started:
            self._say()

    async def leave(self) -> None:
        """Leave for good, until the node starts anew."""
        if not self._loop.maia.has_left:
            await self._loop.leave(LEAVE_S)

    def check(self) -> Mapping[str, Check]:
        """One line for readiness and doctor: a node that has left gets no work from the others, and none from a balancer."""
        if self._loop.maia.has_left:
            return {"mesh": Check("error", "this node has left the mesh; start it anew to take part again")}
        if self._is_lost:
            return {"mesh": Check("degraded", f"alone: {self._why_alone()}")}
        return {"mesh": Check("ok", f"{self.view.count} members")}

    @property
    def _is_lost(self) -> bool:
        """Whether this node is alone though it has seeds, and is not one of them itself: the first one of a mesh waits for the others."""
        return bool(self._settings.seeds) and not self.view.others and self.view.me.url not in self._settings.seeds

    async def _look_around(self) -> None:
        """Say why this node is alone, once each time that it is; and early on, whether its address is another's."""
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(ALONE_S)
        if not self.view.others and self._me.advertise_url:
            await self._ask_own_address()
        tell_at = clock()
        while True:
            if not self._is_lost:
                tell_at = clock() + ALONE_S
            elif clock() >= tell_at:
                tell_at = float("inf")
                log.warning("this node is alone in its mesh: %s", self._why_alone())
            await asyncio.sleep(RENEW_S)

    async def _ask_own_address(self) -> None:
        """A node that is alone looks whether the address it was given is another's: a seed's, say, which would then never be asked."""
        url = self.view.me.url
        try:
            async with asyncio.timeout(ALONE_S):
                _, raw = await self._client.fetch(url, "/v1/system/status", background(), MAX_ANSWER_BYTES)
                told = json.loads(raw)
        except (TimeoutError, NotSentError, BrokenError, ValueError, RecursionError):
            return
        if isinstance(told, dict) and told.get("node_id") not in (None, self._me.node_id):
            log.warning(
                "ASTROMESH_ADVERTISE_URL is %s, where another node answers (%s); write how others reach this one",
                url,
                told.get("node_name"),
            )

    def _why_alone(self) -> str:
        told = "; ".join(f"{url}: {reason}" for url, reason in list(self._loop.unanswered.items())[:4])
        seeds = ", ".join(self._settings.seeds)
        why = told or f"{seeds} not found, or not asked yet"
        return f"no seed takes this node in ({why}); it goes on trying. Check spec.mesh.seeds or ASTROMESH_SEEDS"

    # ---- what the node says of itself

    async def _renew(self) -> None:
        machine, clock = MachineLoad(), asyncio.get_running_loop().time
        due = clock()
        while True:
            if clock() >= due:  # more often is of no use: a load is told with a heartbeat
                cpu_percent, memory_percent = machine.cpu_percent(), machine.memory_percent()
                due = clock() + self._settings.heartbeat_interval
            self._say(Load(cpu_percent, memory_percent, self._me.in_flight()))
            self._take_in()
            await asyncio.sleep(RENEW_S)

    def _say(self, load: Load | None = None) -> None:
        facts = self._me.facts()
        keys = {name: sorted(each.keys) for name, each in facts.items() if each.keys is not None}
        self._loop.update_own(
            load,
            services=self._me.services,
            catalogue_hash=hashlib.blake2b(json.dumps(keys, sort_keys=True).encode(), digest_size=8).hexdigest(),
            store_id=(facts["memory"].store_id if "memory" in facts else None) or "",
            draining=self._draining,
        )

    # ---- what happens

    async def _end_when_over(self) -> None:
        await self._over.wait()
        raise NodeError("This node's identity in the mesh is used up, which only a hostile member brings about; start it anew.")

    def _on_events(self, events: Sequence[Event]) -> None:
        self.report.version += len(events)
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
            said_by = self.view.get(event.by)
            if said_by and said_by.reachable:  # what a stranger says of the address moves nothing
                self._addresses.fails = True
            log.warning("%s", tell_address_fails(event, self.view))
            return
        level, text = tell(event, self.view)
        log.log(level, "%s", text)

    async def _post(self, url: str, headers: Headers, body: bytes) -> tuple[int, Headers, bytes]:
        try:
            answer = await self._upstream.send("POST", url, headers, body)
            try:
                return answer.status, answer.headers, await answer.read(MAX_ANSWER_BYTES)
            finally:
                answer.close()
        except (NotSentError, BrokenError) as error:
            raise ConnectionError(str(error)) from error
