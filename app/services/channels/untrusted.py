"""Read JSON that may have any shape: nothing here raises."""

import re
from collections.abc import Mapping
from typing import Any

_HALVES = re.compile("[\ud800-\udfff]")


def at(value: Any, *path: str) -> Any:
    """What is there; None where anything on the way is not what it should be."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def items(value: Any, *path: str) -> list[Any]:
    """The list that is there; an empty one where there is none."""
    found = at(value, *path)
    return found if isinstance(found, list) else []


def text(value: Any, *path: str) -> str:
    """The text or number that is there, as text; "" where there is none."""
    found = at(value, *path)
    return whole(str(found)) if isinstance(found, str | int | float) and not isinstance(found, bool) else ""


def whole(words: str) -> str:
    """The text without halves of surrogate pairs, which JSON can bring and neither a database nor UTF-8 can hold."""
    return _HALVES.sub("\ufffd", words)
