"""A filter as people write it, `{"year": {"gte": 2020}, "tag": ["a", "b"]}`, turned into conditions on metadata."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from app.errors import BadRequest
from app.services.rag.knowledge import Condition, Filter, Operator

OPERATORS: tuple[str, ...] = (*get_args(Operator), "in")
_ORDERED = ("gt", "gte", "lt", "lte")
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


def _conditions(key: str, wanted: Any) -> Iterator[Condition]:
    if not isinstance(wanted, Mapping):
        yield Condition(key, "eq", _values(key, wanted))
        return
    if not wanted:
        raise _wrong(key, "an empty object", "name an operator, or leave the key out")
    for operator, value in wanted.items():
        if operator not in OPERATORS:
            raise _wrong(key, f"the operator {str(operator)[:40]!r}", f"there is {', '.join(OPERATORS)}")
        if operator == "exists" and not isinstance(value, bool):
            raise _wrong(key, f"exists: {str(value)[:40]!r}", "give true or false")
        if operator in _ORDERED and (isinstance(value, bool) or not isinstance(value, int | float | str)):
            raise _wrong(key, f"{operator}: {str(value)[:40]!r}", "give one number or one text")
        if operator == "in" and not isinstance(value, list):
            raise _wrong(key, f"in: {str(value)[:40]!r}", "give a list of values")
        yield Condition(key, "eq" if operator == "in" else operator, _values(key, value))


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
