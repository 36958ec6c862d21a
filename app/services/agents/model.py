"""The models of one agent, asked through the inference service: the first that answers, in the order of the agent's file.

Another model is asked only while nothing of the answer has been told to anyone.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

from app.call import Reply, call
from app.errors import AgentUnavailable, AnsweredError, NodeError, PeerLost, ProviderError, ProviderUnavailable
from app.services.agents.cast import ModelChoice
from app.services.agents.completion import MALFORMED, Completion, Draft
from app.services.agents.events import Voice
from app.services.contract import Locate
from app.sse import Event, decode

_TRY_NEXT = frozenset({429, 502, 503, 504})
_END_S = 1.0
_PATH = "/v1/chat/completions"
log = logging.getLogger(__name__)


class Model:
    """``overrides`` are the caller's own sampling parameters, which win over those in the agent's file."""

    def __init__(self, locate: Locate, choices: Sequence[ModelChoice], overrides: Mapping[str, Any]) -> None:
        self._locate = locate
        self._choices = choices
        self._overrides = overrides

    async def complete(self, request: Mapping[str, Any], voice: Voice | None) -> Completion:
        """Answer ``request`` (messages, tools); with a ``voice`` the text is told as it comes."""
        failures: list[tuple[str, NodeError]] = []
        for choice in self._choices:
            body = self._body(choice, request)
            try:
                return await self._ask(choice, body, voice)
            except _Untold as untold:
                failures.append((choice.name, untold.error))
                log.warning("model %s does not answer: status %d, %s", choice.name, untold.error.status, untold.error.code)
        raise _none_answered(failures)

    def _body(self, choice: ModelChoice, request: Mapping[str, Any]) -> dict[str, Any]:
        parameters = dict(choice.parameters)
        if {"max_tokens", "max_completion_tokens"} & set(self._overrides):
            parameters.pop("max_tokens", None)
            parameters.pop("max_completion_tokens", None)
        return {**parameters, **self._overrides, "model": choice.name, **request}

    async def _ask(self, choice: ModelChoice, body: dict[str, Any], voice: Voice | None) -> Completion:
        if voice:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        try:
            async with call(self._locate("inference", choice.name), "POST", _PATH, body=body) as reply:
                await reply.raise_for_status()
                return await (_follow(reply, choice.name, voice) if voice else _read(reply, choice.name))
        except NodeError as error:
            if (voice and voice.begun) or not (error.status in _TRY_NEXT or error.code == "model_not_found"):
                raise
            raise _Untold(error) from None


class _Untold(Exception):
    """A model failed before anyone was told anything, in a way that another may not."""

    def __init__(self, error: NodeError) -> None:
        self.error = error


async def _read(reply: Reply, model: str) -> Completion:
    draft = Draft(model)
    try:
        body = await reply.json()
        body["choices"][0]["message"]
        draft.add(body)
    except (*MALFORMED, IndexError):
        raise ProviderError(f"Model {model!r} gave an answer that is no chat completion.") from None
    return draft.complete()


async def _follow(reply: Reply, model: str, voice: Voice) -> Completion:
    draft = Draft(model)
    async with aclosing(reply.chunks()) as chunks, aclosing(decode(chunks)) as events:
        async for event in events:
            if event.data == "[DONE]":
                await _hear_out(events)
                return draft.complete()
            text = _take(draft, event)
            await voice.begin(draft.model)
            if text:
                await voice.say(text)
    raise PeerLost(f"The answer of model {model!r} broke off before its end; ask again.")


async def _hear_out(events: AsyncIterator[Event]) -> None:
    """Wait for the end of the stream, which comes with its last word: to leave before it is to break off, for everyone on the way."""
    with suppress(TimeoutError, NodeError):
        async with asyncio.timeout(_END_S):
            async for _ in events:
                pass


def _take(draft: Draft, event: Event) -> str:
    """Add an event of a stream to the draft; returns the text that it adds."""
    try:
        chunk = json.loads(event.data)
        if event.name != "error" and not chunk.get("error"):
            return draft.add(chunk)
    except MALFORMED:
        raise ProviderError(f"Model {draft.model!r} sent something that is no part of a chat completion.") from None
    raise AnsweredError(502, event.data.encode())


def _none_answered(failures: Sequence[tuple[str, NodeError]]) -> NodeError:
    """One error for all models: the only one's own, or a list of them."""
    told = "; ".join(f"{model}: {error.message}" for model, error in failures)
    if all(error.code == "model_not_found" for _, error in failures):
        return AgentUnavailable(f"None of the agent's models is there: {told}")
    if len(failures) == 1:
        return failures[0][1]
    return ProviderUnavailable(f"None of the agent's models answers: {told}", headers=failures[-1][1].headers)
