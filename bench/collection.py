"""A collection with questions whose answers are known: Python's documentation. The headings of its FAQ are the
questions, and are taken out of the answers."""

import re
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

from bs4 import BeautifulSoup, Tag

from app.reading.html import read

FAQ = "faq"
PARTS = ("tutorial", "howto", "reference", "using", "extending", FAQ)
"""The folders that are prose. The reference of the library is three times as much, most of it signatures."""
_HEADING = re.compile(r"h[1-6]")


@dataclass(frozen=True, slots=True)
class Section:
    """One section without those below it. ``title`` is its heading, ``text`` Markdown that begins with the headings above and its own, but
    for a question of the FAQ."""

    id: str
    title: str
    text: str
    question: bool


@dataclass(frozen=True, slots=True)
class DocumentedPython:
    """``version`` as the pages say it."""

    version: str
    sections: Sequence[Section]

    @property
    def questions(self) -> dict[str, frozenset[str]]:
        """The ids of the sections that answer it, which are several where a question is asked on several pages."""
        found = dict[str, set[str]]()
        for section in self.sections:
            if section.question:
                found.setdefault(section.title, set()).add(section.id)
        return {question: frozenset(ids) for question, ids in found.items()}


def documented_python(folder: Path, parts: Sequence[str] = PARTS) -> DocumentedPython:
    """Raises FileNotFoundError where the folder has no such documentation."""
    paths = [path for part in parts for path in sorted((folder / part).glob("*.html"))]
    if not paths:
        raise FileNotFoundError(f"{folder} has no documentation of Python as HTML")
    said = re.search(r"Python ([\d.]+) documentation", (folder / FAQ / "index.html").read_text("utf-8"))
    return DocumentedPython(said[1] if said else "of unknown version", [section for path in paths for section in _sections(path)])


def _sections(path: Path) -> Iterator[Section]:
    page = BeautifulSoup(path.read_bytes(), "html.parser")
    asked = path.parent.name == FAQ and path.stem != "index"
    for tag in page.find_all("section", id=True):
        headings = [_heading(above) for above in reversed([tag, *tag.find_parents("section")])]
        text = _own_text(tag)
        if not text:
            continue
        shown = "" if asked else "".join(f"{'#' * level} {heading}\n\n" for level, heading in enumerate(headings, 1))
        yield Section(f"{path.parent.name}/{path.stem}#{tag['id']}", headings[-1], shown + text, asked)


def _heading(section: Tag) -> str:
    found = section.find(_HEADING, recursive=False)
    return " ".join(found.get_text().removesuffix("¶").split()) if found else ""


def _own_text(section: Tag) -> str:
    """What stands in the section, as the node reads HTML, without its heading, its table of contents and the sections below it."""
    own = copy(section)
    for inner in own.find_all(["section", "nav", _HEADING]) + own.find_all("a", class_="headerlink"):
        inner.extract()
    if not own.get_text(strip=True):
        return ""
    text, _ = read(f"<html><body>{own}</body></html>".encode(), "utf-8")
    return text.strip()
