"""Forbidden words in text, whole words only, however they are written: NFKC, without case, invisible characters or extra spaces.

Text is folded one cluster (a character and its combining marks) at a time, so that it comes out the same however it is cut.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator

# Scripts that write no spaces between words, or hang endings on them: a word there has no edge to look for.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u318f\u3400-\u9fff\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def clusters(text: str) -> Iterator[str]:
    """``text`` in pieces that fold alone."""
    start = 0
    for at, char in enumerate(text):
        if at > start and not unicodedata.combining(char):
            yield text[start:at]
            start = at
    if text:
        yield text[start:]


def fold(cluster: str) -> str:
    """What of a cluster counts: "" for what cannot be seen, " " for any white space."""
    if cluster.isascii():
        return " " if cluster.isspace() else cluster.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", cluster).casefold())
    visible = "".join(char for char in folded if unicodedata.category(char) != "Cf")
    return " " if visible.isspace() else visible


def fold_all(text: str) -> str:
    return re.sub(" +", " ", "".join(fold(cluster) for cluster in clusters(text))).strip()


class Keywords:
    """A set of words and phrases to look for in folded text."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = sorted({folded for word in words if (folded := fold_all(word))})
        self._patterns = [re.compile(_whole(word)) for word in self.words]
        self._any = re.compile("|".join(map(_whole, self.words)) or r"(?!)")
        self._beginnings = frozenset(word[:length] for word in self.words for length in range(1, len(word) + 1))
        self._longest = max(map(len, self.words), default=0)

    def first_end(self, folded: str, position: int) -> int | None:
        """Where the first word that is complete ends: of two that overlap, the one of which that is known first."""
        if not self._any.search(folded, position):
            return None
        return min(match.end() for pattern in self._patterns if (match := pattern.search(folded, position)))

    def begun(self, folded: str) -> int:
        """How many characters at the end of ``folded`` may be the beginning of a word, or all of one."""
        lengths = range(min(self._longest, len(folded)), 0, -1)
        return next((length for length in lengths if folded[-length:] in self._beginnings), 0)


def _whole(word: str) -> str:
    before = r"(?<!\w)" if _has_edge(word[0]) else ""
    after = r"(?!\w)" if _has_edge(word[-1]) else ""
    return before + re.escape(word) + after


def _has_edge(char: str) -> bool:
    return bool(re.match(r"\w", char)) and not _UNSPACED.match(char)
