"""Server-sent events: what is encoded is decoded, however it is cut; a stream always says how it ended."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from app import sse
from app.errors import NodeError, ProviderError
from app.sse import Event, EventStream, decode, encode

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
NAMES = st.none() | st.from_regex(r"[a-z_]{1,20}", fullmatch=True)


def cut(raw: bytes, sizes: list[int]) -> list[bytes]:
    """``raw`` in pieces of these sizes, over and over."""
    pieces, at, turn = [], 0, 0
    while at < len(raw):
        size = sizes[turn % len(sizes)]
        pieces.append(raw[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


def decoded(pieces: list[bytes]) -> list[Event]:
    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def collect() -> list[Event]:
        return [event async for event in decode(chunks())]

    try:
        collect().send(None)  # nothing in it waits, so it needs no loop
    except StopIteration as done:
        return list(done.value)
    raise AssertionError("decoding waited for something")


@given(st.lists(st.tuples(JSON, NAMES), max_size=4), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_values_come_back_as_they_were_however_the_bytes_are_cut(events: list[tuple[Any, str | None]], sizes: list[int]) -> None:
    events = [(value, name) for value, name in events if not isinstance(value, str)]  # text is data as it is: the next test
    raw = b"".join(encode(value, name) for value, name in events)
    assert [(json.loads(event.data), event.name) for event in decoded(cut(raw, sizes))] == [
        (value, name or "message") for value, name in events
    ]


@given(st.text() | st.text("ab:\r\n"), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_text_comes_back_with_its_line_ends_as_line_feeds(text: str, sizes: list[int]) -> None:
    wanted = text.replace("\r\n", "\n").replace("\r", "\n")
    assert decoded(cut(encode(text), sizes)) == [Event("message", wanted)]


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_no_bytes_break_the_decoder(pieces: list[bytes]) -> None:
    for event in decoded(pieces):
        assert isinstance(event.data, str)


def test_text_cannot_smuggle_an_event_of_its_own() -> None:
    for end in ("\n", "\r", "\r\n"):
        raw = encode(f"a{end}{end}event: error{end}data: b")
        assert [event.name for event in decoded([raw])] == ["message"]
        assert b"\r" not in raw


def test_half_of_a_surrogate_pair_is_carried_as_json_writes_it() -> None:
    [event] = decoded([encode({"text": "\ud83d"})])
    assert json.loads(event.data) == {"text": "\ud83d"}


@pytest.mark.parametrize(
    ("raw", "events"),
    [
        (b": comment\n\ndata: 1\n\n", [Event("message", "1")]),
        (b"data:1\r\n\r\n", [Event("message", "1")]),
        (b"data: a\ndata: b\n\n", [Event("message", "a\nb")]),
        (b"data\n\n", [Event("message", "")]),
        (b"event: x\n\ndata: 1\n\n", [Event("message", "1")]),
        (b"id: 7\nretry: 10\nunknown: y\ndata: 1\n\n", [Event("message", "1")]),
        (b"data:  two spaces\n\n", [Event("message", " two spaces")]),
        (b"data: a:b\n\n", [Event("message", "a:b")]),
        (b"data: 1\n\ndata: unfinished\n", [Event("message", "1")]),
    ],
)
def test_events_are_read_as_the_standard_says(raw: bytes, events: list[Event]) -> None:
    assert decoded([raw]) == events


async def played(events: AsyncGenerator[bytes, None]) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    await EventStream(events, {"X-Extra": "1"})({"type": "http"}, receive, send)
    return sent


def body(sent: list[Message]) -> bytes:
    return b"".join(message.get("body", b"") for message in sent)


async def test_a_stream_begins_with_its_first_event_and_ends_with_its_last() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield encode(1)
        yield encode(2)

    sent = await played(events())
    assert sent[0]["status"] == 200
    headers = dict(sent[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"x-extra"] == b"1"
    assert body(sent) == b"data: 1\n\ndata: 2\n\n"
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_failure_before_the_first_event_is_raised_and_nothing_is_sent() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        raise ProviderError("refused")
        yield b""

    with pytest.raises(ProviderError):
        await played(events())


async def test_a_stream_without_any_event_is_an_error_and_nothing_is_sent() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        return
        yield b""

    with pytest.raises(NodeError, match="ended before its first event"):
        await played(events())


async def test_nothing_of_a_stream_goes_on_after_it() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield encode(1)

    before = asyncio.all_tasks()
    await played(events())
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(("failure", "code"), [(ProviderError("broke"), "provider_error"), (RuntimeError("secret"), "internal_error")])
async def test_a_failure_after_the_first_event_is_a_last_event(failure: Exception, code: str, caplog: pytest.LogCaptureFixture) -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield encode(1)
        raise failure

    caplog.set_level(logging.CRITICAL)
    sent = await played(events())
    last = decoded([body(sent)])[-1]
    assert (last.name, json.loads(last.data)["error"]["code"]) == ("error", code)
    assert b"secret" not in body(sent)
    assert not sent[-1]["more_body"]


async def test_a_silent_stream_gets_a_comment_and_a_lively_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEPALIVE_S", 0.05)
    silent_until = asyncio.get_running_loop().time() + 0.2

    async def events() -> AsyncGenerator[bytes, None]:
        yield encode(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(silent_until):
                await asyncio.Event().wait()
        yield encode(2)

    sent = await played(events())
    assert 2 <= body(sent).count(b": keep-alive\n\n") <= 4
    assert [event.data for event in decoded([body(sent)])] == ["1", "2"]


async def test_the_events_are_closed_when_the_client_is_gone() -> None:
    closed, begun = asyncio.Event(), asyncio.Event()

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            yield encode(1)
            begun.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    playing = asyncio.create_task(played(events()))
    await asyncio.wait_for(begun.wait(), 5)
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)
    assert closed.is_set()
