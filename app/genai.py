"""Messages in the shape that OpenTelemetry's conventions for generative AI give them in spans: a role, and parts of it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

Part = dict[str, Any]


def as_text(value: Any) -> str:
    """Text as it is, all else as JSON. Raises nothing: what is kept of a request must not make it fail."""
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return "(nested too deeply to be shown)"


def shaped(messages: Iterable[Any]) -> list[dict[str, Any]]:
    """OpenAI's messages, rewritten; one of another shape is kept as one part of text."""
    return [_message(each) if isinstance(each, Mapping) else {"role": "user", "parts": [_text(each)]} for each in messages]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if message.get("role") == "tool":
        parts: list[Part] = [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}]
    elif isinstance(content, list):
        parts = [_content_part(each) for each in content]
    else:
        parts = [_text(content)] if content else []
    calls = message.get("tool_calls")
    parts += [_call(each) for each in calls if isinstance(each, Mapping)] if isinstance(calls, list) else []
    shaped = {"role": str(message.get("role") or "assistant"), "parts": parts}
    return shaped | ({"finish_reason": message["finish_reason"]} if "finish_reason" in message else {})


def _content_part(part: Any) -> Part:
    """Text as it is; of an image or a sound only that there is one, as its bytes would fill the span."""
    if isinstance(part, Mapping) and part.get("type") != "text":
        return {"type": str(part.get("type"))}
    return _text(part.get("text") if isinstance(part, Mapping) else part)


def _text(value: Any) -> Part:
    return {"type": "text", "content": as_text(value)}


def _call(call: Mapping[str, Any]) -> Part:
    function = call.get("function")
    given = function if isinstance(function, Mapping) else {}
    return {"type": "tool_call", "id": call.get("id"), "name": given.get("name"), "arguments": given.get("arguments")}
