"""A collection with queries whose answers are known: Python's documentation. The headings of its FAQ are questions, and are taken out of
the answers; the entries of its index are keywords, and point at sections."""

import re
from collections.abc import Iterator, Mapping, Sequence
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
    for a question of the FAQ. ``anchors`` are what links may point at in it."""

    id: str
    title: str
    text: str
    question: bool
    anchors: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DocumentedPython:
    """``version`` as the pages say it."""

    version: str
    sections: Sequence[Section]
    entries: Mapping[str, frozenset[str]]
    """The ids of the sections that an entry of the index points at."""

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
    sections = [section for path in paths for section in _sections(path)]
    said = re.search(r"Python ([\d.]+) documentation", (folder / FAQ / "index.html").read_text("utf-8"))
    return DocumentedPython(said[1] if said else "of unknown version", sections, _entries(folder, sections))


def _sections(path: Path) -> Iterator[Section]:
    page = BeautifulSoup(path.read_bytes(), "html.parser")
    asked = path.parent.name == FAQ and path.stem != "index"
    for tag in page.find_all("section", id=True):
        headings = [_heading(above) for above in reversed([tag, *tag.find_parents("section")])]
        own = _own(tag)
        text = _text(own)
        if not text:
            continue
        shown = "" if asked else "".join(f"{'#' * level} {heading}\n\n" for level, heading in enumerate(headings, 1))
        anchors = frozenset(str(each["id"]) for each in (own, *own.find_all(id=True)))
        yield Section(f"{path.parent.name}/{path.stem}#{tag['id']}", headings[-1], shown + text, asked, anchors)


def _heading(section: Tag) -> str:
    found = section.find(_HEADING, recursive=False)
    return " ".join(found.get_text().removesuffix("¶").split()) if found else ""


def _own(section: Tag) -> Tag:
    """The section without its heading, its table of contents and the sections below it."""
    own = copy(section)
    for inner in own.find_all(["section", "nav", _HEADING]) + own.find_all("a", class_="headerlink"):
        inner.extract()
    return own


def _text(own: Tag) -> str:
    """As the node reads HTML; "" for none."""
    if not own.get_text(strip=True):
        return ""
    text, _ = read(f"<html><body>{own}</body></html>".encode(), "utf-8")
    return text.strip()


def _entries(folder: Path, sections: Sequence[Section]) -> Mapping[str, frozenset[str]]:
    places = {(section.id.partition("#")[0], anchor): section.id for section in sections for anchor in section.anchors}
    found = dict[str, set[str]]()
    for path in sorted(folder.glob("genindex-?.html")):
        for link in BeautifulSoup(path.read_bytes(), "html.parser").select("table.indextable a"):
            page, _, anchor = str(link.get("href", "")).partition(".html#")
            if place := places.get((page, anchor)):
                found.setdefault(_entry(link), set()).add(place)
    return {entry: frozenset(ids) for entry, ids in found.items()}


def _entry(link: Tag) -> str:
    """The words of an entry's line, after those of the lines that it is indented below. Its further links are but numbers."""
    lines = [line.find(string=re.compile(r"\S")) for line in link.find_parents("li")]
    return " ".join(" ".join(str(line).split()) for line in reversed(lines))
