"""Semantic memory: what was said is found by what it is about, by its own principal, until it is deleted or its time is over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.call import call
from app.context import background
from app.errors import BadRequest, StoreUnavailable
from app.services.memory import Memory
from app.services.rag import Rag
from tests.services.rag.world import MODEL, Model
from tests.support import Neighbours, mounted, node_context

EXCHANGES = (("My dog is called Rex.", "A fine name."), ("The automobile is red.", "Noted."), ("I live in Bern.", "A nice town."))


@dataclass
class World:
    app: ASGIApp
    model: Model
    neighbours: Neighbours

    async def ask(self, method: str, path: str, body: Any = None, principal: str = "ann") -> Any:
        async with call(self.app, method, path, body=body, context=replace(background(), principal=principal)) as reply:
            return await reply.json()

    async def rag(self, method: str, path: str) -> Any:
        async with call(self.neighbours.apps["rag"], method, path, context=replace(background(), principal="ann")) as reply:
            return await reply.json()

    async def say(self, session: str, turn_id: str, asked: str, answered: str, principal: str = "ann", **more: Any) -> None:
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        path = f"/v1/memory/clerk/history/{session}/turns/{turn_id}"
        await self.ask("PUT", path, {"messages": messages, "semantic": True, **more}, principal)

    async def found(self, query: str, principal: str = "ann", more: str = "") -> Any:
        return await self.ask("GET", f"/v1/memory/clerk/semantic?query={quote(query)}{more}", principal=principal)

    async def until_found(self, query: str, count: int, principal: str = "ann") -> Any:
        """What is found, once rag has taken so many exchanges."""
        async with asyncio.timeout(20):
            while len((answer := await self.found(query, principal))["results"]) < count:
                pass
        return answer["results"]

    async def until_embedded(self) -> None:
        """Until rag has no job left."""
        async with asyncio.timeout(20):
            while True:
                context = replace(background(), principal="ann")
                async with call(self.neighbours.apps["rag"], "GET", "/v1/rag/collections/memory.clerk/jobs", context=context) as reply:
                    if all(job["state"] == "done" for job in (await reply.json())["jobs"]):
                        return


@asynccontextmanager
async def memory(folder: Path, embedding_model: str = MODEL) -> AsyncIterator[World]:
    """Memory and rag on one node, with a model that knows that a car is an automobile."""
    model = Model(dimension=512)
    neighbours = Neighbours(inference=model)
    async with AsyncExitStack() as stack:
        rag = Rag({"embedding_model": embedding_model}, node_context(folder, neighbours))
        neighbours.apps["rag"] = await stack.enter_async_context(mounted(rag))
        app = await stack.enter_async_context(mounted(Memory({}, node_context(folder, neighbours))))
        yield World(app, model, neighbours)


async def test_what_was_said_is_found_by_its_meaning_in_all_sessions_or_in_one(tmp_path: Path) -> None:
    async with memory(tmp_path) as world:
        for at, (asked, answered) in enumerate(EXCHANGES):
            await world.say(f"s-{at}", f"t-{at}", asked, answered)
        results = await world.until_found("car", 3)
        assert (results[0]["text"], results[0]["session_id"], results[0]["turn_id"]) == (
            "User: The automobile is red.\n\nAssistant: Noted.",
            "s-1",
            "t-1",
        )
        assert [row["turn_id"] for row in (await world.found("car", more="&session_id=s-0"))["results"]] == ["t-0"]
        assert [row["turn_id"] for row in (await world.found("car", more="&max_results=1"))["results"]] == ["t-1"]
        assert [row["turn_id"] for row in (await world.found("vehicle", more="&similarity_threshold=0.2"))["results"]] == ["t-1"]
        history = await world.ask("GET", "/v1/memory/clerk/history/s-1")
        assert len(history["turns"]) == 1


async def test_nobody_finds_what_another_has_said(tmp_path: Path) -> None:
    async with memory(tmp_path) as world:
        await world.say("s", "t", "My dog is called Rex.", "A fine name.")
        await world.until_found("dog", 1)
        assert (await world.found("dog", "bob"))["results"] == []


async def test_a_deleted_conversation_is_found_no_more_and_others_are(tmp_path: Path) -> None:
    async with memory(tmp_path) as world:
        for at, (asked, answered) in enumerate(EXCHANGES):
            await world.say(f"s-{at}", f"t-{at}", asked, answered)
        await world.until_found("dog", 3)
        await world.ask("DELETE", "/v1/memory/clerk/history/s-0")
        assert {row["session_id"] for row in (await world.found("dog"))["results"]} == {"s-1", "s-2"}
        assert await world.ask("DELETE", "/v1/memory/clerk/semantic") == {"agent": "clerk", "forgotten": True}
        assert await world.ask("DELETE", "/v1/memory/clerk/semantic") == {"agent": "clerk", "forgotten": False}
        assert (await world.found("dog"))["results"] == []
        assert len((await world.ask("GET", "/v1/memory/clerk/history/s-1"))["turns"]) == 1


async def test_a_deleted_conversation_does_not_come_back_from_a_job_that_waits_for_the_model(tmp_path: Path) -> None:
    async with memory(tmp_path) as world:
        world.model.hold = asyncio.Event()
        await world.say("s-0", "t-0", "My dog is called Rex.", "A fine name.")
        await world.say("s-1", "t-1", "My cat is called Tom.", "A fine name.")
        async with asyncio.timeout(5):
            await world.model.begun.wait()
            await world.ask("DELETE", "/v1/memory/clerk/history/s-0")
            world.model.hold.set()
            jobs = "/v1/rag/collections/memory.clerk/jobs"
            while any(job["state"] == "running" for job in (await world.rag("GET", jobs))["jobs"]):
                pass
        assert {row["session_id"] for row in (await world.found("fine name"))["results"]} == {"s-1"}


async def test_a_conversation_stays_while_what_it_said_cannot_be_deleted_elsewhere(tmp_path: Path) -> None:
    async def broken(*_: Any) -> None:
        raise StoreUnavailable("The disk is full.")

    async with memory(tmp_path) as world:
        await world.say("s", "t", "My dog is called Rex.", "A fine name.")
        world.neighbours.apps["rag"] = broken
        with pytest.raises(StoreUnavailable):
            await world.ask("DELETE", "/v1/memory/clerk/history/s")
        assert len((await world.ask("GET", "/v1/memory/clerk/history/s"))["turns"]) == 1


async def test_a_turn_is_stored_also_while_there_is_no_rag(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with memory(tmp_path) as world:
        del world.neighbours.apps["rag"]
        await world.say("s", "t", "My dog is called Rex.", "A fine name.")
        assert len((await world.ask("GET", "/v1/memory/clerk/history/s"))["turns"]) == 1
        assert "semantic memory of agent clerk lacks a turn" in caplog.text
        await world.ask("DELETE", "/v1/memory/clerk/history/s")
        assert "deleted without a look into semantic memory" in caplog.text


async def test_an_exchange_whose_time_is_over_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with memory(tmp_path) as world:
        await world.say("s", "t", "My dog is called Rex.", "A fine name.", ttl_s=3600)
        await world.until_found("dog", 1)
        now = __import__("time").time()
        monkeypatch.setattr("app.services.memory.semantic.time.time", lambda: now + 3700)
        assert (await world.found("dog"))["results"] == []


async def test_without_an_embedding_model_words_are_searched_and_the_answer_says_so(tmp_path: Path) -> None:
    async with memory(tmp_path, "") as world:
        await world.say("s", "t", "My dog is called Rex.", "A fine name.")
        await world.until_found("dog", 1)
        assert "searched by words alone" in (await world.found("dog"))["note"]
        limited = await world.found("dog", more="&similarity_threshold=0.9")
        assert len(limited["results"]) == 1
        assert limited["note"].startswith("searched by words alone, whatever the threshold: ")
        for query, told in (("", "no query"), ("x&similarity_threshold=2", "give a number from -1 to 1")):
            with pytest.raises(BadRequest, match=told):
                await world.ask("GET", f"/v1/memory/clerk/semantic?query={query}")


async def test_what_is_deleted_before_rag_has_embedded_it_is_never_found(tmp_path: Path) -> None:
    async with memory(tmp_path) as world:
        world.model.hold = asyncio.Event()
        for session in ("s", "stays"):
            await world.say(session, "t", "My dog is called Rex.", "A fine name.")
        await world.model.begun.wait()
        await world.ask("DELETE", "/v1/memory/clerk/history/s")
        world.model.hold.set()
        await world.until_embedded()
        assert [row["session_id"] for row in (await world.found("dog"))["results"]] == ["stays"]


async def test_a_turn_whose_conversation_is_deleted_while_rag_takes_it_is_never_found(tmp_path: Path) -> None:
    async with memory(tmp_path) as world:
        rag = world.neighbours.apps["rag"]

        async def after_a_deletion(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"].endswith("/ingest"):
                world.neighbours.apps["rag"] = rag
                await world.ask("DELETE", "/v1/memory/clerk/history/s")
                await world.say("s", "t-2", "I have a cat.", "Noted.")
            await rag(scope, receive, send)

        world.neighbours.apps["rag"] = after_a_deletion
        await world.say("s", "t-1", "My dog is called Rex.", "A fine name.")
        await world.until_embedded()
        assert [row["turn_id"] for row in (await world.found("dog"))["results"]] == ["t-2"]


async def test_a_turn_that_is_stored_while_its_conversation_is_deleted_is_never_found(tmp_path: Path) -> None:
    async with memory(tmp_path) as world:
        rag = world.neighbours.apps["rag"]

        async def before_a_turn(scope: Scope, receive: Receive, send: Send) -> None:
            async def answer(message: Message) -> None:
                if scope["method"] == "DELETE" and world.neighbours.apps["rag"] is not rag:
                    world.neighbours.apps["rag"] = rag
                    await world.say("s", "t-2", "My dog is called Rex.", "A fine name.")
                await send(message)

            await rag(scope, receive, answer)

        await world.say("s", "t-1", "I have a cat.", "Noted.")
        world.neighbours.apps["rag"] = before_a_turn
        assert (await world.ask("DELETE", "/v1/memory/clerk/history/s"))["deleted"] == 2
        await world.until_embedded()
        assert (await world.found("dog"))["results"] == []
