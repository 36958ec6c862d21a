"""Runs the protocol on the event loop: its clock, its exchanges as tasks, its events handed on. It decides nothing."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from typing import Unpack

from app.mesh.gossip import Maia, OwnChanges
from app.mesh.members import Load
from app.mesh.messages import Event, Gossip, Join, Message, Pending, Send, Step
from app.mesh.transport import NoAnswerError, Transport

MAX_OPEN = 512
"""Exchanges at once; more are not sent."""
log = logging.getLogger(__name__)


class Loop:
    """``on_events`` is told what happened after each step that had events."""

    def __init__(self, maia: Maia, transport: Transport, on_events: Callable[[Sequence[Event]], None]) -> None:
        self.maia = maia
        self._transport = transport
        self._on_events = on_events
        self._group: asyncio.TaskGroup | None = None
        self._open = 0
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._deadline = float("inf")
        self._sooner = asyncio.Event()
        self.refusals: dict[str, str] = {}
        """By address: why somebody there took no message of this node; told once each."""
        self.unanswered: dict[str, str] = {}
        """By address at which this node tried to join: why nobody took it in."""
        self.on_round_trip: Callable[[float], None] = lambda seconds: None
        self.rounds = self.differences = 0

    async def run(self) -> None:
        """Take part until cancelled."""
        clock = asyncio.get_running_loop().time
        async with asyncio.TaskGroup() as self._group:
            self._follow(self.maia.start(clock()))
            while True:
                self._sooner.clear()
                try:
                    async with asyncio.timeout_at(self._deadline if self._deadline < float("inf") else None):
                        await self._sooner.wait()
                except TimeoutError:
                    try:
                        self._follow(self.maia.tick(clock()))
                    except Exception:  # a mesh that stands still is worse than one step that failed
                        log.exception("a step of the mesh failed")
                        self._deadline = clock() + 1

    # ---- inputs

    async def receive(self, message: Message, came_from: str) -> Message:
        """Take another node's message and return the answer to it. Raises TimeoutError where that needs a third node and none comes."""
        answer, step = self.maia.receive(self._now(), message, came_from)
        waiting: asyncio.Future[Message] | None = None
        if isinstance(answer, Pending):
            waiting = self._answers[answer.ticket] = asyncio.get_running_loop().create_future()
        self._follow(step)
        if waiting is None:
            assert not isinstance(answer, Pending)
            return answer
        assert isinstance(answer, Pending)
        try:
            async with asyncio.timeout(answer.timeout_s + 0.5):
                return await waiting
        finally:
            self._answers.pop(answer.ticket, None)

    def update_own(self, load: Load | None = None, **changes: Unpack[OwnChanges]) -> None:
        self._follow(self.maia.update_own(self._now(), load, **changes))

    def update_seeds(self, urls: Iterable[str]) -> None:
        self._follow(self.maia.update_seeds(self._now(), urls))

    def evidence(self, node_id: str, ok: bool) -> None:
        self._follow(self.maia.evidence(self._now(), node_id, ok))

    async def leave(self, within_s: float) -> None:
        """Say that this node leaves, and wait until that is told, or the time is over."""
        self._follow(self.maia.leave(self._now()))
        deadline = self._now() + within_s
        while self._open and self._now() < deadline:
            self._sooner.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._sooner.wait()
            except TimeoutError:
                return

    # ---- outputs

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _follow(self, step: Step) -> None:
        for send in step.sends:
            self._begin(send)
        self.rounds += any(isinstance(send.message.body, Gossip) and send.message.body.round for send in step.sends)
        for reply in step.replies:
            waiting = self._answers.pop(reply.ticket, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(reply.message)
        self._deadline = step.deadline
        self._sooner.set()
        if step.events:
            self._on_events(step.events)

    def _begin(self, send: Send) -> None:
        if self._group is None or self._open >= MAX_OPEN:
            asyncio.get_running_loop().call_soon(self._not_sent, send)
            return
        self._open += 1
        self._group.create_task(self._exchange(send), context=Context())  # not a part of the request that brought it about

    async def _exchange(self, send: Send) -> None:
        began = self._now()
        try:
            answer = await self._transport.send(send)
        except NoAnswerError as error:
            if isinstance(send.message.body, Join) and len(self.unanswered) < MAX_OPEN:
                self.unanswered[send.url] = str(error)
            self._note(send.url, str(error) if error.refused else "")
            self._failed(send, str(error))
        except Exception:  # an exchange that fails in a way that nobody thought of must not end the node
            log.exception("an exchange with %s failed", send.url)
            self._failed(send, "it could not be asked")
        else:
            self.unanswered.pop(send.url, None)
            self.on_round_trip(self._now() - began)
            self._note(send.url, "")
            self._follow(self.maia.answered(self._now(), send.exchange, answer))
            self.differences += answer.header.view_hash != self.maia.view.hash
        finally:
            self._open -= 1
            self._sooner.set()

    def _not_sent(self, send: Send) -> None:
        self._follow(self.maia.not_sent(self._now(), send.exchange, "too much is under way"))

    def _failed(self, send: Send, reason: str) -> None:
        self._follow(self.maia.failed(self._now(), send.exchange, reason))

    def _note(self, url: str, refusal: str) -> None:
        """Say once, until it takes one, that somebody refuses this node's messages."""
        if not refusal:
            self.refusals.pop(url, None)
        elif url not in self.refusals and len(self.refusals) < MAX_OPEN:
            log.warning("the node at %s takes no messages of this one: %s", url, refusal)
            self.refusals[url] = refusal
