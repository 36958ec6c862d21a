"""The OpenAI SDK as the client, over a real socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import openai
import pytest

from app.services.inference.builtin import OWNED_BY
from tests.services.inference import test_builtin
from tests.services.inference.fakes import CHAT, FakeServer, answering_errors, delta, inference, openai_server, replies, streams
from tests.support import serve

TOOLS = cast("Any", test_builtin.TOOLS)
QUESTION = "What is 17*23, and what time is it in Tokyo?"


@asynccontextmanager
async def sdk(folder: Path, **servers: FakeServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with inference(folder, None, None, **servers) as app, serve(answering_errors(app)) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-client", max_retries=0) as client:
            yield client


async def test_a_conversation_with_tools_goes_through(tmp_path: Path) -> None:
    async with sdk(tmp_path) as client:
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        first = await client.chat.completions.create(model="builtin", messages=messages, tools=TOOLS)
        calls = first.choices[0].message.tool_calls
        messages.append(first.choices[0].message.model_dump(exclude_none=True))
        for call, result in zip(calls or (), ("391", '{"iso": "2026-01-02T03:04:05+09:00"}'), strict=True):
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        second = await client.chat.completions.create(model="builtin", messages=messages, tools=TOOLS)
    assert second.choices[0].message.content == "17*23 = 391. In Asia/Tokyo it is 2026-01-02T03:04:05+09:00."


async def test_a_stream_with_usage_goes_through(tmp_path: Path) -> None:
    async with sdk(tmp_path) as client:
        stream = await client.chat.completions.create(
            model="builtin", messages=[{"role": "user", "content": "hello"}], stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.endswith("You asked: “hello”")
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == len(text.split())


async def test_embeddings_and_models_go_through(tmp_path: Path) -> None:
    async with sdk(tmp_path) as client:
        found = await client.embeddings.create(model="builtin", input=["a", "b"])
        models = [(model.id, model.owned_by) async for model in client.models.list()]
    assert [len(row.embedding) for row in found.data] == [256, 256]
    assert models == [("builtin", OWNED_BY)]


async def test_errors_are_the_sdks_own(tmp_path: Path) -> None:
    server = openai_server().on(CHAT, replies({"error": {"message": "slow down"}}, 429, {"Retry-After": "3"}))
    async with sdk(tmp_path, up=server) as client:
        with pytest.raises(openai.NotFoundError, match="there is: m1"):
            await client.chat.completions.create(model="zzz", messages=[{"role": "user", "content": "x"}])
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(model="m1", messages=[{"role": "user", "content": "x"}])
        with pytest.raises(openai.UnprocessableEntityError):
            await client.chat.completions.create(model="m1", messages=[])
    assert limited.value.response.headers["retry-after"] == "3"
    assert all("sk-client" not in str(seen.headers) for seen in server.seen)


async def test_a_broken_stream_is_an_error_to_the_sdk_too(tmp_path: Path) -> None:
    server = openai_server().on(CHAT, streams(delta("a"), then="break"))
    async with sdk(tmp_path, up=server) as client:
        stream = await client.chat.completions.create(model="m1", messages=[{"role": "user", "content": "x"}], stream=True)
        with pytest.raises(openai.APIError, match="'up' broke off"):
            async for _ in stream:
                pass
