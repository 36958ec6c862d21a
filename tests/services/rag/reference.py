"""What a search must find, in plain Python: the meaning of Condition, and cosines of every chunk."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from app.services.rag.knowledge import Condition, Cut, Filter, Vector

_ORDERS = {"gt": lambda a, b: a > b, "gte": lambda a, b: a >= b, "lt": lambda a, b: a < b, "lte": lambda a, b: a <= b}


def holds(where: Filter, metadata: Mapping[str, Any]) -> bool:
    return all(_holds(each, metadata) for each in where)


def _holds(of: Condition, metadata: Mapping[str, Any]) -> bool:
    if of.is_ == "exists":
        return any((of.key in metadata) is bool(value) for value in of.values)
    there = metadata.get(of.key, [])
    elements = there if isinstance(there, list) else [there]
    if of.is_ == "ne":
        return not any(_equal(element, value) for element in elements for value in of.values)
    if of.is_ == "eq":
        return any(_equal(element, value) for element in elements for value in of.values)
    return any(
        _kind(element) == _kind(value) in ("number", "text") and _ORDERS[of.is_](element, value)
        for element in elements
        for value in of.values
    )


def _equal(one: Any, other: Any) -> bool:
    return _kind(one) == _kind(other) and bool(one == other)


def _kind(of: Any) -> str:
    if isinstance(of, bool):
        return "boolean"
    if isinstance(of, int | float):
        return "number"
    return "text" if isinstance(of, str) else type(of).__name__


def cosine(one: Vector, other: Vector) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return math.fsum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else 0.0


def nearest(cuts: Sequence[Cut], query: Vector, where: Filter) -> list[tuple[float, str, int]]:
    """(minus the cosine, document id, chunk) of all chunks of documents for which the filter holds, best first."""
    return sorted(
        (-cosine(query, chunk.vector or ()), cut.document.id, number)
        for cut in cuts
        if holds(where, cut.document.metadata)
        for number, chunk in enumerate(cut.chunks)
    )
