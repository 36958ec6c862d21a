"""The channels service: takes webhook calls in, and works on the conversations that they belong to."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from importlib.resources import files
from typing import Any, TypeVar

from prometheus_client import Counter
from starlette.routing import BaseRoute

from app.context import current
from app.errors import NodeError, NotFound, StoreUnavailable
from app.services.channels.channel import Channel
from app.services.channels.channels_file import ChannelSpec, read_channels
from app.services.channels.conversation import Conversation, Desk
from app.services.channels.message import Delivery, Person
from app.services.channels.routes import routes
from app.services.channels.settings import LEASE_S, Settings
from app.services.channels.store import Store
from app.services.contract import Check, Facts, NodeContext

TYPES: Mapping[str, str] = {
    "whatsapp": "app.services.channels.whatsapp:WhatsApp",
    "webhook": "app.services.channels.webhook:Webhook",
    "telegram": "app.services.channels.telegram:Telegram",
}
"""Where the class of each type of channel is; only those that are configured are imported."""
LOOK_S = 1.0
"""Another process of this store may have taken a message and died, or let go of a conversation."""
SWEEP_S = 3_600.0
log = logging.getLogger(__name__)
T = TypeVar("T")


class Channels:
    """The channels of ``channels.yaml``; without any it keeps nothing, and its webhooks are not found."""

    def __init__(self, config: Mapping[str, Any], node: NodeContext) -> None:
        self._settings, self._node = Settings(**config), node
        self._channels: dict[str, tuple[ChannelSpec, Channel]] = {}
        self._store = Store(node.data_dir / "channels" / "messages.sqlite")
        self._wake = asyncio.Event()
        self._messages = Counter(
            "astromesh_channel_messages",
            "Messages of channels, by what became of them: received, duplicate, answered, unanswerable, sent, retried, uncertain, dead.",
            ["channel", "outcome"],
            registry=node.metrics,
        )
        self.routes: Sequence[BaseRoute] = routes(self)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Raises ConfigError for a file that cannot be used, StoreUnavailable for a data directory that cannot."""
        schemas = json.loads(files(__package__).joinpath("schema.json").read_bytes())
        specs = read_channels(self._node.config_dir / "channels.yaml", schemas, self._node.environ)
        if not specs:
            yield
            return
        from app.services.channels.http import Client  # a node without channels does not pay for an HTTP client

        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(Client())
            await asyncio.to_thread(self._store.open)
            stack.callback(self._store.close)
            self._thread = stack.enter_context(ThreadPoolExecutor(1, "channels"))  # it ends its work before the store is closed
            for spec in specs:
                self._channels[spec.name] = spec, _make(spec, client)
            yield

    async def run(self) -> None:
        """Work on conversations until cancelled; one that fails stops no other."""
        if not self._channels:
            return
        node = self._node
        desk = Desk(node.locate, node.draining, self._store, self._in_thread, self._settings, self._channels, self._count, node.traces)
        slots = asyncio.Semaphore(self._settings.concurrency)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweep())
            while True:
                await slots.acquire()
                person = await self._next()
                group.create_task(self._work(desk, person, slots))

    async def _next(self) -> Person:
        """The next conversation with something to do, leased."""
        while True:
            self._wake.clear()
            due: float | None = None
            try:
                if not self._node.draining.is_set():
                    if person := await self._in_thread(self._store.claim, tuple(self._channels)):
                        return person
                    due = await self._in_thread(self._store.next_due, tuple(self._channels))
            except StoreUnavailable as error:
                log.error("channels stand still: %s", error)
            wait_s = LOOK_S if due is None else min(LOOK_S, max(0.01, due - time.time()))
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _work(self, desk: Desk, person: Person, slots: asyncio.Semaphore) -> None:
        try:
            await Conversation(desk, person).work()
        except NodeError as error:
            log.error("a conversation of %s is given up until its lease ends (%g s): %s", person.channel, LEASE_S, error)
        except Exception:
            log.exception("working on a conversation of %s failed; it goes on when its lease ends", person.channel)
        finally:
            slots.release()
            self._wake.set()  # it may be due again soon

    async def _sweep(self) -> None:
        while True:
            try:
                await self._in_thread(self._store.letters.sweep, self._settings.retention_days * 86_400)
            except StoreUnavailable as error:
                log.warning("old messages of channels stay for now: %s", error)
            await asyncio.sleep(SWEEP_S)

    # ---- for the routes

    def channel(self, name: str) -> Channel:
        """Raises NotFound."""
        return self._found(name)[1]

    async def receive(self, name: str, delivery: Delivery) -> int:
        """Keep what a webhook call brought. When this returns it is on the disk."""
        spec, _ = self._found(name)
        for told in delivery.skipped:
            log.warning("a webhook call of %s held %s", name, told)
        new: int = await self._in_thread(self._store.take, name, delivery.messages, delivery.receipts, current().traceparent, spec.limit)
        self._messages.labels(name, "received").inc(new)
        self._messages.labels(name, "duplicate").inc(len(delivery.messages) - new)
        self._wake.set()
        return new

    async def rows(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "type": spec.type, "agent": spec.agent, **await self._in_thread(self._store.letters.counts, name)}
            for name, (spec, _) in self._channels.items()
        ]

    async def letters(self, name: str, box: str, state: str | None, limit: int) -> list[dict[str, Any]]:
        self._found(name)
        rows: list[dict[str, Any]] = await self._in_thread(self._store.letters.rows, box, name, state, limit)
        return rows

    async def retry(self, name: str, box: str, letter: str) -> str | None:
        """Make a dead letter ready again; the state that it was in, None where there is none of that id."""
        self._found(name)
        state: str | None = await self._in_thread(self._store.letters.retry, box, name, letter)
        self._wake.set()
        return state

    def facts(self) -> Facts:
        return Facts()

    async def check(self) -> Mapping[str, Check]:
        if not self._channels:
            return {"channels": Check("ok", "no channel is configured (channels.yaml)")}
        try:
            rows = await self.rows()
        except StoreUnavailable as error:
            return {"channels": Check("error", error.message)}
        dead = sum(row[box].get("dead", 0) for row in rows for box in ("inbox", "outbox"))
        told = "; ".join(f"{row['name']}: {row['inbox'].get('waiting', 0)} waiting" for row in rows)
        more = f"; {dead} dead letters, see GET /v1/channels/<name>/inbox?state=dead and outbox" if dead else ""
        return {"channels": Check("degraded" if dead else "ok", told + more)}

    def _found(self, name: str) -> tuple[ChannelSpec, Channel]:
        if name not in self._channels:
            told = ", ".join(self._channels) or "none; configure it in channels.yaml"
            raise NotFound(f"There is no channel {name!r} here; there is {told}.")
        return self._channels[name]

    def _count(self, name: str, outcome: str) -> None:
        self._messages.labels(name, outcome).inc()

    async def _in_thread(self, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*arguments, **named))


def _make(spec: ChannelSpec, client: Any) -> Channel:
    module, _, name = TYPES[spec.type].partition(":")
    made: Channel = getattr(import_module(module), name)(spec.section, client)
    return made
