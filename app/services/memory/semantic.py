"""Semantic memory: past exchanges found by what they are about. Each is a document of a collection of rag that is the principal's own.

The conversation is what counts: an exchange that rag cannot take now is left out of semantic memory with a warning, and costs no turn.
"""

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from app.call import call
from app.errors import BadRequest, CollectionNotFound, NodeError, PeerLost
from app.services.contract import Locate
from app.services.memory.conversation import Conversation

DEFAULT_RESULTS, MAX_RESULTS = 5, 100
_CHUNK_CHARS = 4_000
_TAKE_S = 5.0
_NOTHING = CollectionNotFound.code
_FOR_EVER = 253_402_300_799
"""When an exchange that has no end ends, in seconds since the epoch: the end of the year 9999."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for. ``session`` None: in all sessions of the principal. ``threshold`` is of the similarity, None for none."""

    query: str
    max_results: int = DEFAULT_RESULTS
    threshold: float | None = None
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """``rows`` are {text, score, session_id, turn_id, created_at}, best first; ``note`` says what could not be done, "" where all was."""

    rows: Sequence[Mapping[str, Any]]
    note: str = ""


class SemanticMemory:
    """Asks rag, wherever it runs, in the name of the principal who asks."""

    def __init__(self, locate: Locate) -> None:
        self._locate = locate

    async def remember(self, of: Conversation, turn_id: str, messages: Sequence[Mapping[str, Any]], ttl_s: float | None) -> None:
        """Have a turn found from now on, for ``ttl_s`` seconds; rag takes it as a job, and embeds it when it can."""
        if not (text := told(messages)):
            return
        ends = int(time.time() + ttl_s) if ttl_s else _FOR_EVER
        metadata = {
            "session": of.session,
            "turn": turn_id,
            "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "ends": ends,
        }
        document = {"id": f"{of.session}/{turn_id}", "text": text, "metadata": metadata}
        body = {"documents": [document], "chunk_size": _CHUNK_CHARS, "chunk_overlap": 0, "create": True, "wait": False}
        try:
            async with asyncio.timeout(_TAKE_S):
                await self._ask(of.agent, "POST", "/ingest", body)
                if ttl_s:
                    await self._delete(of.agent, {"ends": {"lt": int(time.time())}})
        except (TimeoutError, NodeError) as error:
            log.warning("semantic memory of agent %s lacks a turn: rag does not take it (%s)", of.agent, error or f"{_TAKE_S:g} s passed")

    async def find(self, agent: str, wanted: Wanted) -> Found:
        """Raises what rag raises, but for a collection that is not there: nothing is remembered yet."""
        where: dict[str, Any] = {"ends": {"gte": int(time.time())}} | ({"session": wanted.session} if wanted.session else {})
        body = {"query": wanted.query, "top_k": wanted.max_results, "filter": where}
        if wanted.threshold is not None:
            body |= {"mode": "vectors", "score_threshold": wanted.threshold}
        try:
            answer = await self._query(agent, body)
        except NodeError as error:
            if error.code != _NOTHING:
                raise
            return Found(())
        return Found([_row(row) for row in answer["results"]], answer.get("note", ""))

    async def _query(self, agent: str, body: dict[str, Any]) -> Any:
        try:
            return await self._ask(agent, "POST", "/query", body)
        except NodeError as error:
            if error.status != BadRequest.status or "mode" not in body:
                raise
            by_words = {name: value for name, value in body.items() if name not in ("mode", "score_threshold")}
            answer = await self._ask(agent, "POST", "/query", by_words)
            return answer | {"note": f"searched by words alone, whatever the threshold: {error.message}"}

    async def forget(self, of: Conversation, turn_id: str | None = None) -> None:
        """Forget what was said in a conversation, or in one turn of it. Raises what rag raises, but where nothing is remembered."""
        await self._delete(of.agent, {"session": of.session} | ({"turn": turn_id} if turn_id is not None else {}))

    async def forget_all(self, agent: str) -> bool:
        """Forget all of the principal's; False where there was nothing. Raises what rag raises."""
        try:
            await self._ask(agent, "DELETE", "")
        except NodeError as error:
            if error.code != _NOTHING:
                raise
            return False
        return True

    async def _delete(self, agent: str, where: Mapping[str, Any]) -> None:
        try:
            await self._ask(agent, "DELETE", f"/documents?filter={quote(json.dumps(where))}")
        except NodeError as error:
            if error.code != _NOTHING:
                raise

    async def _ask(self, agent: str, method: str, rest: str, body: Any = None) -> Any:
        name = f"memory.{agent}"
        target = f"/v1/rag/collections/{quote(name, safe='')}{rest}"
        async with call(self._locate("rag", name), method, target, body=body) as reply:
            await reply.raise_for_status()
            try:
                return await reply.json()
            except ValueError:
                raise PeerLost(f"The answer to {target} is not JSON; look into the log of the node that gave it.") from None


def told(messages: Sequence[Mapping[str, Any]]) -> str:
    """What a turn said, without its tools: the user's words and the last answer; "" where the user said nothing in words."""
    asked = [text for message in messages if message["role"] == "user" and (text := _text(message))]
    answers = [text for message in messages if message["role"] == "assistant" and (text := _text(message))]
    return "\n\n".join([*(f"User: {text}" for text in asked), *(f"Assistant: {text}" for text in answers[-1:])]) if asked else ""


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))
    return content.strip() if isinstance(content, str) else ""


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    metadata = row["metadata"]
    named = {"session_id": metadata["session"], "turn_id": metadata["turn"], "created_at": metadata["created_at"]}
    return {"text": row["text"], "score": row["score"], **named}
