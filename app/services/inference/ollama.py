"""Ollama by its native API (/api/chat, /api/embed, /api/tags), translated to and from OpenAI's shapes.

The native API streams NDJSON, takes tool arguments as objects, names a tool's result by the tool, and knows no ``tool_choice``: "none"
sends no tools, a named function only that one.
"""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import aiohttp

from app.errors import BadRequest
from app.services.inference.answer import Answer, embeddings, text_of, tool_call, usage
from app.services.inference.provider import Chunk, ProviderSpec
from app.services.inference.upstream import Upstream
from app.sse import lines

_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "max_tokens": "num_predict",
    "max_completion_tokens": "num_predict",
}
_TRANSLATED = frozenset({*_OPTIONS, "messages", "tools", "tool_choice", "response_format", "stream", "stream_options", "options"})


class Ollama:
    """One Ollama server."""

    def __init__(self, spec: ProviderSpec, session: aiohttp.ClientSession) -> None:
        self.spec = spec
        self._upstream = Upstream(spec, session)
        self._root = spec.endpoint.rstrip("/").removesuffix("/v1")

    async def probe(self) -> tuple[str, ...]:
        if self.spec.models:
            await self._upstream.get(self._root + "/api/version")
            return self.spec.models
        found = await self._upstream.get_json(self._root + "/api/tags")
        try:
            return tuple(str(row["name"]) for row in found["models"])
        except (KeyError, TypeError):
            raise self._upstream.error("lists no models where Ollama does; check its type and endpoint") from None

    async def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        found = await self._upstream.post_json(self._root + "/api/chat", native_request(request, stream=False))
        said = self._message(found)
        calls = [tool_call(name, arguments) for name, arguments in _calls(said)]
        message: dict[str, Any] = {"content": said.get("content") or (None if calls else "")}
        message |= {"tool_calls": calls} if calls else {}
        message |= {"reasoning_content": said["thinking"]} if said.get("thinking") else {}
        return Answer(str(request["model"])).completion(message, _finish_reason(found, bool(calls)), _usage(found))

    async def stream(self, request: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        answer, called = Answer(str(request["model"])), 0
        yield answer.chunk({"role": "assistant"})
        asked = self._upstream.post(self._root + "/api/chat", native_request(request, stream=True))
        async with aclosing(asked) as raw, aclosing(lines(raw)) as rows:
            async for line in rows:
                if not line.strip():
                    continue
                found = self._upstream.parse(line)
                said = self._message(found)
                calls = [tool_call(name, arguments, called + at) for at, (name, arguments) in enumerate(_calls(said))]
                called += len(calls)
                delta = {"content": said.get("content"), "reasoning_content": said.get("thinking"), "tool_calls": calls}
                if kept := {key: value for key, value in delta.items() if value}:
                    yield answer.chunk(kept)
                if found.get("done"):
                    yield answer.chunk({}, _finish_reason(found, called > 0))
                    if (request.get("stream_options") or {}).get("include_usage"):
                        yield answer.usage_chunk(_usage(found))
                    return
        raise self._upstream.error("ended its stream before its answer was complete")

    async def embed(self, request: Mapping[str, Any]) -> dict[str, Any]:
        body = {key: value for key, value in request.items() if key not in ("encoding_format", "user") and value is not None}
        found = await self._upstream.post_json(self._root + "/api/embed", body)
        try:
            vectors = [[float(number) for number in vector] for vector in found["embeddings"]]
            return embeddings(str(request["model"]), vectors, _count(found, "prompt_eval_count"), request.get("encoding_format"))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise self._upstream.error("answered without any `embeddings`") from None

    def _message(self, found: Any) -> Mapping[str, Any]:
        if isinstance(found, dict) and isinstance(found.get("error"), str):
            raise self._upstream.error(f"failed: {found['error'].rstrip('.')[:300]}")
        message = found.get("message") if isinstance(found, dict) else None
        if not isinstance(message, dict):
            raise self._upstream.error("answered without a `message`; check its type and endpoint")
        return message


def native_request(request: Mapping[str, Any], stream: bool) -> dict[str, Any]:
    """OpenAI's request as Ollama's. Fields that neither knows are passed on; raises BadRequest for images that are only linked."""
    body = {key: value for key, value in request.items() if key not in _TRANSLATED}
    options = {new: request[old] for old, new in _OPTIONS.items() if request.get(old) is not None}
    body["options"] = {**options, **(request.get("options") or {})}
    body["messages"] = _messages(request["messages"])
    if tools := _tools(request.get("tools") or [], request.get("tool_choice")):
        body["tools"] = tools
    wanted = request.get("response_format") or {}
    if wanted.get("type") == "json_object":
        body["format"] = "json"
    elif wanted.get("type") == "json_schema":
        body["format"] = (wanted.get("json_schema") or {}).get("schema", "json")
    return {**body, "stream": stream}


def _tools(tools: list[Any], choice: Any) -> list[Any]:
    if choice == "none":
        return []
    name = (choice.get("function") or {}).get("name") if isinstance(choice, Mapping) else None
    return [tool for tool in tools if name is None or tool.get("function", {}).get("name") == name]


def _messages(messages: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names: dict[str, str] = {}
    result = []
    for message in messages:
        role = "system" if message["role"] == "developer" else message["role"]
        native: dict[str, Any] = {"role": role, "content": text_of(message.get("content"))}
        if images := _images(message.get("content")):
            native["images"] = images
        if calls := message.get("tool_calls"):
            names |= {call.get("id", ""): call["function"]["name"] for call in calls}
            native["tool_calls"] = [_native_call(call["function"]) for call in calls]
        if role == "tool":
            native["tool_name"] = message.get("name") or names.get(message.get("tool_call_id") or "", "")
        result.append(native)
    return result


def _native_call(function: Mapping[str, Any]) -> dict[str, Any]:
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (ValueError, RecursionError):
        arguments = {}
    return {"function": {"name": function["name"], "arguments": arguments if isinstance(arguments, dict) else {}}}


def _images(content: Any) -> list[str]:
    parts = [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    found = [part.get("image_url") for part in parts if part.get("type") == "image_url"]
    urls = [str(url.get("url") if isinstance(url, Mapping) else url) for url in found]
    for url in urls:
        if not url.startswith("data:"):
            raise BadRequest(f"Ollama does not fetch images ({url[:80]!r}); send them as data: URLs.", param="messages")
    return [url.partition(",")[2] for url in urls]


def _calls(message: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = message.get("tool_calls")
    functions = [call.get("function") for call in found if isinstance(call, Mapping)] if isinstance(found, list) else []
    return [(str(each.get("name", "")), each.get("arguments") or {}) for each in functions if isinstance(each, Mapping)]


def _finish_reason(found: Mapping[str, Any], called: bool) -> str:
    if called:
        return "tool_calls"
    return "length" if found.get("done_reason") == "length" else "stop"


def _usage(found: Mapping[str, Any]) -> dict[str, int]:
    return usage(_count(found, "prompt_eval_count"), _count(found, "eval_count"))


def _count(found: Mapping[str, Any], key: str) -> int:
    value = found.get(key)
    return value if isinstance(value, int) else 0
