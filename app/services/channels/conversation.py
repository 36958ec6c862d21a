"""Work on one conversation, under its lease: deliver what is open, then answer what waits, one after the other and nothing twice."""

import asyncio
import hashlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote

from app.call import call
from app.context import RequestContext, background, continue_trace
from app.errors import NodeError, PeerLost, StoreUnavailable
from app.services.channels.channel import Channel
from app.services.channels.channels_file import ChannelSpec
from app.services.channels.message import Inbound, NotAcceptedError, Outbound, Person, UncertainError
from app.services.channels.settings import LEASE_S, Settings, back_off_s, session_of
from app.services.channels.split import split
from app.services.channels.store import Parcel, Question, Store
from app.services.channels.untrusted import whole
from app.services.contract import Locate
from app.tracing import Recorder

ATTEND_S = 5.0
GRACE_S = 2.0
"""How long what is being sent may take to its end when its conversation is stopped."""
_AGAIN = frozenset({408, 409, 425, 429})
T = TypeVar("T")
InThread = Callable[..., Awaitable[Any]]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Desk:
    """What working on any conversation needs. ``in_thread`` calls a method of the store, which blocks; ``count`` counts by channel and
    outcome; ``traces`` keeps the spans."""

    locate: Locate
    draining: asyncio.Event
    store: Store
    in_thread: InThread
    settings: Settings
    channels: Mapping[str, tuple[ChannelSpec, Channel]]
    count: Callable[[str, str], None]
    traces: Recorder


class Conversation:
    """One conversation, whose lease this process has just taken."""

    def __init__(self, desk: Desk, person: Person) -> None:
        self._desk, self._person = desk, person
        self._spec, self._channel = desk.channels[person.channel]
        self._attending = list[asyncio.Task[None]]()

    async def work(self) -> None:
        """Go on until there is nothing to do now, and let go of the lease."""
        letting_go = self._desk.store.release
        try:
            async with self._lease():
                while await self._step():
                    pass
                await asyncio.gather(*self._attending)
        except Exception:
            letting_go = self._desk.store.give_up
            raise
        finally:
            for task in self._attending:
                task.cancel()
            await asyncio.shield(self._desk.in_thread(letting_go, self._person))

    async def _step(self) -> bool:
        """Do the next thing. Whether there may be another one."""
        store = self._desk.store
        if parcel := await self._desk.in_thread(store.parcel, self._person):
            return await self._deliver(parcel)
        if self._desk.draining.is_set():
            return False
        if question := await self._desk.in_thread(store.question, self._person, merged=self._spec.while_busy == "merge"):
            return await self._answer(question)
        return False

    # ---- answers

    async def _answer(self, question: Question) -> bool:
        self._attending = [task for task in self._attending if not task.done()]
        self._attending.append(asyncio.create_task(self._attend(question.messages[-1])))
        try:
            answer = await self._ask(question)
        except NodeError as error:
            return await self._unanswered(question, error)
        except Exception as error:  # the top of the loop over questions: one that breaks something is tried no oftener than another
            log.exception("asking agent %s for %s failed", self._spec.agent, self._spec.name)
            return await self._unanswered(question, NodeError(f"asking the agent failed: {type(error).__name__}"))
        if not answer.strip():
            log.warning(
                "agent %s answered nothing to message %s of %s", self._spec.agent, question.messages[-1].message_id, self._spec.name
            )
        return await self._settle(question, answer, "done", "")

    async def _ask(self, question: Question) -> str:
        """The agent's answer. The key lets whoever runs the agent answer from its record what a process that died has asked already."""
        path = f"/v1/agents/{quote(self._spec.agent, safe='')}/run"
        asked = json.dumps([self._person.account, *(message.message_id for message in question.messages)])
        key = f"{self._spec.name}:{hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()}"  # ids may be of any length
        headers = [(b"idempotency-key", key.encode())]
        agents = self._desk.locate("agents", self._spec.agent)
        traceparent, webhook = continue_trace(question.traceparent)
        context = self._context(traceparent)
        with self._desk.traces.accept(traceparent, webhook, f"answer {self._spec.name}", "internal"):
            async with call(agents, "POST", path, body=self._body(question), headers=headers, context=context) as reply:
                await reply.raise_for_status()
                try:
                    return whole(str((await reply.json())["answer"]))
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise PeerLost(f"The answer to {path} is no run; look into the log of the node that gave it.") from None

    def _body(self, question: Question) -> dict[str, Any]:
        person, details = self._person, [dict(message.details) for message in question.messages if message.details]
        told = {"name": person.channel, "type": self._spec.type, "account": person.account, "sender": person.sender, "messages": details}
        query = "\n".join(message.text for message in question.messages)
        return {"query": query, "session_id": session_of(person), "context": {"channel": told}}

    def _context(self, traceparent: str) -> RequestContext:
        """A request of the channel's own, in the trace of the webhook call that brought the question."""
        context = background(self._desk.settings.run_timeout_s)
        principal = f"channel.{self._spec.name}"
        return replace(context, traceparent=traceparent, principal=principal, session=session_of(self._person))

    async def _attend(self, message: Inbound) -> None:
        """A courtesy: that it fails stops nothing."""
        try:
            async with asyncio.timeout(ATTEND_S):
                await self._channel.attend(message)
        except (NotAcceptedError, UncertainError, TimeoutError) as error:
            log.info("message %s of %s could not be marked as read: %s", message.message_id, self._spec.name, error)

    async def _unanswered(self, question: Question, error: NodeError) -> bool:
        attempts = question.attempts + 1
        told = whole(f"{error.code}: {error.message}")
        if (error.status >= 500 or error.status in _AGAIN) and attempts < self._desk.settings.max_attempts:
            log.warning("agent %s gave no answer to %s (try %d): %s", self._spec.agent, self._spec.name, attempts, told)
            self._desk.count(self._spec.name, "retried")
            await self._desk.in_thread(self._desk.store.postponed_question, question, told, back_off_s(attempts))
            return False
        log.error("message %s of %s is a dead letter: %s", question.messages[0].message_id, self._spec.name, told)
        return await self._settle(question, self._spec.failure_reply, "dead", told)

    async def _settle(self, question: Question, answer: str, state: str, error: str) -> bool:
        texts = split(answer, self._channel.max_chars)
        reply_to = question.messages[-1].message_id
        parts = [
            Outbound(secrets.token_hex(12), self._person, reply_to, text, number, len(texts)) for number, text in enumerate(texts, start=1)
        ]
        settled: bool = await self._desk.in_thread(self._desk.store.settle, question, parts, state, error)
        if settled:
            self._desk.count(self._spec.name, "answered" if state == "done" else "unanswerable")
        return settled

    # ---- deliveries

    async def _deliver(self, parcel: Parcel) -> bool:
        store, settings = self._desk.store, self._desk.settings
        if parcel.state == "sending":
            told = "the process that sent it ended, or stood still, before it knew the outcome"
            await self._desk.in_thread(store.uncertain, parcel, told, settings.uncertain_after_s)
            self._desk.count(self._spec.name, "uncertain")
            return False
        if parcel.due > time.time():
            return False
        if parcel.state == "uncertain" and (settings.uncertain == "dead_letter" or parcel.attempts >= settings.max_attempts):
            return await self._bury(parcel, "whether it was taken is not known: neither an answer nor a status told")
        message = self._sendable(parcel)
        if message is None:
            return await self._bury(parcel, self._too_late())
        if not await self._desk.in_thread(store.sending, parcel):
            return False
        return await self._send(parcel, message)

    def _sendable(self, parcel: Parcel) -> Outbound | None:
        """The message as it may be sent now."""
        window_s = self._channel.window_s
        if window_s is None or time.time() - parcel.last_inbound < window_s:
            return parcel.message
        return self._template(parcel)

    def _template(self, parcel: Parcel) -> Outbound | None:
        """It stands for the whole answer, so it goes out once."""
        return replace(parcel.message, template=True) if self._channel.has_template and parcel.message.part == 1 else None

    def _too_late(self) -> str:
        why = (
            "the template goes out in place of an answer's first part alone"
            if self._channel.has_template
            else "the channel has no template"
        )
        return f"outside the {(self._channel.window_s or 0) / 3600:g}-hour window, and {why}"

    async def _send(self, parcel: Parcel, message: Outbound) -> bool:
        """Send it, to the end also when this is cancelled: what is cut in the middle would be uncertain."""
        sending = asyncio.create_task(self._sent(parcel, message))
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            await asyncio.wait([sending], timeout=GRACE_S)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            raise

    async def _sent(self, parcel: Parcel, message: Outbound) -> bool:
        store, settings, attempts = self._desk.store, self._desk.settings, parcel.attempts + 1
        try:
            provider_id = await self._channel.send(message)
        except UncertainError as error:
            log.warning("a message of %s may have been taken or not: %s", self._spec.name, error)
            await self._desk.in_thread(store.uncertain, parcel, str(error), settings.uncertain_after_s)
            self._desk.count(self._spec.name, "uncertain")
            return False
        except NotAcceptedError as error:
            if error.too_late and not message.template and (template := self._template(parcel)):
                return await self._sent(parcel, template)
            if not error.again or attempts >= settings.max_attempts:
                return await self._bury(parcel, str(error))
            log.warning("a message of %s was not taken (try %d): %s", self._spec.name, attempts, error)
            self._desk.count(self._spec.name, "retried")
            await self._desk.in_thread(store.postponed, parcel, str(error), error.after_s or back_off_s(attempts))
            return False
        await self._note(parcel, provider_id)
        self._desk.count(self._spec.name, "sent")
        return True

    async def _note(self, parcel: Parcel, provider_id: str) -> None:
        """That it was taken must not be forgotten because the disk is busy: it would be sent again."""
        for again_in_s in (0.1, 0.5, 1.0, 2.0, 5.0):
            try:
                await self._desk.in_thread(self._desk.store.sent, parcel, provider_id)
            except StoreUnavailable as error:
                log.warning("that a message of %s was taken cannot be noted yet: %s", self._spec.name, error)
                await asyncio.sleep(again_in_s)
            else:
                return
        await self._desk.in_thread(self._desk.store.sent, parcel, provider_id)

    async def _bury(self, parcel: Parcel, why: str) -> bool:
        log.error("message %s of %s is a dead letter: %s", parcel.message.token, self._spec.name, why)
        self._desk.count(self._spec.name, "dead")
        await self._desk.in_thread(self._desk.store.dead, parcel, why)
        return True

    # ---- the lease

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[None]:
        """Renew it while the block runs; once it is lost, the block ends: another process has the conversation."""
        working = asyncio.current_task()
        assert working is not None
        lost = False

        async def renew() -> None:
            nonlocal lost
            while True:
                await asyncio.sleep(LEASE_S / 3)
                try:
                    lost = not await self._desk.in_thread(self._desk.store.renew, self._person)
                except StoreUnavailable as error:  # nobody else can take it meanwhile, or it is found lost then
                    log.warning("the lease of a conversation of %s could not be renewed: %s", self._spec.name, error)
                if lost:
                    working.cancel()
                    return

        renewing = asyncio.create_task(renew())
        try:
            yield
        except asyncio.CancelledError:
            if not lost or working.uncancel() > 0:
                raise
            log.warning("a conversation of %s was taken over by another process while this one stood still", self._spec.name)
        finally:
            renewing.cancel()
            with suppress(asyncio.CancelledError, NodeError):
                await renewing
