"""Runs under an Idempotency-Key, recorded by the real memory service: each answers once."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from app.call import Reply, call
from app.context import background
from app.errors import BadRequest, Conflict, KeyReused, NodeError, ProviderUnavailable, RunUnderWay, ServiceUnavailable, StoreUnavailable
from app.services.memory import Memory as MemoryService
from app.sse import decode
from tests.services.agents.world import ScriptedModel, Stuck, agent_file, agents
from tests.support import Neighbours, mounted, node_context

RUN = "/v1/agents/tester/run"


class Watched:
    """The memory service: ``records`` counts what is recorded of runs, ``fails`` is raised instead once it is set."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.records = 0
        self.fails: NodeError | None = None
        self.grown = asyncio.Condition()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "/runs/" in scope["path"]:
            if self.fails:
                raise self.fails
            async with self.grown:
                self.records += 1
                self.grown.notify_all()
        await self._app(scope, receive, send)

    async def recorded(self, count: int) -> None:
        async with self.grown:
            await self.grown.wait_for(lambda: self.records >= count)


@asynccontextmanager
async def world(folder: Path, model: ScriptedModel, **settings: Any) -> AsyncIterator[tuple[ASGIApp, Watched]]:
    agent_file(folder, memory={"conversational": {}})
    async with mounted(MemoryService(settings, node_context(folder))) as service:
        memory = Watched(service)
        async with agents(folder, Neighbours(inference=model, memory=memory)) as app:
            yield app, memory


async def ask(
    app: ASGIApp, key: str = "k-1", query: str = "Go.", session: str | None = None, **headers: str
) -> tuple[dict[str, Any], Reply]:
    sent = [(b"idempotency-key", key.encode())] + [(name.encode(), value.encode()) for name, value in headers.items()]
    body = {"query": query} | ({"session_id": session} if session else {})
    async with call(app, "POST", RUN, body=body, headers=sent, context=background()) as reply:
        return await reply.json(), reply


async def test_a_repetition_gets_the_same_answer_and_says_so(tmp_path: Path) -> None:
    model = ScriptedModel(["Done."])
    async with world(tmp_path, model) as (app, _):
        first, reply = await ask(app)
        assert (reply.header("idempotency-attempt"), reply.header("idempotency-replayed")) == ("1", None)
        again, reply = await ask(app)
    assert (again, reply.header("idempotency-replayed"), len(model.requests)) == (first, "true", 1)


async def test_a_repetition_as_a_stream_is_its_end(tmp_path: Path) -> None:
    model = ScriptedModel(["Done."])
    sent = [(b"idempotency-key", b"k"), (b"accept", b"text/event-stream")]
    async with world(tmp_path, model) as (app, _):
        told = []
        for _ in range(2):
            async with call(app, "POST", RUN, body={"query": "Go."}, headers=sent, context=background()) as reply:
                told.append((reply.header("idempotency-replayed"), [event async for event in decode(reply.chunks())]))
    [(first_replayed, first), (replayed, again)] = told
    assert (first_replayed, replayed, len(model.requests)) == (None, "true", 1)
    assert [event.name for event in again] == ["done"]
    assert json.loads(again[0].data) == json.loads(first[-1].data)


async def test_while_a_run_is_under_way_its_repetition_is_409_or_waits_for_the_answer(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    began = asyncio.Event()

    async def answer(request: Any) -> str:
        began.set()
        await go_on.wait()
        return "Done."

    async with world(tmp_path, ScriptedModel([answer])) as (app, memory):
        first = asyncio.create_task(ask(app))
        await began.wait()
        with pytest.raises(RunUnderWay) as refused:
            await ask(app)
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (409, "2")
        waiting = asyncio.create_task(ask(app, prefer="respond-async, wait=10"))
        await memory.recorded(memory.records + 2)
        go_on.set()
        [(told, _), (again, reply)] = await asyncio.gather(first, waiting)
    assert (again, reply.header("idempotency-replayed")) == (told, "true")


async def test_a_key_with_another_request_is_422(tmp_path: Path) -> None:
    model = ScriptedModel(["Done."])
    async with world(tmp_path, model) as (app, _):
        await ask(app, session="mine")
        for more in ({"query": "Other.", "session": "mine"}, {"session": "other"}):
            with pytest.raises(KeyReused) as refused:
                await ask(app, **more)
            assert (refused.value.status, refused.value.code) == (422, "idempotency_key_reused")
    assert len(model.requests) == 1


async def test_a_run_that_failed_may_be_run_again_and_its_answer_says_that_it_is_the_second(tmp_path: Path) -> None:
    model = ScriptedModel([ProviderUnavailable("down"), "Done."])
    async with world(tmp_path, model) as (app, _):
        with pytest.raises(ProviderUnavailable):
            await ask(app)
        told, reply = await ask(app)
    assert (told["answer"], reply.header("idempotency-attempt")) == ("Done.", "2")


async def test_a_caller_who_leaves_frees_the_key(tmp_path: Path) -> None:
    stuck = Stuck()
    async with world(tmp_path, ScriptedModel([stuck, "Done."])) as (app, _):
        run = asyncio.create_task(ask(app))
        await stuck.entered.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        _, reply = await ask(app, prefer="wait")
    assert reply.header("idempotency-attempt") == "2"


async def test_a_long_run_keeps_its_key(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def answer(request: Any) -> str:
        await go_on.wait()
        return "Done."

    async with world(tmp_path, ScriptedModel([answer]), run_lease_s=0.4) as (app, memory):
        run = asyncio.create_task(ask(app))
        await memory.recorded(10)  # a claim and nine renewals: more than two leases
        with pytest.raises(RunUnderWay):
            await ask(app)
        go_on.set()
        assert (await run)[0]["answer"] == "Done."


@pytest.mark.parametrize("failure", [StoreUnavailable("the disk is full"), Conflict("taken over")])
async def test_a_run_whose_record_is_lost_is_stopped(tmp_path: Path, failure: NodeError) -> None:
    stuck = Stuck()
    async with world(tmp_path, ScriptedModel([stuck]), run_lease_s=0.2) as (app, memory):
        run = asyncio.create_task(ask(app))
        await stuck.entered.wait()
        memory.fails = failure
        with pytest.raises(StoreUnavailable, match="was lost while it ran"):
            await run
    assert stuck.cancelled.is_set()


async def test_nothing_begins_that_cannot_be_recorded(tmp_path: Path) -> None:
    agent_file(tmp_path)
    model = ScriptedModel([])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        with pytest.raises(ServiceUnavailable, match="memory"):
            await ask(app)
    assert model.requests == []


@pytest.mark.parametrize("key", ["", "with space", "x" * 256, "é"])
async def test_a_key_that_is_none_is_refused(tmp_path: Path, key: str) -> None:
    async with world(tmp_path, ScriptedModel([])) as (app, memory):
        with pytest.raises(BadRequest, match="1 to 255 visible ASCII characters"):
            await ask(app, key)
        assert memory.records == 0


async def test_an_answer_that_was_deleted_with_its_conversation_is_not_run_again(tmp_path: Path) -> None:
    model = ScriptedModel(["Done."])
    async with world(tmp_path, model) as (app, memory):
        await ask(app, session="mine")
        async with call(memory, "DELETE", "/v1/memory/tester/history/mine", context=background()) as reply:
            assert reply.status == 200
        with pytest.raises(Conflict, match="its answer is not kept"):
            await ask(app, session="mine")
    assert len(model.requests) == 1
