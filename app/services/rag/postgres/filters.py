"""Metadata as rows, so that a filter is a question to an index and never costs results; and a filter as the condition of a statement.

A value has a kind, and only values of one kind are compared: true is not 1 and "1" is not 1. A list is its elements.
"""

# ruff: noqa: S608 - what is put into these statements are constants and the numbers of parameters
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from app.services.rag.knowledge import Condition, Filter
from app.services.rag.postgres import rows

_NUMBER, _TEXT, _BOOLEAN, _NULL, _NESTED, _NOTHING = range(1, 7)
_RELATIONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


class Parameters(list[Any]):
    """The parameters of a statement, in the order of their numbers."""

    def add(self, value: Any, type_: str) -> str:
        """Take one more; how it is written in the statement."""
        self.append(value)
        return f"${len(self)}::{type_}"


@dataclass(frozen=True, slots=True)
class Comparable:
    """A value as it is compared: equal ones have one ``digest``; numbers and texts have an order as well."""

    kind: int
    digest: bytes
    number: Decimal | None = None
    text: bytes | None = None


def metadata_rows(metadata: Mapping[str, Any]) -> Iterator[tuple[bytes, Comparable]]:
    """Every key, digested, with each of its values; an empty list is there, and equals nothing."""
    for key, value in metadata.items():
        elements = value if isinstance(value, list | tuple) else [value]
        for comparable in {_comparable(element) for element in elements} or [_NO_VALUE]:
            yield field(key), comparable


def field(key: str) -> bytes:
    return rows.digest(key)[:16]


def condition(where: Filter, document: str, collection: int, parameters: Parameters) -> str:
    """The condition on the column ``document``, which holds the key of a document; "true" for the empty filter."""
    return " AND ".join(_term(each, document, collection, parameters) for each in where) or "true"


def _term(of: Condition, document: str, collection: int, parameters: Parameters) -> str:
    key = f"collection = {parameters.add(collection, 'int')} AND field = {parameters.add(field(of.key), 'bytea')}"
    if of.is_ == "exists":
        terms = [_among(document, key, holds=wanted) for wanted in {bool(value) for value in of.values}]
        return f"({' OR '.join(terms) or 'false'})"
    values = [comparable for comparable in map(_comparable, of.values) if comparable.kind != _NOTHING]
    if of.is_ in ("eq", "ne"):
        digests = parameters.add([value.digest for value in values], "bytea[]")
        return _among(document, f"{key} AND digest = ANY ({digests})", holds=of.is_ == "eq")
    numbers = parameters.add([value.number for value in values if value.kind == _NUMBER], "numeric[]")
    texts = parameters.add([value.text for value in values if value.kind == _TEXT], "bytea[]")
    relation = _RELATIONS[of.is_]
    return _among(document, f"{key} AND (number {relation} ANY ({numbers}) OR text {relation} ANY ({texts}))", holds=True)


def _among(document: str, matching: str, *, holds: bool) -> str:
    """Whether a document is one of those with matching metadata. IS keeps PostgreSQL from making a join of it, whose kind it would choose
    by statistics that a collection does not have right after it was filled: so they are looked up in a hash table."""
    return f"({document} IN (SELECT document FROM astromesh_rag_metadata WHERE {matching})) IS {holds}"


def _comparable(value: Any) -> Comparable:
    if value is None:
        return _made(_NULL, b"")
    if isinstance(value, bool):
        return _made(_BOOLEAN, b"1" if value else b"0")
    if isinstance(value, int | float):
        return _number(value) if value == value else _NO_VALUE  # NaN is not; isnan does not take every int
    if isinstance(value, str):
        return Comparable(_TEXT, _digest(_TEXT, rows.blob(value)), text=rows.blob(value))
    return _made(_NESTED, rows.blob(rows.canonical(value)))


def _number(value: int | float) -> Comparable:
    """Exact, as Python compares numbers: 1 is 1.0, and 2**53 + 1 is no floating-point number."""
    exact = Decimal(value)
    whole = int(value) if isinstance(value, int) or value.is_integer() else value
    return Comparable(_NUMBER, _digest(_NUMBER, repr(whole).encode()), number=exact)


def _made(kind: int, canonical: bytes) -> Comparable:
    return Comparable(kind, _digest(kind, canonical))


def _digest(kind: int, canonical: bytes) -> bytes:
    return hashlib.sha256(bytes((kind,)) + canonical).digest()[:16]


_NO_VALUE = Comparable(_NOTHING, b"")
