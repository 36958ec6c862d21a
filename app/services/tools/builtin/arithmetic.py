"""Evaluate an arithmetic expression: a tokenizer and a recursive-descent parser that computes as it goes, on exact fractions.

    expression = term {("+" | "-") term}
    term       = factor {("*" | "/" | "//" | "%") factor}
    factor     = ("+" | "-") factor | power
    power      = atom ["**" factor]                      "^" is "**"; right to left, and -2**2 is -4
    atom       = number | constant | function "(" expression {"," expression} ")" | "(" expression ")"

Fractions make 0.1 + 0.2 exactly 0.3 and 1/3*3 exactly 1; only functions without a rational result go through floating point. `//` and `%`
round towards minus infinity, as Python's do; `round` takes a half away from zero, as people do. Time and memory are bounded by the length
of the text, its depth, and the digits that any value on the way may have; what would have more is refused before it is computed.
"""

import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction

from app.config.yaml import nearest
from app.services.tools.tool import ToolError

MAX_LENGTH = 1000
MAX_DEPTH = 50
MAX_DIGITS = 1000
_MAX_BITS = math.ceil(MAX_DIGITS * math.log2(10))

_NUMBER = r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE](?P<exponent>[+-]?\d+))?)"
_TOKEN = re.compile(rf"\s*(?:{_NUMBER}|(?P<name>[A-Za-z_]\w*)|(?P<symbol>\*\*|//|[-+*/%^(),]))", re.ASCII)
_TYPED = str.maketrans({"\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-"})  # as people and models write them


def evaluate(text: str) -> Fraction:
    """The value of an expression. Raises ToolError, and nothing else, for whatever has none."""
    if len(text) > MAX_LENGTH:
        raise ToolError(f"The expression has {len(text)} characters, more than {MAX_LENGTH}; compute it in parts.")
    parser = _Parser(text.translate(_TYPED))
    try:
        value = parser.expression()
    except ZeroDivisionError:
        raise ToolError("Division by zero has no result.") from None
    except OverflowError:
        raise ToolError("A value on the way is too large for a function or a root; use smaller numbers.") from None
    if parser.token:
        raise ToolError(f"{parser.told()} does not belong there; write one expression, such as (2 + 3) * sqrt(16).")
    return value


class _Parser:
    """One token ahead: ``token`` is its text, "" at the end, and ``kind`` number, name or symbol."""

    def __init__(self, text: str) -> None:
        self._text = text.rstrip()
        self._at = self._end = self._depth = 0
        self._advance()

    def told(self) -> str:
        return f"`{self.token}` at character {self._at + 1}" if self.token else "The end of the expression"

    def expression(self) -> Fraction:
        value = self._term()
        while (operator := self._take("+", "-")) is not None:
            right = self._term()
            value = _bounded(value + right if operator == "+" else value - right)
        return value

    def _term(self) -> Fraction:
        value = self._factor()
        while (operator := self._take("*", "//", "/", "%")) is not None:
            value = _bounded(_TERM[operator](value, self._factor()))
        return value

    def _factor(self) -> Fraction:
        # Every way to nest passes here.
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ToolError(f"The expression is nested more than {MAX_DEPTH} deep; compute it in parts.")
        sign = self._take("+", "-")
        value = self._power() if sign is None else self._factor()
        self._depth -= 1
        return -value if sign == "-" else value

    def _power(self) -> Fraction:
        base = self._atom()
        return base if self._take("**", "^") is None else _power(base, self._factor())

    def _atom(self) -> Fraction:
        token, kind, exponent = self.token, self.kind, self.exponent
        if kind == "number":
            self._advance()
            return _number(token, exponent)
        if kind == "name":
            return self._named()
        if self._take("(") is None:
            raise ToolError(f"{self.told()} stands where a number is wanted.")
        value = self.expression()
        self._close()
        return value

    def _named(self) -> Fraction:
        name = self.token.lower()
        if name in _CONSTANTS:
            self._advance()
            return _CONSTANTS[name]
        if name not in _FUNCTIONS:
            known = nearest(name, [*_FUNCTIONS, *_CONSTANTS])
            raise ToolError(f"{self.told()} is not known; {known}")
        self._advance()
        if self._take("(") is None:
            raise ToolError(f"`{name}` is a function; write {name}(…).")
        values = [self.expression()]
        while self._take(",") is not None:
            values.append(self.expression())
        self._close()
        return _bounded(_apply(name, values))

    def _close(self) -> None:
        if self._take(")") is None:
            raise ToolError(f"{self.told()} stands where `)` is wanted.")

    def _take(self, *symbols: str) -> str | None:
        taken = self.token
        if self.kind != "symbol" or taken not in symbols:
            return None
        self._advance()
        return taken

    def _advance(self) -> None:
        if self._end == len(self._text):
            self.token, self.kind, self.exponent, self._at = "", "end", "0", self._end
            return
        match = _TOKEN.match(self._text, self._end)
        if match is None:
            unread = self._text[self._end :].lstrip()[0]
            raise ToolError(f"{unread!r} means nothing in arithmetic; use numbers, + - * / // % **, parentheses and functions.")
        self.kind = "number" if match["number"] else "name" if match["name"] else "symbol"
        self.token, self.exponent, self._at, self._end = match[self.kind], match["exponent"] or "0", match.start(self.kind), match.end()


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise _too_large()
    return value


def _too_large() -> ToolError:
    return ToolError(f"A value on the way has more than {MAX_DIGITS} digits; use smaller numbers.")


def _number(token: str, exponent: str) -> Fraction:
    if abs(int(exponent)) > MAX_DIGITS:
        raise _too_large()
    return _bounded(Fraction(token))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if base < 0:
            raise ToolError(f"A negative number to the power of {float(exponent):g} is not a real number.")
        return _approximate(float(base) ** float(exponent))
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if (size - 1) * abs(exponent.numerator) > _MAX_BITS:
        raise _too_large()
    return _bounded(Fraction(base**exponent.numerator))


def _approximate(value: float) -> Fraction:
    """A float as the shortest decimal that means it, which is what it would be shown as."""
    if not math.isfinite(value):
        raise OverflowError
    return Fraction(repr(value))


def _apply(name: str, values: list[Fraction]) -> Fraction:
    function, least, most = _FUNCTIONS[name]
    if not least <= len(values) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise ToolError(f"`{name}` takes {wanted} values, and {len(values)} are given.")
    try:
        return function(*values)
    except ValueError:
        given = ", ".join(f"{float(value):g}" for value in values)
        raise ToolError(f"{name}({given}) is not a real number.") from None


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise ValueError
    exact = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    return exact if exact * exact == value else _approximate(math.sqrt(value))


def _round(value: Fraction, places: Fraction = Fraction(0)) -> Fraction:
    if places.denominator != 1 or abs(places) > MAX_DIGITS // 2:
        raise ToolError(f"`round` takes a whole number of places, at most {MAX_DIGITS // 2}.")
    scale = Fraction(10) ** places.numerator
    rounded = math.floor(abs(value) * scale + Fraction(1, 2)) / scale
    return -rounded if value < 0 else rounded


def _logarithm(value: Fraction, base: Fraction | None = None) -> Fraction:
    if base is None:
        return _approximate(math.log(_plain(value)))
    exact = {2: math.log2, 10: math.log10}.get(base.numerator) if base.denominator == 1 else None
    return _approximate(exact(_plain(value)) if exact else math.log(_plain(value)) / math.log(_plain(base)))


def _plain(value: Fraction) -> int | float:
    """An int where it is one: Python's logarithms take ints that no float holds."""
    return value.numerator if value.denominator == 1 else float(value)


def _by_float(function: Callable[[float], float]) -> Callable[..., Fraction]:
    return lambda value: _approximate(function(float(value)))


_TERM: Mapping[str, Callable[[Fraction, Fraction], Fraction]] = {
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "//": lambda left, right: Fraction(left // right),
    "%": lambda left, right: left % right,
}
_CONSTANTS = {"pi": _approximate(math.pi), "e": _approximate(math.e), "tau": _approximate(math.tau)}
_FUNCTIONS: Mapping[str, tuple[Callable[..., Fraction], int, int]] = {
    "abs": (abs, 1, 1),
    "ceil": (lambda value: Fraction(math.ceil(value)), 1, 1),
    "floor": (lambda value: Fraction(math.floor(value)), 1, 1),
    "round": (_round, 1, 2),
    "min": (lambda *values: min(values), 1, MAX_LENGTH),
    "max": (lambda *values: max(values), 1, MAX_LENGTH),
    "sqrt": (_root, 1, 1),
    "exp": (_by_float(math.exp), 1, 1),
    "log": (_logarithm, 1, 2),
    "ln": (_logarithm, 1, 1),
    "log2": (lambda value: _logarithm(value, Fraction(2)), 1, 1),
    "log10": (lambda value: _logarithm(value, Fraction(10)), 1, 1),
    "sin": (_by_float(math.sin), 1, 1),
    "cos": (_by_float(math.cos), 1, 1),
    "tan": (_by_float(math.tan), 1, 1),
    "asin": (_by_float(math.asin), 1, 1),
    "acos": (_by_float(math.acos), 1, 1),
    "atan": (_by_float(math.atan), 1, 1),
}
FUNCTION_NAMES = tuple(_FUNCTIONS)
CONSTANT_NAMES = tuple(_CONSTANTS)
