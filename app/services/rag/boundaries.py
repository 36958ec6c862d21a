"""Where a text may be cut: between paragraphs, sentences, lines and words, and never within what a reader sees as one character.

A boundary is the offset of what comes after it; the white space between belongs to neither side.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator

Finder = Callable[[str, int, int], Iterator[int]]
"""(text, low, high) -> the boundaries above ``low`` and up to ``high``, in order; it looks at nothing further away than some words."""

_GAP = r"\n[^\S\n]*\n\s*"
_CLOSE = r"[\"'\u2019\u201d\u00bb\u203a)\]*_]*"
_WIDE_CLOSE = r"[\u300d\u300f\uff09\u3011\u300b\u201d\u2019]*"
_PARAGRAPH, _LINE, _WORD = re.compile(_GAP), re.compile(r"\n\s*"), re.compile(r"\s+")
_SENTENCE = re.compile(rf"{_GAP}|(?P<mark>[.!?\u2026\u061f\u06d4\u0964\u0965]){_CLOSE}\s+|[\u3002\uff01\uff1f\uff61]{_WIDE_CLOSE}\s*")
_LAST_WORD = re.compile(r"[^\s(\[\"'\u201c\u201e\u00ab]*\Z")
_NOT_SPACE = re.compile(r"\S")
_LOOK_BACK = 24

_ABBREVIATIONS = re.compile(
    r"""(?xi) mrs? | ms | dr | prof | rev | hon | st | [sj]r | vs | etc | al | cf | ca | approx | nos? | vol | chap? | sec | figs?
    | eqs? | eds? | pp | par | dept | est | inc | ltd | corp? | gen | col | lt | sgt | capt | gov | sen | rep
    | e\.g | i\.e | [ap]\.m | u\.[skn] | ph\.d | jan | feb | mar | apr | jun | jul | aug | sept? | oct | nov | dec | bzw | usw | vgl | evtl
    | ggf | inkl | nr | abs | abb | tab | str | mio | mrd | z\.b | d\.h | u\.a | i\.d\.r | s\.o | mme | mlle | sra | srta | art
    | n\u00fam | p\u00e1g | av | p\.ex | [^\W\d_]"""
)
"""What ends in a full stop that ends no sentence, without that stop: abbreviations, and single letters as in names."""


def paragraphs(text: str, low: int, high: int) -> Iterator[int]:
    return _ends(_PARAGRAPH, text, low, high)


def lines(text: str, low: int, high: int) -> Iterator[int]:
    return _ends(_LINE, text, low, high)


def words(text: str, low: int, high: int) -> Iterator[int]:
    return _ends(_WORD, text, low, high)


def sentences(text: str, low: int, high: int) -> Iterator[int]:
    """Ends of sentences and of paragraphs."""
    for match in _SENTENCE.finditer(text, max(low - _LOOK_BACK, 0), high):
        if match.end() > low and (match["mark"] is None or _ends_sentence(text, match)):
            yield match.end()


def separated(separator: str) -> Finder:
    """The finder of the places behind a separator."""
    pattern = re.compile(re.escape(separator))
    return lambda text, low, high: _ends(pattern, text, low, high)


def after_space(text: str, at: int) -> int:
    """The offset of the first thing from ``at`` on that is not white space; the text's end where there is none."""
    found = _NOT_SPACE.search(text, at)
    return found.start() if found else len(text)


def joined(text: str, at: int, start: int) -> bool:
    """Whether a cut at ``at``, in a part that begins at ``start``, would part what a reader sees as one character: a letter and its marks,
    an emoji of several, a flag, a Hangul syllable of jamo, a carriage return and its line feed, the halves of a surrogate pair."""
    if not start < at < len(text):
        return False
    before, after = text[at - 1], text[at]
    if after < "\u0300" or before.isspace():
        return before == "\r" and after == "\n"
    if before == "\u200d" or after == "\u200d" or "\U0001f3fb" <= after <= "\U0001f3ff" or "\U000e0020" <= after <= "\U000e007f":
        return True
    if "\U0001f1e6" <= after <= "\U0001f1ff":
        return _flags(text, at, start) % 2 == 1
    if "\u1160" <= after <= "\u11ff":
        return "\u1100" <= before <= "\u11ff" or "\uac00" <= before <= "\ud7a3"
    return ("\udc00" <= after <= "\udfff" and "\ud800" <= before <= "\udbff") or unicodedata.category(after)[0] == "M"


def _flags(text: str, at: int, start: int) -> int:
    """How many of the letters that make flags, two of them each, stand right before ``at``."""
    first = at
    while first > start and "\U0001f1e6" <= text[first - 1] <= "\U0001f1ff":
        first -= 1
    return at - first


def _ends(pattern: re.Pattern[str], text: str, low: int, high: int) -> Iterator[int]:
    # From a little before: what ends right above low may have begun there.
    for match in pattern.finditer(text, max(low - _LOOK_BACK, 0), high):
        if match.end() > low:
            yield match.end()


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    after = text[match.end()] if match.end() < len(text) else ""
    if after.islower():
        return False
    if match["mark"] != ".":
        return True
    at = match.start()
    found = _LAST_WORD.search(text, max(at - _LOOK_BACK, 0), at)
    word = found.group() if found else ""
    if word.isdecimal():  # the number of a list's item
        return not _opens_line(text, at - len(word))
    return _ABBREVIATIONS.fullmatch(word) is None


def _opens_line(text: str, at: int) -> bool:
    before = text[max(at - _LOOK_BACK, 0) : at].rstrip(" \t")
    return not before or before.endswith("\n")
