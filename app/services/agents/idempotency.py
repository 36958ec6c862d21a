"""Runs under an Idempotency-Key, recorded by the memory service in the store of their session before they begin.

A key answers once: while its run is under way a repetition is refused or waits, afterwards it gets the same answer. A run that failed, or
whose node was lost, may be run again, and the answer then says which attempt it is.
"""

import asyncio
import hashlib
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from app.context import current
from app.errors import BadRequest, Conflict, NodeError, RunUnderWay, StoreUnavailable
from app.services.agents.fetch import fetch
from app.services.contract import Locate
from app.session import store_of

_KEY = re.compile(r"[!-~]{1,255}")
_LOOK_S = 0.25
_RELEASE_S = 2.0
log = logging.getLogger(__name__)


class RunRecord:
    """One attempt under a key. ``begin`` first; then ``answer`` is what a run before it answered, or None and the run is this one's."""

    def __init__(self, locate: Locate, agent: str, session: str, key: str, fingerprint: str) -> None:
        self._locate, self._session = locate, session
        self._path = f"/v1/memory/{quote(agent, safe='')}/runs/{quote(session, safe='')}/{key}"
        self._own = {"token": secrets.token_hex(16), "fingerprint": fingerprint}
        self._lease_s = 0.0
        self.answer: Mapping[str, Any] | None = None
        self.headers: dict[str, str] = {}

    async def begin(self, wait: bool) -> None:
        """Claim the key. Raises RunUnderWay, unless the caller wants to ``wait`` for its answer; KeyReused; Conflict for an answer that is
        no longer kept; StoreUnavailable and the like where nothing can be recorded, and so nothing may begin."""
        while True:
            try:
                told = await self._put("running")
                break
            except NodeError as error:
                if error.code != RunUnderWay.code or not wait:
                    raise
                await asyncio.sleep(_LOOK_S)
        if told["state"] == "done":
            self.answer, self.headers = told["answer"], {"Idempotency-Replayed": "true"}
            if self.answer is None:
                raise Conflict("The run under this Idempotency-Key is done, and its answer is not kept: it was too large or was deleted.")
            return
        self._lease_s = float(told["lease_s"])
        self.headers = {"Idempotency-Attempt": str(told["attempt"])}

    async def keep(self, run: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """Run, renew the lease meanwhile, and keep the answer. Raises what the run raises; StoreUnavailable when the record is lost."""
        try:
            async with asyncio.timeout(None) as scope:
                renewing = asyncio.create_task(self._renew(scope))
                try:
                    answer = await run()
                finally:
                    renewing.cancel()
                    await asyncio.wait([renewing])
                    if not renewing.cancelled():
                        renewing.result()
        except TimeoutError:
            if not scope.expired():
                raise
            told = "The record of this run under its Idempotency-Key was lost while it ran, so it was stopped; a part of it may be done"
            raise StoreUnavailable(f"{told}. Ask again with the same key.") from None
        except BaseException:
            await self._release()
            raise
        await self._finish(answer)
        return answer

    async def _renew(self, scope: asyncio.Timeout) -> None:
        """Until cancelled, or the record is somebody else's or cannot be reached for as long as the lease: then end the run."""
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        while loop.time() - renewed_at < self._lease_s:
            await asyncio.sleep(self._lease_s / 4)
            asked_at = loop.time()
            try:
                async with asyncio.timeout(max(0.05, renewed_at + self._lease_s - asked_at)):
                    await self._put("running")
                renewed_at = asked_at
            except (NodeError, TimeoutError) as error:
                log.warning("a run's lease could not be renewed: %s", error)
                if isinstance(error, NodeError) and error.status == Conflict.status:
                    break
        scope.reschedule(loop.time())

    async def _finish(self, answer: dict[str, Any]) -> None:
        try:
            await self._put("done", answer)
        except NodeError as error:  # the caller has the answer: only a repetition would run again, and be told so
            log.warning("an answer could not be kept for repetitions: %s", error)

    async def _release(self) -> None:
        with suppress(NodeError, TimeoutError):  # the lease ends by itself, too
            async with asyncio.timeout(_RELEASE_S):
                await self._put("released")

    async def _put(self, state: str, answer: dict[str, Any] | None = None) -> Any:
        body = {**self._own, "state": state} | ({"answer": answer} if answer is not None else {})
        context = replace(current(), session=self._session, hops=(), from_peer=False)
        return await fetch(self._locate("memory", self._session), "PUT", self._path, body, context)


def digest_of_key(given: str) -> str:
    """Raises BadRequest for a key that is none."""
    if not _KEY.fullmatch(given):
        told = f"The header Idempotency-Key is {given[:80]!r}"
        raise BadRequest(f"{told}; send 1 to 255 visible ASCII characters, such as a UUID.", param="Idempotency-Key")
    return hashlib.sha256(given.encode()).hexdigest()


def digest_of(body: Mapping[str, Any], session: str) -> str:
    """The same for the same JSON, however it is spaced and ordered, in the same session. An id that a node made does not count: a
    repetition without one has another."""
    brought = session if store_of(session) is None else ""
    return hashlib.sha256(f"{json.dumps(body, sort_keys=True)}\n{brought}".encode()).hexdigest()


def prefers_to_wait(headers: Sequence[str]) -> bool:
    """``Prefer: wait`` (RFC 7240 §4.3), with or without seconds: it is waited until the request's deadline."""
    preferences = (part.split(";")[0].split("=")[0].strip().lower() for header in headers for part in header.split(","))
    return "wait" in preferences
