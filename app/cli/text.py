"""Text for a terminal: what others wrote can neither steer the terminal nor break a table; tables fit 80 columns."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

WIDTH = 80
_LEAST = 6
_GAP = "  "
# Control characters move the cursor or change the terminal; the last ones reverse the order in which text is shown.
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SHOWN = dict.fromkeys(_CONTROLS, "\N{REPLACEMENT CHARACTER}") | {ord("\n"): "\n", ord("\t"): "\t", ord("\r"): ""}


def printable(text: str) -> str:
    """The text without what a terminal would obey; line ends and tabs stay."""
    return text.translate(_SHOWN)


def cell(value: Any) -> str:
    """A value on one line: nothing is a dash, lists are joined."""
    if value is None or value in ("", [], ()):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(cell(each) for each in value)
    if isinstance(value, Mapping):
        value = json.dumps(value, ensure_ascii=False)
    return " ".join(printable(str(value)).split())


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def here(file: str | Path) -> str:
    """A path as a person in the working directory would write it."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(file)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], whole: int = 0, width: int = WIDTH) -> str:
    """Lines of at most ``width`` columns: the widest one is cut first, and the first ``whole`` ones only when nothing else is left."""
    lines = [list(head), *([cell(value) for value in row] for row in rows)]
    widths = _widths(lines, width, whole)
    return "\n".join(_line([cut(value, limit) for value, limit in zip(line, widths, strict=True)], widths) for line in lines)


def explained(head: Sequence[str], rows: Iterable[Sequence[Any]], width: int = WIDTH) -> str:
    """A table whose last column is prose, told whole: it goes on below itself."""
    lines = [list(head), *([cell(value) for value in row] for row in rows)]
    widths = _widths([line[:-1] for line in lines], width // 2)
    before = sum(widths) + len(_GAP) * len(widths)
    shown = list[str]()
    for line in lines:
        first, *more = textwrap.wrap(line[-1], width - before) or [""]
        shown.append(_line([*(cut(value, limit) for value, limit in zip(line, widths, strict=False)), first], [*widths, 0]))
        shown += [" " * before + each for each in more]
    return "\n".join(shown)


def fields(pairs: Iterable[tuple[str, Any]], width: int = WIDTH) -> str:
    """Names and values, one below the other; a long value goes on below itself."""
    known = [(name, cell(value)) for name, value in pairs]
    before = max(len(name) for name, _ in known) + len(_GAP)
    told = list[str]()
    for name, value in known:
        first, *more = textwrap.wrap(value, width - before) or [""]
        told += [f"{name:<{before}}{first}", *(" " * before + each for each in more)]
    return "\n".join(told)


def duration(seconds: float) -> str:
    """A span of time in the unit that fits it."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _widths(lines: Sequence[Sequence[str]], width: int, whole: int = 0) -> list[int]:
    widths = [max(len(value) for value in column) for column in zip(*lines, strict=True)]
    for first in (whole, 0):
        while sum(widths) + len(_GAP) * (len(widths) - 1) > width and max(widths[first:], default=0) > _LEAST:
            widths[widths.index(max(widths[first:]), first)] -= 1
    return widths


def _line(values: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(value.ljust(limit) for value, limit in zip(values, widths, strict=True)).rstrip()
