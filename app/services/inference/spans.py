"""Requests to providers as spans, by OpenTelemetry's conventions for generative AI: one for each provider that is tried."""

import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from app.genai import shaped
from app.services.inference.catalog import Choice
from app.services.inference.provider import Chunk
from app.tracing import UNRECORDED, Span, active, span

_PARAMETERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
}
_OUTCOME = ('"finish_reason":"', '"finish_reason": "', '"usage":{', '"usage": {')
"""What the JSON of a chunk holds that tells how the answer ended; others need not be parsed."""


def operation(choice: Choice, request: Mapping[str, Any], name: str) -> Span:
    """The span of one attempt at one provider; ``name`` is chat or embeddings."""
    spec = choice.attached.provider.spec
    server = urlsplit(spec.endpoint)
    noted: dict[str, Any] = {
        "gen_ai.operation.name": name,
        "gen_ai.provider.name": spec.name,
        "gen_ai.request.model": choice.model,
        "gen_ai.request.stream": True if request.get("stream") else None,
        "server.address": server.hostname,
        "astromesh.provider.type": spec.kind,
    }
    noted |= {to: request[key] for key, to in _PARAMETERS.items() if isinstance(request.get(key), int | float)}
    begun = span(f"{name} {choice.model}", noted, "internal" if spec.kind == "builtin" else "client")
    if begun.keeps_content:
        given = request.get("messages", request.get("input"))
        begun.tell("gen_ai.input.messages", shaped(given if isinstance(given, list) else [given]))
    return begun


def answered(found: dict[str, Any]) -> dict[str, Any]:
    """Note on the attempt's span what a whole answer tells of itself."""
    attempt = active()
    if attempt is not UNRECORDED:
        _note(attempt, found)
        if attempt.keeps_content and (choices := found.get("choices")):
            attempt.tell("gen_ai.output.messages", shaped(_said(each) for each in choices if isinstance(each, Mapping)))
    return found


class Stream:
    """Follows the chunks of one answer and notes on the attempt's span what they tell of it."""

    def __init__(self) -> None:
        self._attempt = active()
        self._began = time.perf_counter()
        self._begun = False
        self._said: list[str] = []

    def add(self, chunk: Chunk) -> None:
        attempt = self._attempt
        if attempt is UNRECORDED:
            return
        if chunk.content and not self._begun:
            self._begun = True
            attempt.set("gen_ai.response.time_to_first_chunk", round(time.perf_counter() - self._began, 6))
        if attempt.keeps_content:
            self._said.append(chunk.data)
        if any(sign in chunk.data for sign in _OUTCOME):
            found = _parsed(chunk.data)
            _note(attempt, found)

    def end(self) -> None:
        """The answer has ended as it should."""
        if self._said:
            self._attempt.tell("gen_ai.output.messages", shaped([{"content": "".join(map(_text, self._said))}]))


def _note(attempt: Span, found: Mapping[str, Any]) -> None:
    """Whatever is of another shape than OpenAI's is passed over: it is for the one who asked to judge."""
    for key, name in (("model", "gen_ai.response.model"), ("id", "gen_ai.response.id")):
        if isinstance(value := found.get(key), str):
            attempt.set(name, value[:200])
    used = found.get("usage")
    for key, name in (("prompt_tokens", "gen_ai.usage.input_tokens"), ("completion_tokens", "gen_ai.usage.output_tokens")):
        if isinstance(used, Mapping) and isinstance(count := used.get(key), int):
            attempt.set(name, count)
    choices = found.get("choices")
    reasons = [each.get("finish_reason") for each in choices if isinstance(each, Mapping)] if isinstance(choices, list) else []
    if told := tuple(reason for reason in reasons if isinstance(reason, str)):
        attempt.set("gen_ai.response.finish_reasons", told)


def _said(choice: Mapping[str, Any]) -> Any:
    message = choice.get("message")
    return {**message, "finish_reason": choice.get("finish_reason")} if isinstance(message, Mapping) else message


def _parsed(data: str) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _text(data: str) -> str:
    choices = _parsed(data).get("choices")
    deltas = [each.get("delta") for each in choices if isinstance(each, Mapping)] if isinstance(choices, list) else []
    texts = [delta.get("content") for delta in deltas if isinstance(delta, Mapping)]
    return "".join(text for text in texts if isinstance(text, str))
