"""The text of a PDF, page by page. What is encrypted, or has pictures of text alone, is refused with what to do about it."""

import io
from collections.abc import Mapping
from typing import Any

from pypdf import PdfReader
from pypdf.errors import DependencyError, FileNotDecryptedError, LimitReachedError

from app.reading import Unreadable

_ENCRYPTED = "is encrypted; save it without a password (`qpdf --decrypt in.pdf out.pdf`)"


def read(data: bytes, _charset: str | None = None) -> tuple[str, Mapping[str, Any]]:
    """The text, pages parted by empty lines; and ``pages``, ``title`` and ``author`` where the file names them."""
    try:
        reader = PdfReader(io.BytesIO(data))
        pages = [_text(number, page) for number, page in enumerate(reader.pages, 1)]
    except (DependencyError, FileNotDecryptedError):
        raise Unreadable(_ENCRYPTED) from None
    text = "\n\n".join(filter(None, pages))
    if not text:
        seen = f"no text in its {len(pages)} pages, only pictures perhaps" if pages else "no pages"
        raise Unreadable(f"has {seen}; have its text recognised first (`ocrmypdf in.pdf out.pdf`)")
    return text, {"pages": len(pages), **_named(reader)}


def _text(number: int, page: Any) -> str:
    try:
        text: str = page.extract_text()
    except LimitReachedError as error:
        raise Unreadable(f"unpacks to more than a document should (page {number}: {error}); save it anew") from None
    return text.strip()


def _named(reader: PdfReader) -> Mapping[str, str]:
    found = reader.metadata
    named = {"title": found.title, "author": found.author} if found else {}
    return {key: value.strip() for key, value in named.items() if isinstance(value, str) and value.strip()}
