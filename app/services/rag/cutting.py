"""Cut a text into chunks where a person would: at headings, paragraphs, sentences, lines, words, and only at last between characters.

The rules: a chunk has at most ``size`` units, the headings above it included; nothing of the text is lost but white space at the cuts;
the overlap is whole sentences or words where there are any, and never more than asked. The time grows with the length of the text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.errors import InvalidBody
from app.services.rag.boundaries import Finder, after_space, joined, lines, paragraphs, sentences, separated, words
from app.services.rag.headings import Outline, outline
from app.services.rag.knowledge import Chunking
from app.services.rag.measure import UNITS, measure_of

STRATEGIES = ("recursive", "sentence", "fixed")
MAX_SIZE = 100_000

_STEPS: Sequence[tuple[Finder, float]] = ((paragraphs, 0.4), (sentences, 0.4), (lines, 0.4), (words, 0.5), (words, 0.0))
"""What to cut at, the best first, and how much of the room a chunk must fill for it: better a weaker cut than a crumb."""
_SENTENCE_STEPS: Sequence[tuple[Finder, float]] = ((sentences, 0.0), (words, 0.0))
_OVERLAP = 0.15
_NO_OUTLINE = Outline(())


@dataclass(frozen=True, slots=True)
class Span:
    """A chunk's place in the text: [start, end), with white space at its end; ``above`` are the lines of the headings over it."""

    start: int
    end: int
    above: Sequence[str] = ()


def cut(text: str, chunking: Chunking) -> list[str]:
    """The chunks of a text, in its order; none of an empty one. The chunking is one that ``check_chunking`` lets pass."""
    return ["\n".join((*span.above, "")) + text[span.start : span.end].rstrip() for span in spans(text, chunking)]


def spans(text: str, chunking: Chunking) -> Iterator[Span]:
    """Like ``cut``, the places alone. What is between the end of one and the start of the next is white space, or common to both."""
    return iter(_Cutter(text, chunking))


def chunking_of(given: Chunking, **asked: Any) -> Chunking:
    """``given``, with the fields that are asked for instead. A new size or unit without an overlap has the usual part of the size as
    overlap."""
    changed = replace(given, **asked)
    if "overlap" in asked or (changed.size, changed.unit) == (given.size, given.unit):
        return changed
    return replace(changed, overlap=int(changed.size * _OVERLAP))


def check_chunking(chunking: Chunking) -> None:
    """Raises InvalidBody for a chunking that cannot be followed."""
    for name, message, remedy in faults(chunking):
        raise InvalidBody(f"{name} {message}; {remedy}.", param=f"$.{name}")


def faults(chunking: Chunking) -> Iterator[tuple[str, str, str]]:
    """(name, what is wrong, the remedy) of everything that is wrong with a chunking."""
    if chunking.strategy not in STRATEGIES:
        yield "chunk_strategy", f"is {chunking.strategy!r}, which there is not", f"take one of {', '.join(STRATEGIES)}"
    if chunking.unit not in UNITS:
        yield "chunk_unit", f"is {chunking.unit!r}, which there is not", f"take one of {', '.join(UNITS)}"
    if not 1 <= chunking.size <= MAX_SIZE:
        yield "chunk_size", f"is {chunking.size}", f"take a whole number from 1 to {MAX_SIZE}"
    if chunking.overlap < 0:
        yield "chunk_overlap", f"is {chunking.overlap}", "take 0 or more"
    elif chunking.overlap >= chunking.size:
        yield "chunk_overlap", f"is {chunking.overlap}, and a chunk has {chunking.size} {chunking.unit}", "take less than the chunk's size"


class _Cutter:
    def __init__(self, text: str, chunking: Chunking) -> None:
        recursive = chunking.strategy not in {"sentence", "fixed"}
        self._text, self._size, self._overlap = text, chunking.size, chunking.overlap
        self._fixed = chunking.strategy == "fixed"
        self._measure = measure_of(text, chunking.unit)
        self._outline = outline(text) if recursive and not chunking.separators else _NO_OUTLINE
        self._steps = _steps(chunking)

    def __iter__(self) -> Iterator[Span]:
        length, done = len(self._text), 0
        start = after_space(self._text, 0)
        while start < length:
            above = self._above(start)
            done = self._end(start, done, self._size - self._length(above))
            yield Span(start, done, above)
            start = self._resume(start, done) if done < length else length

    def _above(self, start: int) -> Sequence[str]:
        """The headings that the chunk stands under: as many of the innermost ones as a quarter of it has room for."""
        lines = self._outline.above(start)
        while lines and self._length(lines) > self._size // 4:
            lines = lines[1:]
        return lines

    def _length(self, above: Sequence[str]) -> int:
        return self._measure.count("\n".join((*above, ""))) if above else 0

    def _end(self, start: int, done: int, room: int) -> int:
        """Where a chunk ends that has ``room`` and must go beyond ``done``; white space after it is left out of account."""
        full = self._measure.ahead(start, room)
        high = full if self._fixed else after_space(self._text, full)
        if high >= len(self._text):
            return len(self._text)
        base = max(start, done)
        end = 0 if self._fixed else self._best(base, high)
        return after_space(self._text, end or self._between_characters(start, base, full))

    def _best(self, base: int, high: int) -> int:
        """The best boundary above ``base`` and up to ``high``; 0 where there is none."""
        for part in (0.5, 0.1):
            if end := self._outline.strongest(base + int((high - base) * part), high):
                return end
        for finder, part in self._steps:
            found = list(finder(self._text, base + int((high - base) * part), high))
            if end := next((at for at in reversed(found) if not self._outline.inside(at) and not joined(self._text, at, base)), 0):
                return end
        return max(words(self._text, base, high), default=0)  # within a heading that is longer than a chunk

    def _between_characters(self, start: int, base: int, full: int) -> int:
        at = full
        while joined(self._text, at, start):
            at = self._measure.back(at, 1)
        return at if at > base else full

    def _resume(self, start: int, done: int) -> int:
        """Where the chunk after [start, done) begins: so far back as the overlap goes, but never above a heading, and so that it has room
        for at least a tenth of new text."""
        most = self._size - max(1, self._size // 10) - (self._size // 4 if self._outline.last(done) else 0)
        overlap = min(self._overlap, most)
        if overlap <= 0 or self._outline.starts(done):
            return done
        low = max(self._measure.back(done, overlap), self._measure.ahead(start, 1))
        heading = self._outline.last(done - 1)
        for at in (heading.start, heading.body) if heading else ():
            if low <= at < done:
                return at
        for finder in () if self._fixed else (sentences, words):
            if found := next((at for at in finder(self._text, low - 1, done) if at < done and not joined(self._text, at, start)), 0):
                return found
        return self._first_character(start, low, done)

    def _first_character(self, start: int, low: int, done: int) -> int:
        at = low
        while at < done and joined(self._text, at, start):
            at = self._measure.ahead(at, 1)
        return min(after_space(self._text, at), done)


def _steps(chunking: Chunking) -> Sequence[tuple[Finder, float]]:
    if chunking.strategy == "sentence":
        return _SENTENCE_STEPS
    if chunking.separators:
        return (*((separated(each), 0.0) for each in chunking.separators if each), (words, 0.0))
    return _STEPS
