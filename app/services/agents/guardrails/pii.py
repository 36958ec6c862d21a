"""Personal data in text, by form and checksum: what is found is the table at the end, and nothing else.

The rule that streams rest on: whether something begins at a position depends on one character before it and at most REACH after it, and
as long as it depends on text that is still to come, all from there on has the form of ``_TAIL``.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

REACH = 330
"""An address of the longest form: 64 characters, @, 255 characters, and one behind it."""
_LOCAL_CHARS, _DOMAIN_CHARS = 64, 255
_LOCAL = re.compile(r"[\w.+%&'-]*")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+(?:xn--[A-Za-z0-9-]{2,59}|[^\W\d_]{2,63})")
_CARD = re.compile(r"(?<!\d)[2-6](?:[ -]?\d){12,18}")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}")
_IBAN_COMPACT = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}[A-Za-z0-9]{11,30}(?![A-Za-z0-9])")
_SSN = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-])")
_GAP = "[-./() \u00a0\u2009\u202f]"
_INTERNATIONAL = re.compile(rf"(?<![\w+])\+\(?\d(?:{_GAP}{{0,3}}\d){{7,14}}(?!\d)")
_AMERICAN = re.compile(r"(?<![\w+.-])(?:1[-. ])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[-. ])[2-9]\d\d[-. ]\d{4}(?!\w)")
_DATE = r"(?!\d\d[-/ ]\d\d[-/ ]\d{2,4})"
_NATIONAL = re.compile(rf"(?<![\w.+-]){_DATE}\(?0[1-9]\d{{0,4}}\)?(?:[-/ ]{{1,3}}\d{{2,8}}){{1,5}}(?!\w)|(?<![\w.+-])0[1-9]\d{{8,9}}(?!\w)")
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rf"(?<![\w.])(?:{_BYTE}\.){{3}}{_BYTE}(?!\w)(?!\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f:.]*\d)[0-9A-Fa-f:]{2,39}(?:\.\d{1,3}){0,3}(?![\w:])")
_WORD = r"[\w.+%&'@:/()-]*"
_TAIL = re.compile(rf"{_WORD}[\dA-Z()./+ \u00a0\u2009\u202f-]*")


class Find(NamedTuple):
    """Personal data at ``text[start:end]``."""

    start: int
    end: int
    kind: str


Span = tuple[int, int]


def find(text: str, position: int = 0) -> Iterator[Find]:
    """What is in ``text`` from ``position`` on, from left to right; of what begins at one place the longest, and nothing twice. Right
    behind a find is looked as if nothing stood before, since nothing of it will."""
    ahead: dict[str, Span | None] = {kind: first(text, position) for kind, first in _FINDERS.items()}
    while found := [Find(*there, kind) for kind, there in ahead.items() if there is not None]:
        best = min(found, key=lambda each: (each.start, -each.end))
        yield best
        for kind, there in ahead.items():
            behind = _FINDERS[kind](text[best.end : best.end + REACH], 0)
            if behind and behind[0] == 0:
                ahead[kind] = best.end, best.end + behind[1]
            elif there is not None and there[0] < best.end:
                ahead[kind] = _FINDERS[kind](text, best.end)


def open_from(text: str) -> int:
    """Where that end of ``text`` begins of which more text may still make something."""
    tail = _TAIL.match(text[-REACH:][::-1])
    return len(text) - (tail.end() if tail else 0)


def _email(text: str, position: int) -> Span | None:
    at = text.find("@", position)
    while at >= 0:
        before = _LOCAL.match(text[max(position, at - _LOCAL_CHARS) : at][::-1])
        start = at - (before.end() if before else 0)
        domain = _DOMAIN.match(text, at + 1, at + 1 + _DOMAIN_CHARS)
        if start < at and domain:
            return start, domain.end()
        at = text.find("@", at + 1)
    return None


def _card(text: str, position: int) -> Span | None:
    return _checked(_CARD, text, position, _luhn)


def _iban(text: str, position: int) -> Span | None:
    return _first((_checked(_IBAN, text, position, _mod_97), _checked(_IBAN_COMPACT, text, position, _mod_97)))


def _ssn(text: str, position: int) -> Span | None:
    return _span(_SSN.search(text, position))


def _phone(text: str, position: int) -> Span | None:
    national = _checked(_NATIONAL, text, position, lambda number: 9 <= sum(char.isdecimal() for char in number) <= 12)
    return _first((_span(_INTERNATIONAL.search(text, position)), _span(_AMERICAN.search(text, position)), national))


def _address(text: str, position: int) -> Span | None:
    v6 = next((match for match in _IPV6.finditer(text, position) if _is_ipv6(match[0])), None)
    return _first((_span(_IPV4.search(text, position)), _span(v6)))


def _checked(pattern: re.Pattern[str], text: str, position: int, valid: Callable[[str], bool]) -> Span | None:
    """The first match that is valid, the longest at its place: a match may have swallowed what stands beside the number."""
    while match := pattern.search(text, position):
        for end in range(match.end(), match.start() + 8, -1):
            whole = text[end - 1].isalnum() and not text[end : end + 1].isalnum()
            if whole and valid(text[match.start() : end]):
                return match.start(), end
        position = match.start() + 1
    return None


def _first(found: Iterable[Span | None]) -> Span | None:
    return min((each for each in found if each), key=lambda each: (each[0], -each[1]), default=None)


def _span(match: re.Match[str] | None) -> Span | None:
    return match.span() if match else None


def _luhn(number: str) -> bool:
    digits = [int(digit) for digit in number if digit.isdecimal()]
    doubled = [digit if at % 2 == 0 else digit * 2 - 9 * (digit > 4) for at, digit in enumerate(reversed(digits))]
    return len(digits) >= 13 and sum(doubled) % 10 == 0


def _mod_97(number: str) -> bool:
    """ISO 13616: the first four characters moved to the end, letters as 10 to 35, modulo 97 is 1."""
    compact = number.replace(" ", "")
    turned = compact[4:] + compact[:4]
    return len(compact) >= 15 and int("".join(str(int(char, 36)) for char in turned)) % 97 == 1


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


_FINDERS: dict[str, Callable[[str, int], Span | None]] = {
    "EMAIL": _email,
    "CARD": _card,
    "IBAN": _iban,
    "SSN": _ssn,
    "IP": _address,
    "PHONE": _phone,
}
