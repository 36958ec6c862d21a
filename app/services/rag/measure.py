"""How long a text is: in characters, or in tokens by an estimate that needs no model. Both answer for any part of a text at once.

The estimate counts up to six letters of a Latin word as a token, up to three letters of other alphabets, up to three digits, and every
ideograph, mark and sign; white space is free. What begins at the start of a token is counted alike wherever it stands, so parts add up.
"""

import re
from array import array
from bisect import bisect_left
from typing import Protocol

_IDEOGRAPHS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_TOKEN = re.compile(rf"[A-Za-z\u00c0-\u024f]{{1,6}}|\d{{1,3}}|[{_IDEOGRAPHS}]|[^\W\d_]{{1,3}}|\S")

UNITS = ("characters", "tokens")


class Measure(Protocol):
    """Of one text. Places are offsets in it."""

    def ahead(self, at: int, units: int) -> int:
        """The last place to which there are no more than so many units from ``at``."""
        ...

    def back(self, at: int, units: int) -> int:
        """The first place from which there are no more than so many units to ``at``."""
        ...

    def count(self, text: str) -> int:
        """The units of another text."""
        ...


class Characters:
    def __init__(self, text: str) -> None:
        self._length = len(text)

    def ahead(self, at: int, units: int) -> int:
        return min(at + units, self._length)

    def back(self, at: int, units: int) -> int:
        return max(at - units, 0)

    def count(self, text: str) -> int:
        return len(text)


class Tokens:
    def __init__(self, text: str) -> None:
        self._length = len(text)
        self._starts = array("q", (match.start() for match in _TOKEN.finditer(text)))

    def ahead(self, at: int, units: int) -> int:
        index = bisect_left(self._starts, at)
        begun = index == len(self._starts) or self._starts[index] != at  # within a token, the rest of which is one more
        index += max(units - begun, 0)
        return self._starts[index] if index < len(self._starts) else self._length

    def back(self, at: int, units: int) -> int:
        index = bisect_left(self._starts, at) - units
        return self._starts[index] if index > 0 else 0

    def count(self, text: str) -> int:
        return count_tokens(text)


def count_tokens(text: str) -> int:
    """About as many tokens as a model's own tokenizer would make of the text."""
    return sum(1 for _ in _TOKEN.finditer(text))


def measure_of(text: str, unit: str) -> Measure:
    return Tokens(text) if unit == "tokens" else Characters(text)
