"""Agents as OpenAI models: a chat completion request becomes a question, and a run's events and result become chunks and completion."""

import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from app.errors import InvalidBody, ModelNotFound
from app.services.agents.agent import Agent
from app.services.agents.completion import Message
from app.services.agents.events import Emit, Event, listen
from app.services.agents.run import Question, Result
from app.services.agents.usage import Usage
from app.sse import encode

PREFIX = "agent/"
_OWN_TOOLS = ("tools", "tool_choice", "functions", "function_call")
_PASSED_ON = (
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "response_format",
)
_FINISH = {"truncated": "length", "content_filter": "content_filter", "blocked": "content_filter", "tool_calls": "tool_calls"}


def agent_name(model: str) -> str:
    if not model.startswith(PREFIX):
        raise ModelNotFound(f"Model {model!r} is no agent; write {PREFIX}<name>.", param="model")
    return model.removeprefix(PREFIX)


def question(body: Mapping[str, Any], agent: Agent, session: str | None) -> Question:
    """Without a session, or without memory, the messages are the whole history; otherwise those after the last answer are new."""
    _refuse_tools(body)
    messages = [_known_role(message) for message in body["messages"]]
    if session is not None and agent.memory is not None:
        messages = _new(messages)
    parameters = {key: body[key] for key in _PASSED_ON if body.get(key) is not None}
    return Question(messages, session, parameters=parameters, streaming=bool(body.get("stream")), hand_over=True)


def _refuse_tools(body: Mapping[str, Any]) -> None:
    if given := next((key for key in _OWN_TOOLS if body.get(key)), None):
        raise InvalidBody(f"An agent has its own tools; leave out `{given}`, or write the tools into the agent's file.", param=f"$.{given}")


def _known_role(message: Message) -> Message:
    return {**message, "role": "system"} if message["role"] == "developer" else message


def _new(messages: Sequence[Message]) -> list[Message]:
    last = max((index for index, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    new = list(messages[last + 1 :])
    if not any(message["role"] in {"user", "tool"} for message in new):
        raise InvalidBody("There is no new message after the last answer; end with a user message.", param="$.messages")
    return new


@dataclass(frozen=True, slots=True)
class Chat:
    """One chat completion in the making."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, result: Result) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": result.answer}
        if result.handed_over:
            message |= {"content": result.answer or None, "tool_calls": [call.message_part() for call in result.handed_over]}
        choice = {"index": 0, "message": message, "finish_reason": _finish(result), "logprobs": None}
        return self._head("chat.completion") | {"choices": [choice], "usage": _usage(result.usage)}

    async def stream(self, run: Callable[[Emit], Awaitable[Result]], include_usage: bool) -> AsyncGenerator[bytes, None]:
        """The chunks as encoded events. The role goes out when the model begins, the finish only when the turn is stored."""
        results: list[Result] = []

        async def work(emit: Emit) -> None:
            results.append(await run(emit))

        text = _Text()
        async with aclosing(listen(work)) as events:
            async for event in events:
                for delta in text.deltas(event):
                    yield self._chunk(delta)
        result = results[0]
        for delta in text.rest(result):
            yield self._chunk(delta)
        yield self._chunk({}, _finish(result))
        if include_usage:
            yield encode(self._head("chat.completion.chunk") | {"choices": [], "usage": _usage(result.usage)})
        yield encode("[DONE]")

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return encode(self._head("chat.completion.chunk") | {"choices": [choice]})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass(slots=True)
class _Text:
    """The text of a stream: the words of every step that is heard, a blank line between the steps. Steps may go on at once."""

    begun: int = 0
    """The step that began last."""
    heard: int = 0
    """The step whose words came last."""

    def deltas(self, event: Event) -> list[dict[str, Any]]:
        if event.kind == "step":
            first, self.begun = not self.begun, event.data["step"]
            return [{"role": "assistant", "content": ""}] if first else []
        if event.kind == "token":
            text = self._parted(event.data["step"]) + event.data["text"]
            self.heard = event.data["step"]
            return [{"content": text}]
        return []

    def rest(self, result: Result) -> list[dict[str, Any]]:
        """What was not told as it came: the client's calls, and an answer that is not the model's own words."""
        if result.handed_over:
            return [{"tool_calls": [{"index": index, **call.message_part()} for index, call in enumerate(result.handed_over)]}]
        if result.answer and not (self.heard and self.heard == self.begun):
            return [{"content": self._parted(self.begun) + result.answer}]
        return []

    def _parted(self, step: int) -> str:
        return "\n\n" if self.heard not in (0, step) else ""


def _finish(result: Result) -> str:
    return _FINISH.get(result.outcome, "stop")


def _usage(usage: Usage) -> dict[str, int]:
    counts = {"prompt_tokens": usage.tokens_in, "completion_tokens": usage.tokens_out}
    return counts | {"total_tokens": usage.tokens_in + usage.tokens_out}
