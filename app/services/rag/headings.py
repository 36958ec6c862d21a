"""The Markdown headings of a text: where each stands, and what stands above it. What looks like one inside a code block is none."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from app.services.rag.boundaries import after_space

_MAYBE = re.compile(r"^ {0,3}(?:#{1,6}(?:[ \t]|$)|=+[ \t]*$|-+[ \t]*$)", re.MULTILINE)
_LINE_END = re.compile(r"\r\n?|\n")
MAX_LINES = 500_000
"""A text of more lines is a log or a table: its headings are not looked for, which keeps the time of any text of 10 MB to a few seconds."""


@dataclass(frozen=True, slots=True)
class Heading:
    """``start`` is the offset of its line and ``body`` the offset of what follows it; ``parent`` is the index of the heading above it in
    the document's outline, -1 for none."""

    start: int
    body: int
    level: int
    title: str
    parent: int


class Outline:
    """The headings of a text, in its order."""

    def __init__(self, headings: Sequence[Heading]) -> None:
        self._headings = headings
        self._starts = [heading.start for heading in headings]

    def last(self, at: int) -> Heading | None:
        """The last heading that starts at or before ``at``."""
        index = bisect_right(self._starts, at) - 1
        return self._headings[index] if index >= 0 else None

    def starts(self, at: int) -> bool:
        """Whether a heading starts there."""
        heading = self.last(at)
        return heading is not None and heading.start == at

    def inside(self, at: int) -> bool:
        """Whether a cut there would part a heading from its first text, or from a heading right below it."""
        index = bisect_right(self._starts, at) - 1
        if index >= 0 and self._starts[index] == at:
            index -= 1
        return index >= 0 and at <= self._headings[index].body

    def strongest(self, low: int, high: int) -> int:
        """Where to cut above ``low`` and up to ``high``: at the last one of the highest headings there; 0 for none."""
        found = self._headings[bisect_right(self._starts, low) : bisect_right(self._starts, high)]
        fit = [heading for heading in found if not self.inside(heading.start)]
        return min(fit, key=lambda heading: (heading.level, -heading.start)).start if fit else 0

    def above(self, at: int) -> list[str]:
        """The headings that a text from ``at`` on stands under, the outermost first, as lines of Markdown."""
        index = bisect_right(self._starts, at) - 1
        if index >= 0 and at < self._headings[index].body:
            index = self._headings[index].parent
        lines = list[str]()
        while index >= 0:
            heading = self._headings[index]
            lines.append(f"{'#' * heading.level} {heading.title}")
            index = heading.parent
        return lines[::-1]


def outline(text: str) -> Outline:
    """Read by a Markdown parser without what is inside of blocks; of lists and quotes it needs to know nothing to find headings."""
    if not _MAYBE.search(text):
        return Outline(())
    lines = [0, *(match.end() for match in _LINE_END.finditer(text))]
    if len(lines) > MAX_LINES:
        return Outline(())
    return Outline(_headings(text, [*lines, len(text)]))


def _headings(text: str, lines: Sequence[int]) -> list[Heading]:
    # Here, for it is wanted only when there is something to read.
    from markdown_it import MarkdownIt

    parser = MarkdownIt("zero").enable(["heading", "lheading", "fence", "code", "html_block", "hr"])
    parser.core.ruler.enableOnly(["normalize", "block"])
    tokens = parser.parse(text)
    found, open_ones = list[Heading](), list[int]()
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.map and (title := " ".join(inline.content.split())):
            level = int(token.tag[1:])
            while open_ones and found[open_ones[-1]].level >= level:
                open_ones.pop()
            parent = open_ones[-1] if open_ones else -1
            open_ones.append(len(found))
            found.append(Heading(after_space(text, lines[token.map[0]]), after_space(text, lines[token.map[1]]), level, title, parent))
    return found
