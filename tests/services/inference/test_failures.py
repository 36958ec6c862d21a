import asyncio
import logging
import re
import socket
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.call import call
from app.context import background
from app.errors import (
    AnsweredError,
    ConfigError,
    DeadlineExceeded,
    NodeError,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
)
from app.services.inference import Inference
from app.services.inference.breaker import Breaker, BreakerPolicy
from app.services.inference.catalog import Attached, Catalog
from app.services.inference.provider import Chunk, ProviderSpec
from tests.services.inference.fakes import (
    CHAT,
    DONE,
    QUESTION,
    FakeServer,
    ask,
    chat,
    completion,
    content_of,
    delta,
    events,
    hangs,
    inference,
    openai_server,
    replies,
    streams,
    write_providers,
)
from tests.support import mounted, node_context, serve

KEYED = {"UP_KEY": "sk-secret"}


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


@pytest.mark.parametrize(
    ("status", "body", "expected", "told"),
    [
        (500, error("boom"), ProviderError, "boom"),
        (502, b"<html>bad gateway</html>", ProviderError, "status 502"),
        (503, error("loading"), ProviderUnavailable, "loading"),
        (504, b"", ProviderTimeout, "504"),
        (429, error("slow down"), ProviderRateLimited, "slow down"),
        (401, error("Incorrect API key provided: sk-secret"), ProviderError, "UP_KEY"),
        (403, b"", ProviderError, "UP_KEY"),
        (404, b"<html>nothing here</html>", ProviderError, "status 404"),
        (404, {"detail": "Not Found"}, ProviderError, "status 404"),
        (307, b"", ProviderError, "redirects"),
        (200, b"<html>a login page</html>", ProviderError, "up"),
        (200, error("quota of sk-secret used up"), ProviderError, r"up"),
        (200, [1], ProviderError, "up"),
        (200, b'{"choices": [], "usage": NaN}', ProviderError, "up"),
        (500, error("half a pair \ud83d"), ProviderError, "half a pair"),
        (400, error("bad temperature", param="temperature", code="c", type="t"), AnsweredError, "bad temperature"),
        (404, error("no such model"), AnsweredError, "no such model"),
        (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, AnsweredError, "field required"),
        (400, {"object": "error", "message": "too long", "code": 400}, AnsweredError, "too long"),
    ],
)
async def test_an_upstream_failure_names_the_provider_and_is_never_a_500(
    tmp_path: Path, status: int, body: Any, expected: type[NodeError], told: str
) -> None:
    server = openai_server().on(CHAT, replies(body, status, {"Retry-After": "7", "Location": "http://u:p@else.where/v1?k=1"}))
    async with serve(server) as url:
        write_providers(tmp_path, f"    up: {{type: openai_compat, endpoint: '{url}', api_key_env: UP_KEY}}")
        async with inference(tmp_path, environ=KEYED) as app:
            with pytest.raises(expected, match=told) as whole:
                await chat(app)
            with pytest.raises(expected, match=told) as streamed:
                await events(app)
    for error in (whole.value, streamed.value):
        assert error.status == (status if expected is AnsweredError else expected.status)
        assert error.status != 500
        assert "'up'" in error.message
        assert "sk-secret" not in error.message
        assert "u:p" not in error.message
        assert error.headers.get("Retry-After") == ("7" if status in (429, 503) else None)


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("/v2/chat", "/v2/chat; make that its endpoint"),
        ("//u:p@else.where/x?k=1", "to http://else.where/x; make"),
        ("http://[", "to no address"),
        ("http://host:99999/", "to no address"),
        ("mailto:someone", "to an address that is no URL"),
        ("", "redirects to"),
    ],
)
async def test_a_redirect_to_anywhere_is_the_providers_failure(tmp_path: Path, location: str, told: str) -> None:
    server = openai_server().on(CHAT, replies(b"", 307, {"Location": location}))
    async with inference(tmp_path, up=server) as app:
        with pytest.raises(ProviderError, match=re.escape(told)) as caught:
            await chat(app)
    assert "'up'" in caught.value.message
    assert "u:p" not in caught.value.message


async def test_an_endpoint_that_is_no_url_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    write_providers(tmp_path, "    up: {type: openai_compat, endpoint: 'http://u:p@[broken', models: [m1]}")
    with pytest.raises(ConfigError, match=r"spec\.providers\.up\.endpoint") as caught:
        async with inference(tmp_path):
            pass
    assert "u:p" not in caught.value.message


async def test_a_refused_requests_details_are_kept(tmp_path: Path) -> None:
    server = openai_server().on(CHAT, replies(error("bad", param="temperature", code="c", type="t"), 400))
    async with inference(tmp_path, up=server) as app:
        with pytest.raises(AnsweredError) as caught:
            await chat(app)
    assert caught.value.body()["error"] | {"message": ""} == {"message": "", "type": "t", "code": "c", "param": "temperature"}


async def test_a_server_that_is_not_there_is_503(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    write_providers(tmp_path, f"    up: {{type: openai_compat, endpoint: 'http://127.0.0.1:{port}', models: [m1]}}")
    async with inference(tmp_path) as app:
        with pytest.raises(ProviderUnavailable, match="'up' cannot be reached"):
            await chat(app)


async def test_a_server_that_accepts_no_connection_is_504(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as first, socket.socket() as second:
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        write_providers(
            tmp_path, f"    up: {{type: openai_compat, endpoint: 'http://127.0.0.1:{listener.getsockname()[1]}', models: [m1]}}"
        )
        async with inference(tmp_path, {"connect_timeout_s": 0.1}) as app:
            with pytest.raises(ProviderTimeout, match="did not accept a connection"):
                await chat(app)


async def test_a_server_that_closes_without_an_answer_is_502(tmp_path: Path) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        write_providers(tmp_path, f"    up: {{type: openai_compat, endpoint: 'http://127.0.0.1:{port}', models: [m1]}}")
        async with inference(tmp_path) as app:
            with pytest.raises(ProviderError, match="'up' broke off") as caught:
                await chat(app)
    assert caught.value.status == 502


async def test_a_server_that_speaks_no_http_is_502(tmp_path: Path) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        write_providers(tmp_path, f"    up: {{type: openai_compat, endpoint: 'http://127.0.0.1:{port}', models: [m1]}}")
        async with inference(tmp_path) as app:
            with pytest.raises(ProviderError) as caught:
                await chat(app)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    "answer",
    [
        streams(delta("a"), then="break"),
        streams(delta("a")),
        streams(delta("a"), b'data: {"choi'),
        streams(delta("a"), b"data: nonsense\n\n"),
        streams(delta("a"), b'data: {"error": {"message": "out of memory"}}\n\n', DONE),
        streams(delta("a"), b'event: error\ndata: {"message": "out of memory"}\n\n'),
        streams(delta("a"), then="hang"),
    ],
    ids=["cut", "no end", "half a chunk", "nonsense", "error chunk", "error event", "silence"],
)
async def test_a_stream_that_breaks_ends_in_an_error_and_never_in_done(tmp_path: Path, answer: Any) -> None:
    server = openai_server().on(CHAT, answer)
    async with inference(tmp_path, {"idle_timeout_s": 0.1}, up=server) as app:
        lines = await events(app)
    assert content_of(lines) == "a"
    assert lines[-2] == "event: error"
    assert "'up'" in lines[-1]
    assert "data: [DONE]" not in lines


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (streams(delta(role="assistant"), then="break"), ProviderError),
        (streams(), ProviderError),
        (streams(delta(role="assistant"), then="hang"), ProviderTimeout),
        (hangs, ProviderTimeout),
    ],
    ids=["cut after the role", "nothing", "silent after the role", "no status"],
)
async def test_the_status_waits_for_content(tmp_path: Path, answer: Any, expected: type[NodeError]) -> None:
    server = openai_server().on(CHAT, answer)
    async with inference(tmp_path, {"first_token_timeout_s": 0.1}, up=server) as app:
        with pytest.raises(expected, match="'up'"):
            await events(app)


async def test_a_slow_whole_answer_is_504(tmp_path: Path) -> None:
    server = openai_server().on(CHAT, hangs)
    async with inference(tmp_path, {"answer_timeout_s": 0.1}, up=server) as app:
        with pytest.raises(ProviderTimeout, match="'up' did not send an answer in time"):
            await chat(app)
        await asyncio.wait_for(server.left.wait(), 5)


async def test_the_requests_deadline_bounds_the_wait(tmp_path: Path) -> None:
    server = openai_server().on(CHAT, hangs)
    async with inference(tmp_path, up=server) as app:
        await ask(app, "/v1/providers")
        context = replace(background(), deadline=asyncio.get_running_loop().time() + 0.2)
        with pytest.raises(DeadlineExceeded):
            async with call(app, "POST", "/v1/chat/completions", body={**QUESTION, "model": "m1"}, context=context):
                pass


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_token_ends_the_upstream_request(tmp_path: Path, stream: bool) -> None:
    server = openai_server().on(CHAT, hangs)
    async with inference(tmp_path, up=server) as app:
        waiting = asyncio.create_task(events(app) if stream else chat(app))
        while not server.asked_for("/v1/chat/completions"):
            server.asked.clear()
            await asyncio.wait_for(server.asked.wait(), 5)
        waiting.cancel()
        await asyncio.wait_for(server.left.wait(), 5)


async def test_a_client_that_leaves_in_the_middle_of_a_stream_ends_the_upstream_request(tmp_path: Path) -> None:
    server = openai_server().on(CHAT, streams(delta("a"), then="hang"))
    async with inference(tmp_path, up=server) as app:
        async with call(app, "POST", "/v1/chat/completions", body={**QUESTION, "model": "m1", "stream": True}) as reply:
            assert b'"a"' in await anext(reply.chunks())
        await asyncio.wait_for(server.left.wait(), 5)


class Talker:
    """A provider that talks without end; ``closed`` once nobody listens."""

    spec = ProviderSpec("talker", "builtin", models=("m1",))
    closed = False

    async def probe(self) -> tuple[str, ...]:
        return self.spec.models

    async def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return completion("and on")

    async def stream(self, request: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        try:
            while True:
                yield Chunk("{}", True)
        finally:
            self.closed = True

    async def embed(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {}


async def test_a_reader_who_stops_closes_the_providers_stream_before_going_on(tmp_path: Path) -> None:
    service, talker = Inference({}, node_context(tmp_path)), Talker()
    async with service.open():
        service._catalog = Catalog([Attached(talker, Breaker(BreakerPolicy()), 30.0)])
        stream = service.stream({**QUESTION, "model": "m1"})
        assert await anext(stream)
        await stream.aclose()
        assert talker.closed


async def test_a_fallback_answers_for_a_provider_that_fails(tmp_path: Path) -> None:
    first, second = openai_server("m1"), openai_server("m2").on(CHAT, replies(completion("b", "m2")))
    async with inference(tmp_path, {"fallbacks": ["missing", "m2"]}, first=first, second=second) as app:
        await chat(app, "m2")
        for answer in (replies(error("busy"), 429), replies(b"", 503), replies(b"?"), replies(b"", 500)):
            first.on(CHAT, answer)
            assert await chat(app) == "b"
        second.on(CHAT, streams(delta("b", "stop"), DONE))
        for answer in (replies(error("busy"), 429), streams(delta(role="assistant"), then="break")):
            first.on(CHAT, answer)
            assert content_of(await events(app)) == "b"
    assert len(first.asked_for("/v1/chat/completions")) == 6
    assert {seen.body["model"] for seen in second.asked_for("/v1/chat/completions")} == {"m2"}


async def test_a_fallback_answers_when_the_first_content_does_not_come(tmp_path: Path) -> None:
    first = openai_server("m1").on(CHAT, streams(delta(role="assistant"), then="hang"))
    second = openai_server("m2").on(CHAT, streams(delta("b", "stop"), DONE))
    async with inference(tmp_path, {"fallbacks": ["m2"], "first_token_timeout_s": 1.0}, first=first, second=second) as app:
        await events(app, "m2")
        assert content_of(await events(app)) == "b"


async def test_no_fallback_is_asked_after_the_first_content_or_for_the_callers_mistake(tmp_path: Path) -> None:
    first = openai_server("m1").on(CHAT, streams(delta("a"), then="break"))
    second = openai_server("m2").on(CHAT, replies(completion("b", "m2")))
    async with inference(tmp_path, {"fallbacks": ["m2"]}, first=first, second=second) as app:
        await chat(app, "m2")
        assert (await events(app))[-2] == "event: error"
        first.on(CHAT, replies(error("bad"), 400))
        with pytest.raises(AnsweredError):
            await chat(app)
    assert len(second.asked_for("/v1/chat/completions")) == 1


async def test_when_every_choice_fails_the_first_ones_error_is_told(tmp_path: Path) -> None:
    first = openai_server("m1").on(CHAT, replies(b"", 429))
    second = openai_server("m2").on(CHAT, replies(b"", 500))
    async with inference(tmp_path, {"fallbacks": ["m2"]}, first=first, second=second) as app:
        with pytest.raises(ProviderError):
            await chat(app, "m2")
        with pytest.raises(ProviderRateLimited, match="'first'"):
            await chat(app)


async def test_a_provider_that_keeps_failing_is_left_alone_and_tried_again_later(tmp_path: Path) -> None:
    server = openai_server().on(CHAT, replies(b"", 500))
    breaker = "  routing:\n    circuit_breaker: {failure_threshold: 2, recovery_timeout: 30}\n"
    async with serve(server) as url:
        write_providers(tmp_path, f"    up: {{type: openai_compat, endpoint: '{url}'}}", breaker)
        service = Inference({}, node_context(tmp_path))
        async with mounted(service) as app:
            for _ in range(2):
                with pytest.raises(ProviderError):
                    await chat(app)
            with pytest.raises(ProviderUnavailable, match="left alone") as caught:
                await chat(app)
            assert len(server.asked_for("/v1/chat/completions")) == 2
            assert caught.value.headers["Retry-After"] == "30"
            assert (await ask(app, "/v1/providers"))["providers"][0]["circuit"] == "open"
            server.on(CHAT, replies(completion("back")))
            (attached,) = service._catalog
            attached.breaker.leave(asyncio.get_running_loop().time() - 30, success=False)  # as if the last failure were that long ago
            assert await chat(app) == "back"
            assert (await ask(app, "/v1/providers"))["providers"][0]["circuit"] == "closed"


async def test_no_log_line_has_a_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer().on("GET /v1/models", replies(error("key sk-secret is no good"), 500))
    async with serve(server) as url:
        write_providers(tmp_path, f"    up: {{type: openai_compat, endpoint: '{url}', api_key_env: UP_KEY}}")
        with caplog.at_level(logging.DEBUG):
            async with inference(tmp_path, environ=KEYED) as app:
                with pytest.raises(ProviderUnavailable) as caught:
                    await chat(app)
    assert "is no good" in caplog.text
    assert "sk-secret" not in caplog.text + caught.value.message


async def test_no_log_line_repeats_what_a_provider_said_of_a_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = openai_server().on(CHAT, replies(error("cannot answer\n'my secret question'"), 500))
    async with inference(tmp_path, up=server) as app:
        with caplog.at_level(logging.INFO):
            for asked in (chat(app), events(app)):
                with pytest.raises(ProviderError, match="my secret question"):
                    await asked
    assert caplog.text.count("provider up, model m1: status 502, provider_error\n") == 2
    assert "secret" not in caplog.text


async def test_what_a_provider_says_at_a_look_is_logged_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer().on("GET /v1/models", replies(error("loading\nWARNING forged\r\x1b[1m"), 500))
    async with inference(tmp_path, up=server) as app:
        with pytest.raises(ProviderUnavailable):
            await chat(app)
    (told,) = [record.getMessage() for record in caplog.records if "is down" in record.getMessage()]
    assert "loading WARNING forged" in told
    assert told.isprintable()
