"""Text that passes guardrails as it comes: what may still become a match waits, so that all that was let through was right to be.

The law: what comes out, all together, and how it ends depend on the whole text only and not on how it was cut into pieces.
"""

from collections.abc import Sequence
from typing import Protocol

from app.services.agents.guardrails import pii
from app.services.agents.guardrails.keywords import Keywords, clusters, fold


class Filter(Protocol):
    """One guardrail at work on one text. Once ``blocked``, it lets nothing through; ``cut`` says that some of the text is left out."""

    blocked: bool
    cut: bool

    def feed(self, text: str) -> str: ...
    def finish(self) -> str: ...


class Screen:
    """Filters one behind the other. ``blocked_by`` is the place of the filter that stopped the text, None while none has."""

    def __init__(self, filters: Sequence[Filter]) -> None:
        self._filters = filters

    @property
    def cut(self) -> bool:
        return any(each.cut for each in self._filters)

    @property
    def blocked_by(self) -> int | None:
        # Of two that block, the later had only what the earlier let through before its own match.
        return next((place for place in reversed(range(len(self._filters))) if self._filters[place].blocked), None)

    def feed(self, text: str) -> str:
        """What may be told now of all that has come."""
        for each in self._filters:
            text = each.feed(text)
        return text

    def finish(self) -> str:
        """The rest: nothing more comes."""
        rest = ""
        for each in self._filters:
            rest = each.feed(rest)
            if not self._stopped_before(each):
                rest += each.finish()
        return rest

    def _stopped_before(self, last: Filter) -> bool:
        """Whether the text ended at an earlier filter's match: what waits behind that is no end of the text."""
        for each in self._filters:
            if each.blocked:
                return True
            if each is last:
                break
        return False


class PersonalData:
    """Personal data is replaced by its kind, or stops the text."""

    def __init__(self, block: bool = False) -> None:
        self.blocked = self.cut = False
        self._block = block
        self._before = ""
        self._waiting = ""

    def feed(self, text: str) -> str:
        self._waiting += text
        return self._pass(pii.open_from(self._before + self._waiting))

    def finish(self) -> str:
        return self._pass(len(self._before) + len(self._waiting))

    def _pass(self, limit: int) -> str:
        """Let through what begins before ``limit`` of the text that is left, the last character before it included."""
        if self.blocked:
            return ""
        text, position, replaced, passed = self._before + self._waiting, len(self._before), 0, list[str]()
        for found in pii.find(text, position) if limit > position else ():
            if found.start >= limit:
                break
            passed.append(text[position : found.start])
            if self._block:
                self.blocked = True
                return "".join(passed)
            passed.append(f"[{found.kind}_REDACTED]")
            position = replaced = found.end
        passed.append(text[position:limit])
        position = max(position, limit)
        self._before, self._waiting = text[max(replaced, position - 1) : position], text[position:]
        return "".join(passed)


class ForbiddenWords:
    """A forbidden word stops the text right before it."""

    def __init__(self, keywords: Keywords) -> None:
        self.blocked = self.cut = False
        self._keywords = keywords
        self._before = ""  # the last character, folded, that was let through
        self._waiting: list[tuple[str, str]] = []  # clusters, and what they fold to
        self._open = ""  # the last cluster, which may get more combining marks

    def feed(self, text: str) -> str:
        if text:
            *whole, self._open = clusters(self._open + text)
            self._take(whole)
        return self._pass(ended=False)

    def finish(self) -> str:
        self._take([self._open] if self._open else [])
        self._open = ""
        return self._pass(ended=True)

    def _take(self, whole: Sequence[str]) -> None:
        last = self._waiting[-1][1] if self._waiting else self._before
        for cluster in whole:
            folded = fold(cluster)
            self._waiting.append((cluster, "" if folded == last == " " else folded))
            last = folded or last

    def _pass(self, ended: bool) -> str:
        if self.blocked:
            return ""
        waiting = "".join(folded for _, folded in self._waiting)
        end = self._keywords.first_end(self._before + waiting, len(self._before))
        if end is not None and (ended or end < len(self._before + waiting)):  # what follows says whether the word is whole
            self.blocked, ended = True, False
            waiting = waiting[: end - len(self._before)]
        return self._let_through(len(waiting) - (0 if ended else self._keywords.begun(waiting)))

    def _let_through(self, length: int) -> str:
        """Pass on the clusters that lie within the first ``length`` folded characters."""
        count, folded = 0, ""
        for _, each in self._waiting:
            if len(folded) + len(each) > length:
                break
            count, folded = count + 1, folded + each
        passed, self._waiting = self._waiting[:count], self._waiting[count:]
        self._before = (self._before + folded)[-1:]
        return "".join(cluster for cluster, _ in passed)


class Length:
    """A text of at most so many characters: what is beyond is cut off, or stops the text."""

    def __init__(self, max_chars: int, block: bool = False) -> None:
        self.blocked = self.cut = False
        self._left = max_chars
        self._block = block

    def feed(self, text: str) -> str:
        passed = text[: self._left]
        if len(passed) < len(text):
            self.blocked, self.cut = self._block, not self._block
        self._left -= len(passed)
        return passed

    def finish(self) -> str:
        return ""
