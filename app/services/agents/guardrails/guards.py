"""One run under its agent's guardrails: what the caller sends is screened before anyone sees it, what the models say before anyone is told.

Input guardrails apply to what the caller sends, output ones to the text of every message of the agent's models. What tools are given and
give back passes as it is, since they and the model work with it; where output is redacted, it is redacted where it is shown and stored.
"""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.errors import GuardrailBlocked
from app.services.agents.completion import Completes, Completion, Message
from app.services.agents.events import Emit, Event, Voice
from app.services.agents.guardrails.guardrail import Blocked, Guardrail, Screened
from app.services.agents.guardrails.redaction import redact_call, redact_messages, redact_step
from app.services.agents.usage import Usage

_LARGE = 16 * 1024
_CHARS_PER_TOKEN = 4
_NO_TEXT = frozenset({"image_url", "input_audio", "file"})
_CALLS = frozenset({"tool_call", "tool_result"})
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Guards:
    """The guardrails of one run of ``agent``; ``usage`` counts what the run spends, ``cut_by`` is the guardrail that cut its last text.

    ``judge`` is who says what a text is about; where it cannot say, the text passes only with ``pass_unsure``.
    """

    agent: str
    guardrails: tuple[Guardrail, ...]
    usage: Usage
    judge: Completes
    pass_unsure: bool = False
    cut_by: Guardrail | None = None
    _unreported: int = 0
    _redacts: bool = field(init=False)

    def __post_init__(self) -> None:
        self._redacts = any(each.redacts for each in self._side("output"))

    async def admit(self, messages: Sequence[Message], context: Mapping[str, Any]) -> tuple[list[Message], Mapping[str, Any]]:
        """What the caller sends, redacted. Raises GuardrailBlocked."""
        rails = self._side("input")
        admitted = list(messages), context
        try:
            if any(each.filter() for each in rails):
                admitted = await asyncio.to_thread(self._admit, messages, context, rails)
            if any(each.topics for each in rails):
                await self.check_topics("input", _words_of_user(admitted[0]))
            return admitted
        except Blocked as blocked:
            raise self.refusal(blocked) from None

    def refusal(self, blocked: Blocked) -> GuardrailBlocked:
        name = blocked.guardrail.name
        log.warning("agent %s: a request was blocked by its guardrail %s", self.agent, name)
        told = f"The guardrail `{name}` of agent {self.agent!r} does not let this request through"
        told += _LIMITS.get(blocked.guardrail.type, "").format(blocked.guardrail.limit)
        if blocked.unsure:
            told += ", because the agent's model could not say what it is about (spec.agents.pass_unsure_topics)"
        return GuardrailBlocked(f"{told}; {_REMEDY}")

    @property
    def judges_output(self) -> bool:
        return any(each.topics for each in self._side("output"))

    async def check_topics(self, side: str, text: str) -> None:
        """Raises Blocked for a text about a forbidden topic, or of which the judge cannot say; what the judge raises."""
        for each in self._side(side):
            if each.topics is None or not text.strip():
                continue
            self.check_cost(each.topics.request(text))
            spent: list[Completion] = []
            try:
                about = await each.topics.about(text, self.judge, spent)
            finally:
                for completion in spent:
                    self.usage.add(completion.model, completion.tokens_in, completion.tokens_out)
            if about or (about is None and not self.pass_unsure):
                raise Blocked(each, unsure=about is None)

    def model(self, model: Completes) -> "GuardedModel":
        return GuardedModel(model, self)

    def shown(self, emit: Emit) -> Emit:
        """``emit``, for listeners who are not to see what is redacted."""

        async def tell(event: Event) -> None:
            await emit(Event(event.kind, redact_call(event.data)) if event.kind in _CALLS else event)

        return tell if self._redacts else emit

    def steps(self, steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        return [redact_step(step) for step in steps] if self._redacts else list(steps)

    async def stored(self, added: Sequence[Message]) -> list[Message]:
        """What the run added to a conversation, as memory may keep it."""
        return await asyncio.to_thread(redact_messages, added) if self._redacts else list(added)

    def screened(self) -> Screened:
        return Screened(self._side("output"))

    async def screen(self, text: str) -> str:
        """What may be shown of the whole text of a message of another agent's model. Raises Blocked."""
        screened = self.screened()
        whole = await asyncio.to_thread(screened.whole, text) if len(text) > _LARGE else screened.whole(text)
        self.cut_by = screened.cut_by
        await self.check_topics("output", whole)
        return whole

    def data(self, data: dict[str, Any]) -> dict[str, Any]:
        """An answer's data: an escape in its JSON may have hidden from the guardrails what it says. Raises Blocked."""
        screened: dict[str, Any] = _screened_value(data, tuple(each for each in self._side("output") if each.type != "max_length"))
        return screened

    def check_cost(self, request: Mapping[str, Any]) -> int:
        """The tokens that asking for ``request`` is taken to cost, before the answer. Raises Blocked where that is more than is left."""
        size = len(json.dumps([request["messages"], request.get("tools")], ensure_ascii=False).encode("utf-8", "surrogatepass"))
        estimate = size // _CHARS_PER_TOKEN
        for each in self.guardrails:
            if each.type == "cost_limit" and self._spent() + estimate > each.limit:
                raise Blocked(each)
        return estimate

    def count(self, completion: Completion, estimate: int) -> None:
        """Servers that do not say what they used are taken at the estimate."""
        if not (completion.tokens_in or completion.tokens_out):
            self._unreported += estimate + len(completion.content.encode("utf-8", "surrogatepass")) // _CHARS_PER_TOKEN

    def _spent(self) -> int:
        return self.usage.tokens_in + self.usage.tokens_out + self._unreported

    def _side(self, side: str) -> tuple[Guardrail, ...]:
        return tuple(each for each in self.guardrails if each.side == side)

    def _admit(
        self, messages: Sequence[Message], context: Mapping[str, Any], rails: tuple[Guardrail, ...]
    ) -> tuple[list[Message], Mapping[str, Any]]:
        anything = tuple(each for each in rails if each.type != "max_length")
        admitted = [_admitted(message, rails if message["role"] == "user" else anything) for message in messages]
        if any(each.redacts for each in rails):
            admitted = redact_messages(admitted)
        return admitted, _screened_value(context, anything)


class GuardedModel:
    """A model under guardrails. Raises Blocked where one stops its words, or the next call would cost too much."""

    def __init__(self, model: Completes, guards: Guards) -> None:
        self._model, self._guards = model, guards

    async def complete(self, request: Mapping[str, Any], voice: Voice | None) -> Completion:
        estimate = self._guards.check_cost(request)
        text, told = self._guards.screened(), list[str]()

        async def say(event: Event) -> None:
            assert voice is not None
            if event.kind == "token":
                told.append(text.feed(event.data["text"]))
                event = Event("token", {**event.data, "text": told[-1]})
            if event.kind != "token" or (told[-1] and not self._guards.judges_output):
                await voice.emit(event)
            text.check()

        completion = await self._model.complete(request, Voice(voice.step, voice.role, say) if voice else None)
        self._guards.count(completion, estimate)
        try:
            content = await self._rest(completion, text, told, voice)
        except Blocked:
            self._guards.usage.add(completion.model, completion.tokens_in, completion.tokens_out)
            raise
        self._guards.cut_by = text.cut_by
        reason = "length" if text.cut_by and not completion.tool_calls else completion.finish_reason
        return replace(completion, content=content, finish_reason=reason)

    async def _rest(self, completion: Completion, text: Screened, told: Sequence[str], voice: Voice | None) -> str:
        judged = self._guards.judges_output
        if voice is None:
            said = completion.content
            whole = await asyncio.to_thread(text.whole, said) if len(said) > _LARGE else text.whole(said)
        else:
            rest = text.finish()
            whole = "".join(told) + rest
            if rest and not judged:
                await voice.say(rest)
            text.check()
        if judged:
            await self._guards.check_topics("output", whole)
            if voice and whole:
                await voice.say(whole)
        return whole


def _admitted(message: Message, rails: tuple[Guardrail, ...]) -> Message:
    content = message.get("content")
    if isinstance(content, list):
        content = [part if part.get("type") in _NO_TEXT else _screened_value(part, rails) for part in content]
    else:
        content = _screened_value(content, rails)
    return {**message, "content": content}


def _words_of_user(messages: Sequence[Message]) -> str:
    said = [message["content"] for message in messages if message["role"] == "user"]
    parts = [part for content in said if isinstance(content, list) for part in content]
    texts = [content for content in said if isinstance(content, str)] + [
        part["text"] for part in parts if isinstance(part.get("text"), str)
    ]
    return "\n".join(texts)


def _screened_value(value: Any, rails: tuple[Guardrail, ...]) -> Any:
    """A JSON value with every text in it screened, each by itself."""
    if isinstance(value, str):
        return Screened(rails).whole(value)
    if isinstance(value, Mapping):
        return {key: _screened_value(inner, rails) for key, inner in value.items()}
    return [_screened_value(inner, rails) for inner in value] if isinstance(value, list) else value


_LIMITS = {"max_length": " (at most {} characters)", "cost_limit": " (at most {} tokens for one turn, estimated by its length)"}
_REMEDY = "change what you send, or the agent's file where the guardrail is too strict."
