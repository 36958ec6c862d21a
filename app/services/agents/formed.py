"""A run whose answer has a form: its model is told the form, and its words are told to nobody before they have been read."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.errors import NodeError
from app.services.agents.completion import Completes, Completion, Message
from app.services.agents.events import Emit, Event, Voice
from app.services.agents.output import OutputSchema

_REFUSED = frozenset({400, 422})


class FormedModel:
    """A model that is told the form: in its system prompt, and by ``response_format`` where it has no tools to call and its server takes
    that."""

    def __init__(self, model: Completes, schema: OutputSchema) -> None:
        self._model, self._schema = model, schema
        self._refused = False

    async def complete(self, request: Mapping[str, Any], voice: Voice | None) -> Completion:
        request = {**request, "messages": self._with_form(request["messages"])}
        if self._refused or request.get("tools"):  # a server that holds its model to a form may keep it from calling tools
            return await self._model.complete(request, voice)
        try:
            return await self._model.complete({**request, "response_format": self._schema.response_format}, voice)
        except NodeError as error:
            if error.status not in _REFUSED or (voice and voice.begun):
                raise
            self._refused = True
            return await self._model.complete(request, voice)

    def _with_form(self, messages: Sequence[Message]) -> list[Message]:
        """Below the system prompt: many models take one system message, at the beginning."""
        first = messages[0] if messages and messages[0]["role"] == "system" and isinstance(messages[0]["content"], str) else None
        text = "\n\n".join(part for part in (first and first["content"], self._schema.instruction) if part)
        return [{"role": "system", "content": text}, *messages[1 if first else 0 :]]


def without_words(emit: Emit) -> Emit:
    """``emit`` for a run whose words are told when they have been read and found right."""

    async def tell(event: Event) -> None:
        if event.kind != "token":
            await emit(event)

    return tell
