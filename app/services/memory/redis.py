"""Conversations and runs in Redis, for all nodes that name the same server. All keys begin with ``astromesh:``; all times are the server's.

Each change is one step there, a script or a transaction. What is acknowledged is as safe as the server keeps it: to
switch on its append-only file is its operator's.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any, TypeVar

from app.config.backend import REDIS_URL
from app.errors import ConfigError, Problem, StoreUnavailable
from app.services.memory import redis_scripts as scripts
from app.services.memory.conversation import Conversation, History, MemorySettings, Part, Summary, Turn, check_same
from app.services.memory.redis_server import RedisServer
from app.services.memory.runs import Run, RunKey, claimed, still

VERSION = 1
_PREFIX = "astromesh:"
_STORE_ID, _VERSION, _RUNS, _PROBE = (f"{_PREFIX}{name}" for name in ("store_id", "version", "runs", "probe"))
_LOOK_S = 5.0
_MAX_COLLISIONS = 100
log = logging.getLogger(__name__)
T = TypeVar("T")


class RedisStore:
    """The store of the server at ``url``. Raises ConfigError for a URL that is none."""

    def __init__(self, url: str, settings: MemorySettings) -> None:
        self._settings = settings
        self._server = RedisServer(url)
        self._notes = ""
        self.store_id: str | None = None

    @property
    def place(self) -> str:
        return f"Redis at {self._server}{self._notes}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Raises ConfigError for a missing driver, and for what a newer build has written."""
        async with self._server.open():
            try:
                await self._identify()
            except StoreUnavailable as error:
                log.warning("the node starts without its store of conversations: %s", error)
            yield

    async def follow(self, changed: Callable[[], None]) -> None:
        """A server that came back empty is given the id again that it had."""
        while True:
            before = self.store_id
            try:
                await self._identify()
            except StoreUnavailable as error:
                log.debug("the store of conversations is not there: %s", error)
            except ConfigError as error:
                log.error("%s", error)
            if self.store_id != before:
                changed()
            await asyncio.sleep(_LOOK_S if self.store_id else _LOOK_S / 10)

    async def _identify(self) -> None:
        with self._server.use() as client:
            pipe = client.pipeline().set(_STORE_ID, self.store_id or secrets.token_hex(6), nx=True).set(_VERSION, VERSION, nx=True)
            *_, store_id, version = await pipe.get(_STORE_ID).get(_VERSION).execute()
            before, self._notes = self._notes, await _notes(client)
        if self._notes not in ("", before):
            log.warning("%s", self.place)
        if int(version) > VERSION:
            message = f"holds conversations of version {int(version)}, and this build knows {VERSION}"
            remedy = "run the newer build, or name another database"
            raise ConfigError([Problem(str(self._server), message, REDIS_URL, remedy=remedy)])
        self.store_id = store_id.decode()

    async def append(self, to: Conversation, turn_id: str, messages: bytes, ttl_s: float | None) -> bool:
        stays_ms = "" if ttl_s is None else max(1, int(ttl_s * 1000))
        values = (turn_id, messages, self._settings.max_turns_per_session, stays_ms)
        there = await self._do(scripts.APPEND, [_conversation(to), _answers(to)], *values)
        if there is not None:
            check_same(there, messages, turn_id)
        return there is None

    async def history(self, of: Conversation, part: Part) -> History:
        limits = part.turns(self._settings), part.bytes(self._settings)
        summarised, text, truncated, *rows = await self._do(scripts.HISTORY, [_conversation(of)], *limits)
        turns = [_turn(*rows[at : at + 3]) for at in range(0, len(rows), 3)]
        summary = Summary(summarised.decode(), text.decode("utf-8", "surrogatepass")) if summarised else None
        return History(tuple(reversed(turns)), truncated=bool(truncated), summary=summary)

    async def summarise(self, of: Conversation, summary: Summary) -> bool:
        text = summary.text.encode("utf-8", "surrogatepass")
        return bool(await self._do(scripts.SUMMARISE, [_conversation(of)], summary.turn_id, text))

    async def clear(self, of: Conversation) -> int:
        return int(await self._do(scripts.CLEAR, [_conversation(of), _answers(of)]))

    async def claim(self, of: RunKey, session: str, token: str, fingerprint: str) -> Run:
        async def decide(pipe: Any, there: Run | None, now_us: int) -> Run:
            if there and there.at_us < now_us - int(self._settings.run_ttl_s * 1e6):
                there = None
            run = claimed(there, Run(token, session, fingerprint, 1, "running", now_us), self._settings.run_lease_s)
            if run is there:
                return replace(run, answer=await pipe.hget(_answers_of(of, run), of.key))
            self._keep(pipe, of, run)
            return run

        return await self._change(of, decide)

    async def finish(self, of: RunKey, token: str, answer: bytes) -> None:
        async def decide(pipe: Any, there: Run | None, now_us: int) -> None:
            run = replace(still(there, token), state="done", at_us=now_us)
            left_ms, kept_ms = await pipe.pttl(_conversation_of(of, run)), self._run_ttl_ms
            self._keep(pipe, of, run)
            if len(answer) <= self._settings.max_run_bytes:
                pipe.hset(_answers_of(of, run), of.key, answer)
                pipe.pexpire(_answers_of(of, run), min(left_ms, kept_ms) if left_ms > 0 else kept_ms)

        await self._change(of, decide)

    async def release(self, of: RunKey, token: str) -> None:
        async def decide(pipe: Any, there: Run | None, now_us: int) -> None:
            if there and there.token == token and there.state == "running":
                self._keep(pipe, of, replace(there, state="released", at_us=now_us))

        await self._change(of, decide)

    async def sweep(self) -> None:
        """Conversations and runs expire by themselves; what is left to do is to forget runs that are too many."""
        with self._server.use() as client:
            seconds, micros = await client.time()
            oldest = seconds * 1_000_000 + micros - int(self._settings.run_ttl_s * 1e6)
            await client.eval(scripts.FORGET, 1, _RUNS, oldest, self._settings.max_runs)

    async def probe(self) -> None:
        with self._server.use() as client:
            await client.set(_PROBE, secrets.token_hex(8), ex=60)

    @property
    def _run_ttl_ms(self) -> int:
        return max(1, int(self._settings.run_ttl_s * 1000))

    async def _do(self, script: str, keys: list[str], *values: Any) -> Any:
        with self._server.use() as client:
            return await client.register_script(script)(keys=keys, args=values)

    async def _change(self, of: RunKey, decide: Callable[[Any, Run | None, int], Awaitable[T]]) -> T:
        """Decide on what is kept under a key, and change it if nobody else has meanwhile; else decide anew."""
        from redis.exceptions import WatchError

        with self._server.use() as client:
            for _ in range(_MAX_COLLISIONS):
                try:
                    async with client.pipeline() as pipe:
                        await pipe.watch(_run(of))
                        kept, (seconds, micros) = await pipe.get(_run(of)), await pipe.time()
                        decided = await decide(pipe, _read(kept) if kept else None, seconds * 1_000_000 + micros)
                        await pipe.execute()
                        return decided
                except WatchError:
                    continue
        raise StoreUnavailable(f"A run's record in {self.place} changes all the time; try again.", headers={"Retry-After": "1"})

    def _keep(self, pipe: Any, of: RunKey, run: Run) -> None:
        pipe.multi()
        pipe.set(_run(of), json.dumps(asdict(replace(run, answer=None))), px=self._run_ttl_ms)
        pipe.zadd(_RUNS, {_run(of): run.at_us})


async def _notes(client: Any) -> str:
    """What its operator should know of how a server keeps conversations."""
    from redis.exceptions import ResponseError

    try:
        aof = (await client.info("persistence")).get("aof_enabled")
        policy = (await client.info("memory")).get("maxmemory_policy", "noeviction")
    except ResponseError:  # the user may not ask
        return ""
    notes = [] if aof else ["its append-only file is off, so a crash loses what was said since its last snapshot"]
    notes += [] if policy == "noeviction" else [f"with maxmemory-policy {policy} it may drop conversations"]
    return "".join(f"; {note}" for note in notes)


def _read(kept: bytes) -> Run:
    told = json.loads(kept)
    return Run(**(told | {"before": tuple(told["before"])}))


def _turn(sequence: int, told: bytes, messages: bytes) -> Turn:
    created_us, _, turn_id = told.decode().partition(" ")
    return Turn(sequence, int(created_us), turn_id, messages)


def _named(kind: str, *names: str) -> str:
    return f"{_PREFIX}{kind}:{json.dumps(names, separators=(',', ':'))}"


def _conversation(of: Conversation) -> str:
    return _named("conversation", of.agent, of.principal, of.session)


def _answers(of: Conversation) -> str:
    """What was answered in a conversation to runs under a key."""
    return _named("answers", of.agent, of.principal, of.session)


def _conversation_of(of: RunKey, run: Run) -> str:
    return _conversation(Conversation(of.agent, of.principal, run.session))


def _answers_of(of: RunKey, run: Run) -> str:
    return _answers(Conversation(of.agent, of.principal, run.session))


def _run(of: RunKey) -> str:
    return _named("run", of.agent, of.principal, of.key)
