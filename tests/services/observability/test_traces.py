"""Traces over HTTP: the list, one trace as a tree, and what other nodes have of it."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.types import ASGIApp

from app.call import call
from app.context import CURRENT, RequestContext, background
from app.errors import BadRequest, TraceNotFound
from app.services.contract import AskPeers
from app.services.observability import Observability
from app.services.observability.tree import MAX_DEPTH, flat, tree
from app.tracing import MAX_SPANS, Recorder, TraceSettings, span
from tests.support import mounted, node_context

ROOT_SPAN = "00f067aa0ba902b7"


def trace_id(number: int) -> str:
    return f"{number:032x}"


def record(recorder: Recorder, number: int, agent: str | None = None, error: str = "") -> None:
    """A trace of a request, with or without an agent's run."""
    with recorder.accept(f"00-{trace_id(number)}-{ROOT_SPAN}-01", "") as top:
        top.name = "POST /v1/agents/{}/run" if agent else "GET /v1/tools"
        if agent:
            with span(f"invoke_agent {agent}", {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": agent}) as run:
                with span("chat m", {"gen_ai.response.finish_reasons": ("stop",)}) as chat:
                    chat.tell("gen_ai.output.messages", "hello")
                if error:
                    run.fail(error)


@asynccontextmanager
async def served(folder: Path, recorder: Recorder, ask: AskPeers | None = None) -> AsyncIterator[ASGIApp]:
    recorder.node = "here"
    node = replace(node_context(folder), traces=recorder)
    async with mounted(Observability({}, replace(node, ask_peers=ask) if ask else node)) as app:
        yield app


async def get(app: ASGIApp, target: str, context: RequestContext | None = None) -> tuple[Any, str | None]:
    async with call(app, "GET", target, context=context) as reply:
        assert reply.status == 200
        return await reply.json(), reply.header("x-astromesh-partial")


async def test_the_list_has_the_latest_first_and_can_be_of_one_agent(tmp_path: Path) -> None:
    recorder = Recorder()
    record(recorder, 1, "ada")
    record(recorder, 2)
    record(recorder, 3, "bob", error="peer_lost")
    async with served(tmp_path, recorder) as app:
        told, _ = await get(app, "/v1/traces")
        assert [(row["trace_id"], row["agent"], row["status"]) for row in told["traces"]] == [
            (trace_id(3), "bob", "error"),
            (trace_id(2), None, "ok"),
            (trace_id(1), "ada", "ok"),
        ]
        assert told["count"] == 3
        assert all(datetime.fromisoformat(row["started_at"]).tzinfo and row["duration_ms"] >= 0 for row in told["traces"])
        assert [row["agent"] for row in (await get(app, "/v1/traces?agent=ada"))[0]["traces"]] == ["ada"]
        assert (await get(app, "/v1/traces?agent=nobody"))[0] == {"traces": [], "count": 0}
        assert [row["agent"] for row in (await get(app, "/v1/traces?limit=1"))[0]["traces"]] == ["bob"]


@pytest.mark.parametrize("limit", ["0", "501", "x", "-1", "", "1e9", "²"])
async def test_a_limit_that_is_none_is_refused_with_its_bounds(tmp_path: Path, limit: str) -> None:
    async with served(tmp_path, Recorder()) as app:
        with pytest.raises(BadRequest, match="1 to 500"):
            await get(app, f"/v1/traces?limit={quote(limit)}")


async def test_a_trace_is_a_tree_of_its_spans(tmp_path: Path) -> None:
    recorder = Recorder()
    record(recorder, 1, "ada")
    async with served(tmp_path, recorder) as app:
        told, partial = await get(app, f"/v1/traces/{trace_id(1).upper()}")
    assert (told["trace_id"], told["agent"], told["status"], partial) == (trace_id(1), "ada", "ok", None)
    [top] = told["spans"]
    [run] = top["children"]
    [chat] = run["children"]
    assert [each["name"] for each in (top, run, chat)] == ["POST /v1/agents/{}/run", "invoke_agent ada", "chat m"]
    assert (top["kind"], top["node"], top["parent_id"], run["parent_id"]) == ("server", "here", None, top["span_id"])
    assert chat["attributes"] == {"gen_ai.response.finish_reasons": ["stop"]}
    assert chat["children"] == []
    assert top["duration_ms"] >= run["duration_ms"] >= chat["duration_ms"] > 0


@pytest.mark.parametrize("wanted", [trace_id(9), "nonsense", "x" * 500, "%0d%0aX: y", "..%3flivez"])
async def test_a_trace_that_is_not_there_is_404_with_what_to_do(tmp_path: Path, wanted: str) -> None:
    asked: list[str] = []

    async def ask(target: str) -> tuple[Sequence[tuple[str, Any]], Sequence[str]]:
        asked.append(target)
        return (), ("worker",)

    async with served(tmp_path, Recorder(), ask) as app:
        with pytest.raises(TraceNotFound) as caught:
            await get(app, f"/v1/traces/{wanted}")
    assert asked == ([f"/v1/traces/{wanted}"] if wanted == trace_id(9) else []), "nothing odd goes into a request to a peer"
    assert ("worker did not answer" in caught.value.message) is (wanted == trace_id(9))
    assert "GET /v1/traces" in caught.value.message or "32 hexadecimal" in caught.value.message


async def test_a_node_that_records_no_traces_says_so(tmp_path: Path) -> None:
    async with served(tmp_path, Recorder(TraceSettings(enabled=False))) as app:
        with pytest.raises(TraceNotFound, match="enabled"):
            await get(app, f"/v1/traces/{trace_id(1)}")


async def test_what_was_said_is_shown_to_who_said_it(tmp_path: Path) -> None:
    recorder = Recorder(content=True)
    token = CURRENT.set(replace(background(), principal="team-a"))
    try:
        record(recorder, 1, "ada")
    finally:
        CURRENT.reset(token)
    async with served(tmp_path, recorder) as app:
        for principal, shown in (("team-a", {"gen_ai.output.messages": "hello"}), ("team-b", None), ("", None)):
            told, _ = await get(app, f"/v1/traces/{trace_id(1)}", replace(background(), principal=principal))
            assert told["spans"][0]["children"][0]["children"][0].get("content") == shown
            assert ("hello" in json.dumps(told)) is bool(shown)


async def test_the_spans_of_other_nodes_are_put_where_they_belong(tmp_path: Path) -> None:
    here, there = Recorder(), Recorder()
    with here.accept(f"00-{trace_id(1)}-{ROOT_SPAN}-01", ""), span("attempt", kind="client") as attempt:
        with there.accept(f"00-{trace_id(1)}-{'b' * 16}-01", attempt.span_id) as remote:
            remote.name = "remote"

    async def ask_there(target: str) -> tuple[Sequence[tuple[str, Any]], Sequence[str]]:
        async with served(tmp_path, there) as app:
            return [("there", (await get(app, target))[0]), ("odd", ["?"]), ("odder", {"spans": [1, {"span_id": 5}]})], ["gone"]

    async with served(tmp_path, here, ask_there) as app:
        told, partial = await get(app, f"/v1/traces/{trace_id(1)}")
    [top] = told["spans"]
    assert top["children"][0]["children"][0]["name"] == "remote"
    assert partial == "gone"


async def test_a_trace_of_which_a_node_kept_only_a_part_says_so(tmp_path: Path) -> None:
    recorder = Recorder()
    for _ in range(MAX_SPANS + 1):
        record(recorder, 1)

    async def ask(target: str) -> tuple[Sequence[tuple[str, Any]], Sequence[str]]:
        async with served(tmp_path, recorder) as app:
            return [("there", (await get(app, target))[0])], ["gone", "gone"]

    async with served(tmp_path, Recorder(), ask) as app:
        told, partial = await get(app, f"/v1/traces/{trace_id(1)}")
    assert (told["truncated"], partial) == (True, "gone")


def a_span(number: int, parent: int | None, **more: Any) -> dict[str, Any]:
    told = {"span_id": f"{number:016x}", "parent_id": None if parent is None else f"{parent:016x}", "name": str(number), "kind": "internal"}
    rest = {"node": "n", "started_at": f"2026-01-01T00:00:00.{number:06d}+00:00", "duration_ms": 1, "status": "ok", "attributes": {}}
    return told | rest | more


def depth(spans: Sequence[Any]) -> int:
    deepest, level = 0, list(spans)
    while level:
        deepest, level = deepest + 1, [child for each in level for child in each["children"]]
    return deepest


def test_no_span_is_lost_however_odd_the_ids_are() -> None:
    circle = [a_span(1, 2), a_span(2, 3), a_span(3, 1), a_span(4, 3), a_span(5, 5), a_span(6, 99), a_span(7, None)]
    chain = [a_span(number, number - 1 if number else None) for number in range(350)]
    for spans in (circle, chain):
        made = tree(spans)
        assert sorted(each["name"] for each in flat(json.loads(json.dumps(made)))) == sorted(each["name"] for each in spans)
    assert depth(tree(chain)) == MAX_DEPTH


@pytest.mark.parametrize(
    "odd",
    [
        None,
        5,
        {},
        "text",
        [[]],
        [a_span(1, None, started_at="yesterday")],
        [a_span(1, None, started_at="2026-01-01T00:00:00")],
        [a_span(1, None, status="great")],
        [a_span(1, None, attributes=[])],
        [a_span(1, None, duration_ms="1")],
        [a_span(1, None, parent_id=5)],
    ],
)
def test_what_another_node_sends_in_another_shape_is_left_out(odd: Any) -> None:
    assert list(flat(odd)) == []
