"""OpenAI's answer shapes, built for providers that do not speak them; and the one question asked of shapes that come in."""

import base64
import json
import secrets
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.errors import InvalidBody
from app.services.inference.provider import Chunk

RULES = "astromesh-builtin"
"""The ``system_fingerprint`` of the built-in rules, by which whoever needs a language model sees that this was none."""


def tool_call(name: str, arguments: Mapping[str, Any], index: int | None = None) -> dict[str, Any]:
    """One tool call with a fresh id; ``index`` only where it is part of a stream."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": "call_" + secrets.token_hex(12), "type": "function", "function": function}
    return call if index is None else {"index": index, **call}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer in the making: its id and time are the same in all its chunks. ``fingerprint`` names what answers, where that is told."""

    model: str
    fingerprint: str = ""
    id: str = field(default_factory=lambda: "chatcmpl-" + secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, message: Mapping[str, Any], finish_reason: str, used: Mapping[str, int]) -> dict[str, Any]:
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason, "logprobs": None}
        return {**self._head("chat.completion"), "choices": [choice], "usage": dict(used)}

    def chunk(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> Chunk:
        choice = {"index": 0, "delta": dict(delta), "finish_reason": finish_reason, "logprobs": None}
        return self._chunk([choice], content=bool(finish_reason or delta.keys() - {"role"}))

    def usage_chunk(self, used: Mapping[str, int]) -> Chunk:
        return self._chunk([], content=True, usage=dict(used))

    def _chunk(self, choices: list[Any], content: bool, **more: Any) -> Chunk:
        whole = {**self._head("chat.completion.chunk"), "choices": choices, **more}
        return Chunk(json.dumps(whole, separators=(",", ":")), content)

    def _head(self, kind: str) -> dict[str, Any]:
        told = {"system_fingerprint": self.fingerprint} if self.fingerprint else {}
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, **told}


def embeddings(model: str, vectors: Sequence[Sequence[float]], tokens: int, encoding: str | None) -> dict[str, Any]:
    """A ``list`` of ``embedding``; ``base64`` is little-endian float32, as the OpenAI SDK asks for."""

    def encode(vector: Sequence[float]) -> Any:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if encoding == "base64" else list(vector)

    data = [{"object": "embedding", "index": index, "embedding": encode(vector)} for index, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def for_one_answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request, for a provider that has one answer to give. Raises InvalidBody where it asks for more."""
    if (wanted := request.get("n")) not in (None, 1):
        told = f"$.n: is {json.dumps(wanted)[:80]}, and model {request['model']!r} gives one answer"
        raise InvalidBody(f"{told}; leave it out, or ask another model.", param="$.n")
    return request


def finished(chunk: Mapping[str, Any]) -> set[int]:
    """The indices of the choices of which a parsed chunk says why they ended."""
    ended = [choice.get("index") for choice in _choices(chunk) if choice.get("finish_reason")]
    return {index if isinstance(index, int) else 0 for index in ended}


def has_content(chunk: Mapping[str, Any]) -> bool:
    """Whether a parsed chunk carries anything but roles and empty deltas: text, reasoning, tool calls, an end, the usage."""
    if chunk.get("usage") and not chunk.get("choices"):
        return True
    for choice in _choices(chunk):
        delta = choice.get("delta")
        if choice.get("finish_reason") or (isinstance(delta, Mapping) and any(value for key, value in delta.items() if key != "role")):
            return True
    return False


def text_of(content: Any) -> str:
    """A message's content as text, whether it is text or a list of parts."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _choices(chunk: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    choices = chunk.get("choices")
    return [choice for choice in choices if isinstance(choice, Mapping)] if isinstance(choices, list) else []
