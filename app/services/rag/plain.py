"""Plain text and Markdown from bytes: the encoding is found, and the front matter of Markdown becomes metadata."""

import codecs
import re
from collections.abc import Mapping
from typing import Any

from app.config.yaml import parse
from app.errors import ConfigError, UnreadableDocument

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_TEXT_CODEC = re.compile(r"utf-(8|16|32)(-[lb]e)?|ascii|iso8859-\d+|cp\d+|koi8-\w+|mac-\w+|shift_jis\w*|euc_\w+|gb\w+|big5\w*|tis-620")
"""What a Content-Type may name. Python knows codecs that are none of texts, and some that take the square of the length."""
_SAMPLE = 4096
_FRONT = re.compile(r"---[ \t]*\n(.{0,65536}?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)


def plain(data: bytes, charset: str | None = None) -> tuple[str, Mapping[str, Any]]:
    """The text, and its ``encoding`` where that is not UTF-8. Raises UnreadableDocument for what is no text."""
    text, encoding = _decoded(data, charset)
    if "\0" in text:
        raise UnreadableDocument("is no text: it has NUL characters; send the text itself, or a PDF or HTML file as such")
    if not text.strip():
        raise UnreadableDocument("has no text; send a file that is not empty")
    return text.replace("\r\n", "\n").replace("\r", "\n"), {} if encoding == "utf-8" else {"encoding": encoding}


def markdown(data: bytes, charset: str | None = None) -> tuple[str, Mapping[str, Any]]:
    """Like ``plain``, with what its front matter says. One that is no mapping of YAML is left in the text."""
    text, metadata = plain(data, charset)
    front = _FRONT.match(text)
    said = _mapping(front[1]) if front else None
    if front is None or said is None or not text[front.end() :].strip():
        return text, metadata
    return text[front.end() :].lstrip("\n"), {**said, **metadata}


def _mapping(text: str) -> Mapping[str, Any] | None:
    try:
        document = parse(text, "front matter")
    except ConfigError:
        return None
    return None if document.problems else document.data


def _decoded(data: bytes, charset: str | None) -> tuple[str, str]:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace"), encoding
    for encoding in (*_named(charset), *_by_zeros(data), "utf-8", "cp1252"):
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1"), "latin-1"


def _named(charset: str | None) -> tuple[str, ...]:
    try:
        name = codecs.lookup(charset or "utf-8").name
    except LookupError:
        return ()
    return (name,) if _TEXT_CODEC.fullmatch(name) else ()


def _by_zeros(data: bytes) -> tuple[str, ...]:
    """UTF-16 without a mark: of most characters of most alphabets one byte is zero, always the same one."""
    even, odd = data[:_SAMPLE:2], data[1:_SAMPLE:2]
    if len(data) % 2 or not odd:
        return ()
    if odd.count(0) > 0.4 * len(odd) and not even.count(0):
        return ("utf-16-le",)
    return ("utf-16-be",) if even.count(0) > 0.4 * len(even) and not odd.count(0) else ()
