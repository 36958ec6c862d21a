"""A network in virtual time. Every message goes through the real wire code; loss, delay and cuts are drawn from one seeded source."""

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from app.mesh.gossip import Maia
from app.mesh.members import Identity
from app.mesh.messages import Event, Message, Pending, Send, Step
from app.mesh.settings import MeshSettings
from app.mesh.wire import decode, encode

HTTP_BYTES = 400  # head of request and answer
FOREVER = float("inf")
OTHER = "other-cluster"
MAX_SPINS = 1_000
"""Ticks that a node may ask for at one instant."""


@dataclass(slots=True)
class Cut:
    """From ``start`` to ``end``, ``blocks(from_url, to_url)`` calls go nowhere."""

    start: float
    end: float
    blocks: Callable[[str, str], bool]


@dataclass(slots=True)
class Weather:
    """How the network is: chances that an exchange is lost, and that a request arrives twice, and delays in seconds; ``replay_s`` is how
    much later the second time may be."""

    loss: float = 0.0
    latency_s: float = 0.003
    jitter_s: float = 0.0
    duplicates: float = 0.0
    replay_s: float = 0.0


class Node:
    """One process: an identity at an address, from its start to its end."""

    def __init__(self, maia: Maia, identity: Identity, started: float) -> None:
        self.maia, self.identity, self.started = maia, identity, started
        self.ended = FOREVER
        self.left = False
        self.frozen: list[tuple[float, float]] = []
        self.slow_s = 0.0
        self.tick_at = FOREVER
        self.spins = 0
        self.open: set[int] = set()
        self.tickets: dict[int, Callable[[Message], None]] = {}
        self.bytes = 0

    @property
    def id(self) -> str:
        return self.identity.node_id

    @property
    def url(self) -> str:
        return self.identity.url

    def up(self, now: float) -> bool:
        return self.started <= now < self.ended

    def thaws_at(self, now: float) -> float:
        """When it runs again; now, where it runs."""
        return max((end for start, end in self.frozen if start <= now < end), default=now)


@dataclass(slots=True)
class World:
    rng: random.Random
    settings: MeshSettings
    weather: Weather = field(default_factory=Weather)
    now: float = 0.0
    nodes: list[Node] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    """Addresses whose host is gone: nothing refuses a connection there."""
    log: list[str] = field(default_factory=list)
    watch: Callable[[Node, Step], None] = lambda node, step: None
    at: dict[str, Node] = field(default_factory=dict)
    events: int = 0
    _queue: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = field(default_factory=list)
    _sequence: int = 0

    # ---- time

    def after(self, delay_s: float, do: Callable[..., object], *args: Any) -> None:
        self.do_at(self.now + delay_s, do, *args)

    def do_at(self, when: float, do: Callable[..., object], *args: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (when, self._sequence, do, args))

    def run(self, until: float, stop: Callable[[], bool] | None = None) -> None:
        """Go on until then, or until ``stop`` (asked four times a second) is true."""
        asked = self.now
        while self._queue and self._queue[0][0] <= until:
            self.now, _, do, args = heapq.heappop(self._queue)
            self.events += 1
            do(*args)
            if stop and self.now - asked >= 0.25:
                asked = self.now
                if stop():
                    return
        self.now = max(self.now, until)

    # ---- nodes

    def spawn(self, url: str, name: str, seeds: tuple[str, ...], cluster: str = "astromesh") -> Node:
        identity = Identity(f"{self.rng.getrandbits(64):016x}", name, url, cluster)
        settings = MeshSettings(
            self.settings.heartbeat_interval, self.settings.gossip_interval, self.settings.gossip_fanout,
            self.settings.failure_timeout, self.settings.dead_timeout, seeds,
        )  # fmt: skip
        node = Node(Maia(identity, settings, random.Random(self.rng.getrandbits(64))), identity, self.now)
        self.nodes.append(node)
        self.at[url] = node
        self.silent.discard(url)
        self.follow(node, node.maia.start(self.now))
        return node

    def crash(self, node: Node, *, silent: bool) -> None:
        node.ended = self.now
        if self.at.get(node.url) is node:
            del self.at[node.url]
            if silent:
                self.silent.add(node.url)

    def leave(self, node: Node) -> None:
        node.left = True
        self.follow(node, node.maia.leave(self.now))
        self.after(1.0, self._exit, node)

    def _exit(self, node: Node) -> None:
        if node.up(self.now):
            self.crash(node, silent=False)

    def living(self, cluster: str = "astromesh") -> Iterator[Node]:
        return (node for node in self.nodes if node.up(self.now) and not node.left and node.identity.cluster == cluster)

    def follow(self, node: Node, step: Step) -> None:
        """Do what a step says."""
        for send in step.sends:
            self._send(node, send)
        for reply in step.replies:
            if answer := node.tickets.pop(reply.ticket, None):
                answer(reply.message)
        if step.events:
            self.watch(node, step)
        if step.deadline < node.tick_at or node.tick_at <= self.now:
            node.tick_at = max(step.deadline, self.now)
            if step.deadline < FOREVER:
                self.do_at(node.tick_at, self._tick, node)

    def _tick(self, node: Node) -> None:
        if not self._runs(node, self._tick, node) or node.tick_at > self.now:
            return
        step = node.maia.tick(self.now)
        node.spins = node.spins + 1 if step.deadline <= self.now else 0
        assert node.spins < MAX_SPINS, f"{node.id[:6]} asks to be ticked again and again at {self.now}"
        self.follow(node, step)

    def _runs(self, node: Node, again: Callable[..., None], *args: Any) -> bool:
        """Whether the process can do something now; where it is frozen, it does it when it runs again."""
        if not node.up(self.now):
            return False
        if (thaws := node.thaws_at(self.now)) > self.now:
            self.after(thaws - self.now + self.rng.uniform(0, 0.01), again, *args)
            return False
        return True

    # ---- the network

    def blocked(self, sender: str, receiver: str) -> bool:
        return any(cut.start <= self.now < cut.end and cut.blocks(sender, receiver) for cut in self.cuts)

    def _delay(self) -> float:
        weather = self.weather
        return weather.latency_s / 2 + (min(0.5, self.rng.expovariate(1 / weather.jitter_s)) if weather.jitter_s else 0.0)

    def _send(self, node: Node, send: Send) -> None:
        data = encode(send.message)
        node.bytes += len(data) + HTTP_BYTES
        node.open.add(send.exchange)
        self.after(send.timeout_s, self._fail, node, send.exchange, "timed out")
        if self.blocked(node.url, send.url) or send.url in self.silent:
            return
        fate = self.rng.random()
        if fate < self.weather.loss / 2:
            return
        answer_lost = fate < self.weather.loss
        delay = self._delay() + node.slow_s
        self.after(delay, self._arrive, node, send, data, answer_lost)
        if self.weather.duplicates and self.rng.random() < self.weather.duplicates:
            self.after(delay + self._delay() + self.rng.uniform(0, self.weather.replay_s), self._arrive, node, send, data, True)

    def _arrive(self, sender: Node, send: Send, data: bytes, answer_lost: bool) -> None:
        node = self.at.get(send.url)
        if node is None:
            if send.url not in self.silent:
                self.after(self._delay(), self._fail, sender, send.exchange, "connection refused")
            return
        if not self._runs(node, self._arrive, sender, send, data, answer_lost):
            return

        def answer(message: Message) -> None:
            reply = encode(message)
            node.bytes += len(reply)
            if not answer_lost and not (self.blocked(node.url, sender.url) and self.blocked(sender.url, node.url)):
                self.after(self._delay() + node.slow_s, self._answer, sender, send.exchange, reply)

        answered, step = node.maia.receive(self.now, decode(data), sender.url.split("/")[2].split(":")[0])
        if isinstance(answered, Pending):
            node.tickets[answered.ticket] = answer
        else:
            answer(answered)
        self.follow(node, step)

    def _answer(self, node: Node, exchange: int, data: bytes) -> None:
        if exchange in node.open and self._runs(node, self._answer, node, exchange, data):
            node.open.discard(exchange)
            self.follow(node, node.maia.answered(self.now, exchange, decode(data)))

    def _fail(self, node: Node, exchange: int, reason: str) -> None:
        if exchange in node.open and self._runs(node, self._fail, node, exchange, reason):
            node.open.discard(exchange)
            self.follow(node, node.maia.failed(self.now, exchange, reason))

    def note(self, text: str) -> None:
        self.log.append(f"{self.now:8.2f}  {text}")


def describe(event: Event) -> str:
    return f"{event.kind} {event.node_id[:6]} by {event.by[:6]}" + (f" ({event.reason})" if event.reason else "")
