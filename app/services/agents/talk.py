"""Questions to an agent over a WebSocket: answered one after the other, each as the events of its run. What goes wrong with one is an event
too, and the socket lives; a client that leaves cancels what is under way."""

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass, replace

from jsonschema.protocols import Validator
from starlette.types import Receive, Scope, Send

from app.body import checked_json
from app.context import CURRENT, RequestContext, continue_trace, current
from app.errors import BadRequest, NodeError
from app.frames import POLICY_VIOLATION, SERVICE_RESTART
from app.services.agents.asking import question_of, session_of
from app.services.agents.editor import Editor
from app.services.agents.events import Emit, Event, listen
from app.services.agents.link import Link
from app.services.agents.run import Runner
from app.services.contract import NodeContext
from app.session import new_session_id
from app.tracing import active

MAX_WAITING = 16
"""Questions that may wait for the answers to those before them; together at most twice as long as one message may be."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Desk:
    """What answers need: agents, who runs them, the schema of a question, and the longest message that is taken."""

    editor: Editor
    runner: Runner
    schema: Validator
    node: NodeContext
    message_bytes: int


class Talk:
    """One client's socket, an ASGI app."""

    def __init__(self, desk: Desk, agent: str) -> None:
        self._desk, self._agent = desk, agent
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._waiting_bytes = 0
        self._session: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._link = Link(receive, send, self._desk.message_bytes)
        # What is left of the upgrade's own time is the time that each question has.
        self._context, self._allowed_s = current(), current().remaining_s()
        await self._link.open(scope)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._answer_all()), group.create_task(self._stop_when_draining())]
            await self._listen()
            for task in tasks:
                task.cancel()
        await self._link.finish()

    async def _listen(self) -> None:
        async with aclosing(self._link.messages()) as messages:
            async for message in messages:
                self._waiting_bytes += len(message)
                if self._waiting.qsize() < MAX_WAITING and self._waiting_bytes <= 2 * self._desk.message_bytes:
                    self._waiting.put_nowait(message)
                else:
                    await self._link.close(POLICY_VIOLATION, "too many questions wait; wait for the answers to those before")

    async def _stop_when_draining(self) -> None:
        await self._desk.node.draining.wait()
        self._waiting.put_nowait(None)

    async def _answer_all(self) -> None:
        while (message := await self._waiting.get()) is not None:
            self._waiting_bytes -= len(message)
            CURRENT.set(self._next_context())
            try:
                with self._desk.node.traces.accept(current().traceparent, "", "question on a WebSocket") as span:
                    span.set("astromesh.request_id", current().request_id)
                    span.set("enduser.id", current().principal or None)
                    await self._answer(message)
            except NodeError as error:
                await self._link.tell({"type": "error", **error.body()})
            except Exception:
                log.exception("a question to agent %s failed", self._agent)
                failed = NodeError(f"The node failed on this question; its log has the reason under {current().request_id}.")
                await self._link.tell({"type": "error", **failed.body()})
            if self._desk.node.draining.is_set():
                break
        await self._link.close(SERVICE_RESTART, "this node is shutting down; connect again")

    def _next_context(self) -> RequestContext:
        """Each question has a deadline and a trace of its own."""
        deadline = asyncio.get_running_loop().time() + self._allowed_s
        traceparent, _ = continue_trace(None, self._desk.node.traces.samples_new)
        return replace(self._context, deadline=deadline, traceparent=traceparent, hops=(), from_peer=False)

    async def _answer(self, message: bytes) -> None:
        body = await checked_json(message, self._desk.schema)
        agent = await self._desk.editor.find(self._agent)
        session = session_of(body)
        if self._context.session not in (None, session):
            told = f"The question's session_id is {session!r} and the header X-Session-Id of the socket {self._context.session!r}"
            raise BadRequest(f"{told}; send one of the two, or the same in both.", param="session_id")
        # Who names none goes on with the conversation of this socket.
        session = session or self._session or new_session_id(self._desk.node.store_for_new_session())
        self._session = session
        active().set("session.id", session)
        asked = question_of(body, session, streaming=True)

        async def work(emit: Emit) -> None:
            await emit(Event("done", (await self._desk.runner.run(agent, asked, emit)).as_json()))

        async with aclosing(listen(work)) as events:
            async for event in events:
                await self._link.tell({"type": event.kind, **event.data})
