"""One answer of a model, put together from an OpenAI chat completion: from its one message, or from the deltas of its stream."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.services.agents.events import Voice

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for; ``arguments`` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str

    def message_part(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model said, and what it cost. ``fingerprint`` is the server's own word for what answered, "" without one."""

    content: str
    tool_calls: tuple[ToolCall, ...]
    model: str
    finish_reason: str
    tokens_in: int
    tokens_out: int
    fingerprint: str = ""

    def message(self) -> Message:
        message: Message = {"role": "assistant", "content": self.content}
        return message | ({"tool_calls": [call.message_part() for call in self.tool_calls]} if self.tool_calls else {})


def text_of(message: Mapping[str, Any]) -> str:
    """What a message says in words, "" where that is nothing; parts that are no text are left out."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))


class Completes(Protocol):
    """Whoever answers a request with a completion: an agent's models, alone or under guardrails."""

    async def complete(self, request: Mapping[str, Any], voice: Voice | None) -> Completion: ...


@dataclass(slots=True)
class Draft:
    """A completion that is still coming. A body of the wrong shape raises one of MALFORMED."""

    model: str
    finish_reason: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    fingerprint: str = ""
    _content: list[str] = field(default_factory=list)
    _calls: dict[int, dict[str, str]] = field(default_factory=dict)

    def add(self, body: Mapping[str, Any]) -> str:
        """Take in a whole completion or one chunk of a stream; returns the text that it adds."""
        self.model = _text(body.get("model")) or self.model
        self.fingerprint = str(body.get("system_fingerprint") or self.fingerprint)
        usage = body.get("usage") or {}
        self.tokens_in = int(usage.get("prompt_tokens") or self.tokens_in)
        self.tokens_out = int(usage.get("completion_tokens") or self.tokens_out)
        text = ""
        for choice in (body.get("choices") or [])[:1]:
            said = choice.get("message") or choice.get("delta") or {}
            text = _text(said.get("content"))
            self._content.append(text)
            for call in said.get("tool_calls") or []:
                self._add_call(call)
            self.finish_reason = _text(choice.get("finish_reason")) or self.finish_reason
        return text

    def _add_call(self, call: Mapping[str, Any]) -> None:
        """Some servers leave out ``index``: an id or a name then begins a new call."""
        function = call.get("function") or {}
        begins = bool(call.get("id") or function.get("name"))
        index = call.get("index")
        if index is None:
            index = len(self._calls) if begins or not self._calls else max(self._calls)
        if not isinstance(index, int):
            raise ValueError("the index of a tool call is no number")
        draft = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        arguments = function.get("arguments") or ""
        draft["id"] = draft["id"] or _text(call.get("id"))
        draft["name"] = draft["name"] or _text(function.get("name"))
        draft["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)

    def complete(self) -> Completion:
        calls, seen = [], set[str]()
        for _, draft in sorted(self._calls.items()):
            own = draft["id"] and draft["id"] not in seen
            id_ = draft["id"] if own else f"call_{secrets.token_hex(8)}"
            seen.add(id_)
            calls.append(ToolCall(id_, draft["name"], draft["arguments"]))
        content = "".join(self._content)
        finish_reason = self.finish_reason or "stop"
        return Completion(content, tuple(calls), self.model, finish_reason, self.tokens_in, self.tokens_out, self.fingerprint)


def _text(value: Any) -> str:
    """Text, "" for None. Raises ValueError for anything else, which would be carried along and fail far from here."""
    if value is not None and not isinstance(value, str):
        raise ValueError("a number, a list or a mapping stands where text belongs")
    return value or ""


MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
