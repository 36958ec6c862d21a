"""A conversation that an agent remembers, kept by the memory service: read before a run, and one whole turn stored after it."""

import logging
import secrets
from collections.abc import Sequence
from urllib.parse import quote

from app.errors import BodyTooLarge, NodeError
from app.services.agents.completion import Message
from app.services.agents.excerpt import shortened, size_of
from app.services.agents.fetch import fetch
from app.services.agents.remembering import Past, PastTurn, Remembering
from app.services.contract import Locate

_UNANSWERED = "No result was given."
log = logging.getLogger(__name__)


class Conversation:
    """One agent's session. The turn's id is made once, so that storing it is safe to repeat."""

    def __init__(self, locate: Locate, of: tuple[str, str], remembering: Remembering, *, semantic: bool = False) -> None:
        """``of`` are agent and session; ``semantic`` has its turns found by what they are about."""
        self._locate = locate
        agent, session = of
        self._semantic = semantic
        self._session = session
        self._remembering = remembering
        self._path = f"/v1/memory/{quote(agent, safe='')}/history/{quote(session, safe='')}"
        self._turn = f"t_{secrets.token_hex(12)}"

    async def recall(self) -> Past:
        """The turns that the agent's way of remembering needs; none for a session that is new."""
        try:
            answer = await fetch(self._locate("memory", self._session), "GET", f"{self._path}?{self._remembering.query}")
        except NodeError as error:
            if error.code == "session_not_found":
                return Past()
            raise
        turns = [PastTurn(turn["turn_id"], turn["messages"]) for turn in answer["turns"]]
        summary = answer.get("summary") or {}
        return Past(turns, summary.get("text", ""), summary.get("turn_id", ""))

    async def keep_summary(self, turn_id: str, text: str) -> None:
        """Keep a summary of what was said up to and with a turn. Where that fails the next run makes one anew."""
        try:
            summary = {"turn_id": turn_id, "text": text}
            await fetch(self._locate("memory", self._session), "PUT", f"{self._path}/summary", summary)
        except NodeError as error:
            log.warning("a conversation's summary could not be kept, the next run makes it anew: %s", error)

    async def store(self, asked: Sequence[Message], added: Sequence[Message]) -> None:
        """Store the turn. What the run ``added`` is shortened where memory has no room for it, since the run's work is done by then.

        Raises what else the memory service raises: a turn that is not stored has not been had.
        """
        kept = added
        while True:
            try:
                await self._put([*asked, *kept])
                return
            except NodeError as error:
                before, kept = size_of(kept), shortened(added, size_of(kept) // 2)
                if error.code != BodyTooLarge.code or size_of(kept) >= before:
                    raise
                log.warning("a turn is too large for memory: what the run added to it is cut from %d to %d bytes", before, size_of(kept))

    async def _put(self, messages: list[Message]) -> None:
        target = f"{self._path}/turns/{self._turn}"
        asked = ({"ttl_s": self._remembering.ttl_s} if self._remembering.ttl_s else {}) | ({"semantic": True} if self._semantic else {})
        await fetch(self._locate("memory", self._session), "PUT", target, {"messages": messages, **asked})


def mend(messages: Sequence[Message]) -> list[Message]:
    """A history that models accept: a window may begin in the middle of an exchange, and a client may never have answered a call."""
    first = next((index for index, message in enumerate(messages) if message["role"] == "user"), len(messages))
    whole: list[Message] = []
    open_calls: list[str] = []
    for message in messages[first:]:
        if message["role"] == "tool":
            if message.get("tool_call_id") in open_calls:
                open_calls.remove(message["tool_call_id"])
                whole.append(message)
            continue
        whole += _answers(open_calls)
        called = message.get("tool_calls") or []
        open_calls = [call["id"] for call in called if isinstance(call.get("id"), str)]
        if len(open_calls) < len(called):  # a client wrote this history: a call without an id can be answered by nobody
            kept = [call for call in called if isinstance(call.get("id"), str)]
            message = {**{key: value for key, value in message.items() if key != "tool_calls"}, **({"tool_calls": kept} if kept else {})}
        whole.append(message)
    return whole if not open_calls else [*whole, *_answers(open_calls)]


def _answers(calls: Sequence[str]) -> list[Message]:
    return [{"role": "tool", "tool_call_id": call, "content": _UNANSWERED} for call in calls]
