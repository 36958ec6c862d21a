"""Cut a long answer where a person would: between paragraphs, sentences or words, and only else in the middle of one."""

import re

_SENTENCE = r"[.!?\u2026][\"'\u201d\u2019)\]]*\s+|[\u3002\uff01\uff1f]"
_ENDS = tuple(map(re.compile, (r"\n\s*\n", r"\n", _SENTENCE, r"\s+")))


def split(text: str, limit: int) -> list[str]:
    """Parts of at most ``limit`` characters, without the white space at the cuts. An empty text has none."""
    parts, rest = list[str](), text.strip()
    while len(rest) > limit:
        at = _cut(rest, limit)
        parts.append(rest[:at].rstrip())
        rest = rest[at:].lstrip()
    return [*parts, rest] if rest else parts


def _cut(text: str, limit: int) -> int:
    """Behind the last end of the best kind in the second half of what fits."""
    window = text[: limit + 1]
    for end in _ENDS:
        places = [match.end() for match in end.finditer(window) if len(text[: match.end()].rstrip()) <= limit]
        if places and places[-1] > limit // 2:
            return places[-1]
    return limit
