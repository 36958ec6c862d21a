import base64
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from app.errors import AnsweredError, BadRequest, ProviderError
from app.services.inference.ollama import native_request
from tests.services.inference.fakes import QUESTION, FakeServer, ask, chat, content_of, events, inference, replies, streams
from tests.support import serve

CHAT = "POST /api/chat"
TOOL = {"type": "function", "function": {"name": "calc", "parameters": {"type": "object", "properties": {"e": {"type": "string"}}}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "calc", "arguments": {"e": "1+1"}}}]}
END = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 4, "eval_count": 2}


def ollama_server() -> FakeServer:
    return FakeServer().on("GET /api/tags", replies({"models": [{"name": "llama3:latest"}, {"name": "nomic:v1"}]}))


def ndjson(*rows: Any) -> list[bytes]:
    return [json.dumps(row).encode() + b"\n" for row in rows]


def said(content: str) -> dict[str, Any]:
    return {"model": "llama3", "message": {"role": "assistant", "content": content}, "done": False}


@asynccontextmanager
async def attached(folder: Path, server: FakeServer) -> AsyncIterator[ASGIApp]:
    async with serve(server) as url, inference(folder, environ={"OLLAMA_HOST": url}) as app:
        yield app


async def test_a_model_is_found_with_and_without_its_tag(tmp_path: Path) -> None:
    server = ollama_server().on(CHAT, replies({**END, "message": {"role": "assistant", "content": "hi"}}))
    async with attached(tmp_path, server) as app:
        assert [await chat(app, name) for name in ("llama3", "llama3:latest", "ollama/llama3", "default")] == ["hi"] * 4
    assert {seen.body["model"] for seen in server.asked_for("/api/chat")} == {"llama3:latest"}


async def test_an_answer_is_translated_with_its_usage(tmp_path: Path) -> None:
    server = ollama_server().on(CHAT, replies({**END, "message": {"role": "assistant", "content": "hi", "thinking": "hm"}}))
    async with attached(tmp_path, server) as app:
        found = await ask(app, "/v1/chat/completions", {**QUESTION, "model": "llama3"})
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": "hi", "reasoning_content": "hm"}
    assert choice["finish_reason"] == "stop"
    assert found["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


async def test_tool_calls_come_with_ids_and_arguments_as_text(tmp_path: Path) -> None:
    server = ollama_server().on(CHAT, replies({**END, "message": CALLED}))
    async with attached(tmp_path, server) as app:
        found = await ask(app, "/v1/chat/completions", {**QUESTION, "model": "llama3", "tools": [TOOL]})
    (choice,) = found["choices"]
    (made,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert made["function"] == {"name": "calc", "arguments": '{"e": "1+1"}'}
    assert made["id"].startswith("call_")
    assert server.asked_for("/api/chat")[0].body["tools"] == [TOOL]


async def test_a_stream_is_translated_line_by_line(tmp_path: Path) -> None:
    raw = b"".join(ndjson(said("he"), said("llo"), END))
    server = ollama_server().on(CHAT, streams(*(raw[at : at + 7] for at in range(0, len(raw), 7))))
    async with attached(tmp_path, server) as app:
        lines = await events(app, "llama3", stream_options={"include_usage": True})
    assert content_of(lines) == "hello"
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2].removeprefix("data: "))["usage"]["total_tokens"] == 6
    assert json.loads(lines[-3].removeprefix("data: "))["choices"][0]["finish_reason"] == "stop"


async def test_usage_is_streamed_only_when_asked_for(tmp_path: Path) -> None:
    server = ollama_server().on(CHAT, streams(*ndjson(said("x"), END)))
    async with attached(tmp_path, server) as app:
        assert not [line for line in await events(app, "llama3") if "usage" in line]


async def test_streamed_tool_calls_are_numbered_over_the_whole_answer(tmp_path: Path) -> None:
    server = ollama_server().on(CHAT, streams(*ndjson({"message": CALLED}, {"message": CALLED}, END)))
    async with attached(tmp_path, server) as app:
        lines = await events(app, "llama3", tools=[TOOL])
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    calls = [made for chunk in chunks for choice in chunk["choices"] for made in choice["delta"].get("tool_calls", [])]
    assert [made["index"] for made in calls] == [0, 1]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_an_error_line_in_the_stream_ends_it_as_an_error(tmp_path: Path) -> None:
    server = ollama_server().on(CHAT, streams(*ndjson(said("he"), {"error": "out of memory"})))
    async with attached(tmp_path, server) as app:
        lines = await events(app, "llama3")
    assert lines[-2] == "event: error"
    assert "out of memory" in lines[-1]
    assert "data: [DONE]" not in lines


async def test_an_error_before_any_content_is_a_status(tmp_path: Path) -> None:
    server = ollama_server().on(CHAT, streams(*ndjson({"error": "out of memory"})))
    async with attached(tmp_path, server) as app:
        with pytest.raises(ProviderError, match="'ollama' failed: out of memory"):
            await events(app, "llama3")


@pytest.mark.parametrize("calls", [7, [7], [{"function": "calc"}], [{}], "calc"])
async def test_tool_calls_of_no_known_shape_are_no_calls(tmp_path: Path, calls: object) -> None:
    server = ollama_server().on(CHAT, replies({**END, "message": {"role": "assistant", "content": "hi", "tool_calls": calls}}))
    async with attached(tmp_path, server) as app:
        assert await chat(app, "llama3") == "hi"


@pytest.mark.parametrize("body", [[], {"message": 7}, {"embeddings": 7}, {"embeddings": [["x"]]}, {"error": {}}])
async def test_answers_of_no_known_shape_are_502(tmp_path: Path, body: object) -> None:
    server = ollama_server().on(CHAT, replies(body)).on("POST /api/embed", replies(body))
    async with attached(tmp_path, server) as app:
        for asked in (chat(app, "llama3"), events(app, "llama3"), ask(app, "/v1/embeddings", {"model": "llama3", "input": "x"})):
            with pytest.raises(ProviderError, match="'ollama'") as caught:
                await asked
            assert caught.value.status == 502


async def test_ollamas_refusals_are_the_callers(tmp_path: Path) -> None:
    server = ollama_server().on(CHAT, replies({"error": "llama3 does not support tools"}, 400))
    async with attached(tmp_path, server) as app:
        with pytest.raises(AnsweredError, match="does not support tools") as caught:
            await chat(app, "llama3")
    assert caught.value.status == 400


async def test_embeddings_are_translated_in_both_encodings(tmp_path: Path) -> None:
    server = ollama_server().on("POST /api/embed", replies({"embeddings": [[1.0, 0.5], [0.0, 2.0]], "prompt_eval_count": 3}))
    async with attached(tmp_path, server) as app:
        plain = await ask(app, "/v1/embeddings", {"model": "nomic:v1", "input": ["a", "b"]})
        packed = await ask(app, "/v1/embeddings", {"model": "nomic:v1", "input": ["a", "b"], "encoding_format": "base64"})
    assert [row["embedding"] for row in plain["data"]] == [[1.0, 0.5], [0.0, 2.0]]
    assert plain["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert struct.unpack("<2f", base64.b64decode(packed["data"][0]["embedding"])) == (1.0, 0.5)
    assert server.asked_for("/api/embed")[1].body == {"model": "nomic:v1", "input": ["a", "b"]}


def test_a_request_is_translated_field_by_field() -> None:
    made = {"id": "c9", "type": "function", "function": {"name": "calc", "arguments": '{"e": "1"}'}}
    picture = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": picture},
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "c9", "content": "1"},
    ]
    schema = {"type": "object"}
    request = {
        "model": "m",
        "messages": messages,
        "temperature": 0,
        "max_tokens": 9,
        "stop": ["x"],
        "keep_alive": "5m",
        "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
        "stream_options": {"include_usage": True},
    }
    assert native_request(request, stream=True) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "see", "images": ["QUJD"]},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "calc", "arguments": {"e": "1"}}}]},
            {"role": "tool", "content": "1", "tool_name": "calc"},
        ],
        "options": {"temperature": 0, "num_predict": 9, "stop": ["x"]},
        "keep_alive": "5m",
        "format": schema,
        "stream": True,
    }


@pytest.mark.parametrize("arguments", ["[" * 100_000 + "]" * 100_000, "{broken", "[1]", ""])
def test_arguments_that_are_no_object_of_bearable_depth_are_sent_as_none(arguments: str) -> None:
    made = {"id": "c9", "type": "function", "function": {"name": "calc", "arguments": arguments}}
    request = {"model": "m", "messages": [{"role": "assistant", "content": "", "tool_calls": [made]}]}
    sent = native_request(request, stream=False)["messages"][0]["tool_calls"]
    assert sent == [{"function": {"name": "calc", "arguments": {}}}]


@pytest.mark.parametrize(("choice", "sent"), [("none", 0), ("auto", 2), ({"type": "function", "function": {"name": "calc"}}, 1)])
def test_tool_choice_decides_which_tools_are_sent(choice: object, sent: int) -> None:
    tools = [TOOL, {"type": "function", "function": {"name": "other"}}]
    found = native_request({**QUESTION, "model": "m", "tools": tools, "tool_choice": choice}, stream=False)
    assert len(found.get("tools", [])) == sent


def test_an_image_that_is_only_linked_is_refused() -> None:
    content = [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    with pytest.raises(BadRequest, match="data: URLs"):
        native_request({"model": "m", "messages": [{"role": "user", "content": content}]}, stream=False)
