"""Metadata as rows, so that a filter is a question to an index and never costs results; and a filter as the condition of a statement.

A value has a kind, and only values of one kind are compared: true is not 1 and "1" is not 1. A list is its elements.
"""

# ruff: noqa: S608 - what is put into these statements are constants, conditions of filters.py and question marks
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.services.rag.knowledge import Condition, Filter
from app.services.rag.sqlite import rows

_NUMBER, _TEXT, _BOOLEAN, _NULL, _NESTED, _NOTHING = range(1, 7)
_ORDERS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_ORDERED = {_NUMBER, _TEXT}
Row = tuple[bytes, int, int | float | bytes]


def metadata_rows(metadata: Mapping[str, Any]) -> Iterator[Row]:
    """(key, kind, value) of every value; an empty list is there, and equals nothing."""
    for key, value in metadata.items():
        elements = value if isinstance(value, list | tuple) else [value]
        for kind, comparable in [_comparable(element) for element in elements] or [(_NOTHING, 0)]:
            yield rows.blob(key), kind, comparable


def condition(where: Filter, document: str = "document") -> tuple[str, list[Any]]:
    """The SQL condition on the column ``document``, which holds the key of a document, and its values; "1" for the empty filter."""
    terms, values = [], list[Any]()
    for each in where:
        term, given = _term(each, document)
        terms.append(term)
        values += given
    return " AND ".join(terms) or "1", values


def _term(of: Condition, document: str) -> tuple[str, list[Any]]:
    if of.is_ == "exists":
        wanted = {bool(value) for value in of.values}
        held = f"{document} IN (SELECT document FROM metadata WHERE key = ?)"
        terms = [held if value else f"NOT {held}" for value in sorted(wanted)]
        return f"({' OR '.join(terms) or '0'})", [rows.blob(of.key)] * len(terms)
    related = [(kind, value) for kind, value in map(_comparable, of.values) if _is_comparable(kind, of.is_)]
    if of.is_ in ("eq", "ne"):
        found, values = _equal(of.key, related, document)
        return (f"NOT {found}" if of.is_ == "ne" else found), values
    one = f"SELECT document FROM metadata WHERE key = ? AND kind = ? AND value {_ORDERS[of.is_]} ?"
    found = f"{document} IN ({' UNION ALL '.join([one] * len(related))})" if related else "0"
    return found, [part for kind, value in related for part in (rows.blob(of.key), kind, value)]


def _equal(key: str, wanted: Sequence[tuple[int, int | float | bytes]], document: str) -> tuple[str, list[Any]]:
    """One SELECT for each kind, not for each value: SQLite takes 500 in one statement."""
    of_kind = dict[int, list[int | float | bytes]]()
    for kind, value in wanted:
        of_kind.setdefault(kind, []).append(value)
    selects = [
        f"SELECT document FROM metadata WHERE key = ? AND kind = ? AND value IN ({', '.join('?' * len(values))})"
        for values in of_kind.values()
    ]
    found = f"{document} IN ({' UNION ALL '.join(selects)})" if selects else "0"
    return found, [part for kind, values in of_kind.items() for part in (rows.blob(key), kind, *values)]


def _is_comparable(kind: int, relation: str) -> bool:
    return kind != _NOTHING and (relation in ("eq", "ne") or kind in _ORDERED)


def _comparable(value: Any) -> tuple[int, int | float | bytes]:
    if value is None:
        return _NULL, 0
    if isinstance(value, bool):
        return _BOOLEAN, int(value)
    if isinstance(value, int | float):
        return (_NUMBER, _number(value)) if value == value else (_NOTHING, 0)  # NaN is not; isnan does not take every int
    if isinstance(value, str):
        return _TEXT, rows.blob(value)
    return _NESTED, rows.blob(rows.canonical(value))


def _number(value: int | float) -> int | float:
    """SQLite's whole numbers have 64 bits; larger ones are compared as floating-point numbers."""
    if isinstance(value, float) or -(2**63) <= value < 2**63:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
