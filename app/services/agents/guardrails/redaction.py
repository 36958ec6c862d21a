"""Personal data taken out of whatever shape it comes in: chat messages, JSON values, the arguments of a tool call."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from app.services.agents.completion import Message
from app.services.agents.guardrails.screen import PersonalData


def redact(text: str) -> str:
    filter_ = PersonalData()
    return filter_.feed(text) + filter_.finish()


def redact_value(value: Any) -> Any:
    """A JSON value with every text in it redacted; a number that is personal data becomes the text that stands for it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(key): redact_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [redact_value(inner) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return value if (told := redact(str(value))) == str(value) else told
    return value


def redact_arguments(text: str) -> str:
    """A tool call's arguments, which stay JSON where they are JSON."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return redact(text)
    redacted = redact_value(value)
    return text if redacted == value else json.dumps(redacted, ensure_ascii=False)


def redact_call(row: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call or its result, as steps and events show it. What the client is to carry out stays as it is."""
    if row.get("client") or row.get("status") == "client":
        return dict(row)
    redacted = {key: redact_value(row[key]) for key in ("result", "error") if key in row}
    return {**row, **redacted} | ({"arguments": redact_arguments(row["arguments"])} if "arguments" in row else {})


def redact_step(step: Mapping[str, Any]) -> dict[str, Any]:
    return {**step, "tool_calls": [redact_call(call) for call in step["tool_calls"]]} if step.get("tool_calls") else dict(step)


def redact_messages(messages: Sequence[Message]) -> list[Message]:
    """Messages to be stored: the results of tools and the arguments of calls. The model's own words went through their guardrails."""
    return [_message(message) for message in messages]


def _message(message: Message) -> Message:
    if message["role"] == "tool":
        return {**message, "content": _result(message["content"])}
    if calls := message.get("tool_calls"):
        functions = [{**call["function"], "arguments": redact_arguments(call["function"]["arguments"])} for call in calls]
        return {**message, "tool_calls": [{**call, "function": function} for call, function in zip(calls, functions, strict=True)]}
    return message


def _result(content: Any) -> Any:
    return redact_arguments(content) if isinstance(content, str) else redact_value(content)
