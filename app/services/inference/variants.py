"""The named variants of servers that speak OpenAI's API."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


def _listed(found: Any) -> Iterable[Any]:
    return [row["id"] for row in found["data"]]


def _told(found: Any) -> Iterable[Any]:
    return [found["model_id"]]


@dataclass(frozen=True, slots=True)
class Variant:
    """``health`` and ``info`` hang on the server's root, not below /v1; without ``info``, /v1/models lists the models."""

    health: str | None = None
    info: str | None = None
    read: Callable[[Any], Iterable[Any]] = _listed


VARIANTS: Mapping[str, Variant] = {
    "openai_compat": Variant(),
    "vllm": Variant(health="/health"),
    "hf_tgi": Variant(health="/health", info="/info", read=_told),
    "llamacpp": Variant(health="/health"),
}
