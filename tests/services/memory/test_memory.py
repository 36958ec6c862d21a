"""Memory over its paths: shapes, keys, refusals, and what happens when callers leave."""

import asyncio
import dataclasses
import json
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from app.body import validator
from app.call import call
from app.context import background
from app.errors import BadRequest, BodyTooLarge, Conflict, InvalidBody, NodeError, SessionNotFound, StoreUnavailable
from app.services.memory import Memory
from app.services.memory import service as memory_service
from app.services.memory.conversation import MemorySettings, NewTurn, conversation
from app.services.memory.sqlite import SQLiteStore
from app.services.memory.sqlite_ledger import Ledger
from tests.support import mounted, node_context

TURN = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
PATH = "/v1/memory/assistant/history/s-1"


@asynccontextmanager
async def memory(folder: Path, **config: Any) -> AsyncIterator[tuple[ASGIApp, Memory]]:
    service = Memory(config, node_context(folder))
    async with mounted(service) as app:
        yield app, service


def ledger(service: Memory) -> Ledger:
    assert isinstance(service._store, SQLiteStore)
    return service._store.conversations._own


async def ask(app: ASGIApp, method: str, path: str = PATH, body: Any = None, principal: str = "") -> tuple[int, Any]:
    async with call(app, method, path, body=body, context=replace(background(), principal=principal)) as reply:
        return reply.status, await reply.json()


async def put(app: ASGIApp, turn_id: str, messages: Sequence[Any] = TURN) -> int:
    return (await ask(app, "PUT", f"{PATH}/turns/{turn_id}", {"messages": messages}))[0]


async def test_a_history_has_its_turns_and_all_their_messages(tmp_path: Path) -> None:
    async with memory(tmp_path) as (app, _):
        tools = [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "42"},
        ]
        assert [await put(app, "t1"), await put(app, "t2", tools)] == [201, 201]
        status, history = await ask(app, "GET")
        assert (status, history["agent"], history["session_id"]) == (200, "assistant", "s-1")
        assert [(turn["turn_id"], turn["messages"]) for turn in history["turns"]] == [("t1", TURN), ("t2", tools)]
        assert all(turn["created_at"].endswith("+00:00") for turn in history["turns"])
        assert history["messages"] == TURN + tools
        assert (await ask(app, "GET", PATH + "?max_turns=1"))[1]["messages"] == tools


async def test_a_posted_turn_gets_an_id(tmp_path: Path) -> None:
    async with memory(tmp_path) as (app, _):
        status, answer = await ask(app, "POST", PATH, {"messages": TURN})
        assert (status, answer["session_id"], answer["agent"]) == (201, "s-1", "assistant")
        assert (await ask(app, "GET"))[1]["turns"][0]["turn_id"] == answer["turn_id"]


async def test_a_put_turn_may_be_sent_again(tmp_path: Path) -> None:
    async with memory(tmp_path) as (app, _):
        assert [await put(app, "t1"), await put(app, "t1")] == [201, 200]
        with pytest.raises(Conflict):
            await put(app, "t1", [{"role": "user", "content": "other"}])


async def test_a_deleted_history_is_not_found(tmp_path: Path) -> None:
    async with memory(tmp_path) as (app, _):
        await put(app, "t1")
        assert await ask(app, "DELETE") == (200, {"agent": "assistant", "session_id": "s-1", "deleted": 1})
        with pytest.raises(SessionNotFound, match="session 's-1' with agent 'assistant'"):
            await ask(app, "GET")
        assert (await ask(app, "DELETE"))[1]["deleted"] == 0


async def test_the_principal_is_part_of_the_key(tmp_path: Path) -> None:
    async with memory(tmp_path) as (app, _):
        await ask(app, "POST", PATH, {"messages": TURN}, principal="team-a")
        for other in ("", "team-b"):
            with pytest.raises(SessionNotFound):
                await ask(app, "GET", principal=other)
        assert (await ask(app, "GET", principal="team-a"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "error", "param"),
    [
        ("GET", "/v1/memory/assistant/history/%2e%2e", BadRequest, "session_id"),
        ("GET", "/v1/memory/as%20sistant/history/s", BadRequest, "agent"),
        ("DELETE", f"/v1/memory/{'a' * 129}/history/s", BadRequest, "agent"),
        ("PUT", PATH + "/turns/%20", BadRequest, "turn_id"),
        ("GET", PATH + "?max_turns=0", BadRequest, "max_turns"),
        ("GET", PATH + "?max_turns=x", BadRequest, "max_turns"),
        ("GET", PATH + "?max_turns=" + "9" * 30, BadRequest, "max_turns"),
    ],
)
async def test_a_bad_name_or_number_is_refused_by_name(tmp_path: Path, method: str, path: str, error: type[NodeError], param: str) -> None:
    async with memory(tmp_path) as (app, _):
        with pytest.raises(error) as caught:
            await ask(app, method, path, {"messages": TURN})
        assert caught.value.param == param


@pytest.mark.parametrize(
    ("messages", "path"),
    [
        ([], "$.messages"),
        ([{"role": "robot", "content": "x"}], "$.messages[0].role"),
        ([{"content": "x"}], "$.messages[0]"),
        ([TURN[0], {"role": "user", "content": 5}], "$.messages[1].content"),
    ],
)
async def test_messages_that_are_none_are_refused_with_their_path(tmp_path: Path, messages: list[Any], path: str) -> None:
    async with memory(tmp_path) as (app, _):
        with pytest.raises(InvalidBody) as caught:
            await put(app, "t1", messages)
        assert caught.value.param == path


async def test_a_turn_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    async with memory(tmp_path, max_turn_bytes=2000) as (app, _):
        with pytest.raises(BodyTooLarge, match=r"at most 2000 \(spec\.memory\.max_turn_bytes\)"):
            await put(app, "t1", [{"role": "user", "content": "x" * 2000}])


async def test_any_text_comes_back_as_it_was_also_half_a_surrogate_pair(tmp_path: Path) -> None:
    async with memory(tmp_path) as (app, _):
        said = [{"role": "user", "content": "日本語 \0 \ud83d \U0001f600", "of_its_own": [1.5, None]}]
        await put(app, "t1", said)
        assert (await ask(app, "GET"))[1]["messages"] == said


async def test_a_caller_who_leaves_makes_no_half_turn_and_no_harm(tmp_path: Path) -> None:
    async with memory(tmp_path) as (app, _):
        tasks = [asyncio.create_task(put(app, f"t{number}")) for number in range(20)]
        await tasks[1]  # the others are under way, or done, by then
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        turns = (await ask(app, "GET"))[1]["turns"]
        assert all(turn["messages"] == TURN for turn in turns)
        assert {f"t{number}" for number, answer in enumerate(done) if answer == 201} <= {turn["turn_id"] for turn in turns}
        assert done[1::2] == [201] * 10


async def test_a_write_that_waits_for_the_disk_holds_up_no_read(tmp_path: Path) -> None:
    async with memory(tmp_path) as (app, _):
        await put(app, "t1")
        with closing(sqlite3.connect(tmp_path / "memory/conversations-0.sqlite", isolation_level=None)) as shell:
            shell.execute("BEGIN IMMEDIATE")
            write = asyncio.create_task(put(app, "t2"))
            for _ in range(20):
                assert len((await ask(app, "GET"))[1]["turns"]) == 1
            assert not write.done()
            shell.execute("ROLLBACK")
        assert await write == 201


async def test_the_check_writes_and_names_what_is_wrong(tmp_path: Path) -> None:
    async with memory(tmp_path) as (_, service):
        assert (await service.check())["memory"].status == "ok"
        ledger(service)._sql.execute("PRAGMA query_only = ON")
        failed = (await service.check())["memory"]
        assert failed.status == "error"
        assert "writable for" in failed.message
        with pytest.raises(StoreUnavailable):
            await service.append(conversation("a", "", "s"), NewTurn("t", [{"role": "user"}]))


async def test_waits_and_failures_are_counted_apart_for_reads_and_writes(tmp_path: Path) -> None:
    async with memory(tmp_path) as (app, service):

        def told(name: str) -> list[float | None]:
            return [service._node.metrics.get_sample_value(f"astromesh_memory_{name}", {"work": work}) for work in ("read", "write")]

        await put(app, "t1")
        await ask(app, "GET")
        await ask(app, "GET")
        assert (told("queue_wait_seconds_count"), told("failures_total")) == ([2, 1], [0, 0])
        ledger(service)._sql.execute("PRAGMA query_only = ON")
        with pytest.raises(StoreUnavailable):
            await put(app, "t2")
        assert (told("queue_wait_seconds_count"), told("failures_total")) == ([2, 2], [0, 1])


@pytest.mark.parametrize(("appended", "recent_s", "status"), [(False, 5, "error"), (True, 5, "degraded"), (True, 0, "error")])
async def test_a_check_that_waits_too_long_is_an_error_unless_turns_are_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, appended: bool, recent_s: float, status: str
) -> None:
    monkeypatch.setattr(memory_service, "_CHECK_S", 0.05)
    monkeypatch.setattr(memory_service, "_RECENT_S", recent_s)
    async with memory(tmp_path) as (app, service):
        if appended:
            await put(app, "t1")
        with closing(sqlite3.connect(tmp_path / "memory/conversations-0.sqlite", isolation_level=None)) as shell:
            shell.execute("BEGIN IMMEDIATE")
            found = (await service.check())["memory"]
    assert found.status == status
    assert "takes longer than" in found.message


async def test_background_work_removes_what_another_node_deleted(tmp_path: Path) -> None:
    async with memory(tmp_path, sweep_interval_s=0.001) as (app, service), memory(tmp_path) as (other, _):
        await put(app, "t1")
        await ask(other, "DELETE")
        async with asyncio.timeout(10):
            while ledger(service).last(conversation("assistant", "", "s-1")):
                await service.check()


async def test_a_node_that_opens_again_still_knows(tmp_path: Path) -> None:
    service = Memory({}, node_context(tmp_path))
    for number in range(3):
        async with mounted(service) as app:
            await put(app, f"t{number}")
            assert len((await ask(app, "GET"))[1]["turns"]) == number + 1


def test_facts_name_the_store_and_leave_the_keys_open(tmp_path: Path) -> None:
    facts = Memory({}, node_context(tmp_path)).facts()
    assert (facts.keys, facts.store_id) == (None, "5" * 12)
    assert list(tmp_path.iterdir()) == [], "constructing does no I/O"


def test_schema_settings_and_reference_agree() -> None:
    root = Path(__file__).parents[3]
    schema = json.loads((root / "app/services/memory/schema.json").read_bytes())["configuration"]
    validator(schema)
    fields = {field.name: field.default for field in dataclasses.fields(MemorySettings)}
    assert schema["properties"].keys() == fields.keys()
    assert schema["additionalProperties"] is False
    reference = (root / "docs/memory.md").read_text()
    for name, default in fields.items():
        assert f"| `{name}` | {default} |" in reference
