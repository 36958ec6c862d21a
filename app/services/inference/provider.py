"""What a provider is: a server (or the built-in rules) that has models. It speaks OpenAI's shapes to the rest of the service."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """How one provider is attached. ``models`` is empty where the server is to be asked; ``origin`` says who configured it."""

    name: str
    kind: str
    endpoint: str = ""
    key_name: str = ""
    key: str = field(default="", repr=False)
    models: tuple[str, ...] = ()
    health_check_interval_s: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of a stream: the JSON of a ``chat.completion.chunk``, and whether it carries anything but the role."""

    data: str
    content: bool


class Provider(Protocol):
    """All methods raise Provider* errors or AnsweredError. ``request`` is OpenAI's, with ``model`` as this provider spells it."""

    @property
    def spec(self) -> ProviderSpec: ...

    async def probe(self) -> tuple[str, ...]:
        """Whether it serves (raises if not), and its models: the configured ones, else those that it lists."""
        ...

    async def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A ``chat.completion``."""
        ...

    def stream(self, request: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        """The chunks of an answer; ends without an error only when the answer is complete."""
        ...

    async def embed(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A ``list`` of ``embedding``."""
        ...
