"""A filter as people write it, `{"year": {"gte": 2020}, "tag": ["a", "b"]}`, turned into conditions on metadata; and whether they hold."""

import operator
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from app.errors import BadRequest
from app.services.rag.knowledge import Condition, Filter, Operator

OPERATORS: tuple[str, ...] = (*get_args(Operator), "in")
_ORDERED = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
MAX_VALUES = 10_000
"""In one filter: what every store can look for in one statement."""


def parse_filter(given: Mapping[str, Any] | None) -> Filter:
    """All keys must match: a value, one of a list of values, or an object of operators (eq, ne, in, gt, gte, lt, lte, exists).

    Raises BadRequest, naming the key.
    """
    where = tuple(condition for key, wanted in (given or {}).items() for condition in _conditions(key, wanted))
    if (values := sum(len(condition.values) for condition in where)) > MAX_VALUES:
        raise BadRequest(f"The filter names {values} values, and may name {MAX_VALUES}; search in parts.", param="filter")
    return where


def holds(where: Filter, metadata: Mapping[str, Any]) -> bool:
    """Whether a document matches that waits, where no store has an index of its metadata yet."""
    return all(_holds(each, metadata) for each in where)


def _holds(of: Condition, metadata: Mapping[str, Any]) -> bool:
    if of.is_ == "exists":
        return any((of.key in metadata) is bool(value) for value in of.values)
    there = metadata.get(of.key, [])
    pairs = [(one, value) for one in (there if isinstance(there, list) else [there]) for value in of.values if _kind(one) is _kind(value)]
    if of.is_ in ("eq", "ne"):
        return any(one == value for one, value in pairs) is (of.is_ == "eq")
    return any(_ORDERED[of.is_](one, value) for one, value in pairs if _kind(one) in (float, str))


def _kind(value: Any) -> type:
    """Only values of one kind are compared; whole numbers are numbers, and true is none."""
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)


def _conditions(key: str, wanted: Any) -> Iterator[Condition]:
    if not isinstance(wanted, Mapping):
        yield Condition(key, "eq", _values(key, wanted))
        return
    if not wanted:
        raise _wrong(key, "an empty object", "name an operator, or leave the key out")
    for named, value in wanted.items():
        if named not in OPERATORS:
            raise _wrong(key, f"the operator {str(named)[:40]!r}", f"there is {', '.join(OPERATORS)}")
        if named == "exists" and not isinstance(value, bool):
            raise _wrong(key, f"exists: {str(value)[:40]!r}", "give true or false")
        if named in _ORDERED and (isinstance(value, bool) or not isinstance(value, int | float | str)):
            raise _wrong(key, f"{named}: {str(value)[:40]!r}", "give one number or one text")
        if named == "in" and not isinstance(value, list):
            raise _wrong(key, f"in: {str(value)[:40]!r}", "give a list of values")
        yield Condition(key, "eq" if named == "in" else named, _values(key, value))


def _values(key: str, wanted: Any) -> tuple[Any, ...]:
    values = tuple(wanted) if isinstance(wanted, list) else (wanted,)
    if not values:
        raise _wrong(key, "an empty list", "name at least one value, or leave the key out")
    for value in values:
        if not isinstance(value, str | int | float | bool):
            raise _wrong(
                key,
                str(value)[:40] if value is not None else "null",
                'values are texts, numbers, true and false; {"exists": false} finds what lacks the key',
            )
    return values


def _wrong(key: str, what: str, remedy: str) -> BadRequest:
    return BadRequest(f"The filter on {key[:80]!r} has {what}; {remedy}.", param=f"filter.{key[:80]}")
