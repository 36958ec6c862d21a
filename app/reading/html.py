"""The text of an HTML page as Markdown: headings, lists, tables and code keep their shape; what is not shown is left out."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bs4 import BeautifulSoup, Tag
from bs4.element import NavigableString, PreformattedString

from app.reading import Unreadable

_DROPPED = frozenset(
    (
        *("title", "script", "style", "noscript", "template", "nav", "svg", "iframe", "object", "embed", "audio", "video", "canvas", "map"),
        *("button", "select", "datalist", "textarea", "progress", "meter"),
    )
)
_BLOCKS = frozenset(
    (
        *(
            "address",
            "article",
            "aside",
            "blockquote",
            "body",
            "caption",
            "center",
            "dd",
            "details",
            "dialog",
            "div",
            "dl",
            "dt",
            "fieldset",
        ),
        *("figcaption", "figure", "footer", "form", "header", "hgroup", "hr", "html", "legend", "main", "p", "section", "summary", "table"),
    )
)
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_LISTS = ("ul", "ol", "menu", "dir")
_CELLS = ("td", "th")
_HIDDEN = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_MOST_INDENTED = 8


def read(data: bytes, charset: str | None = None) -> tuple[str, Mapping[str, Any]]:
    """The text, and ``title`` where the page has one. The charset is that of the Content-Type, where it names one."""
    soup = BeautifulSoup(data, "html.parser", from_encoding=charset)
    text = _Page().read(soup)
    if not text:
        raise Unreadable("has no text; what scripts would show is not there for a reader")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    return text, {"title": title} if title else {}


class _Page:
    """Walks a page without recursion, since pages may be nested as deep as they are long."""

    def __init__(self) -> None:
        self._blocks = list[tuple[str, bool]]()  # each block, and whether it goes on right below the one before
        self._inline = list[str]()
        self._prefix, self._tight = "", False
        self._lists = list[tuple[str, int]]()  # the tag and the items so far of each list that is open
        self._row: list[str] | None = None
        self._rows = 0

    def read(self, root: Tag) -> str:
        waiting: list[tuple[Tag, Iterator[Any]]] = [(root, iter(root.contents))]
        while waiting:
            tag, children = waiting[-1]
            child = next(children, None)
            if child is None:
                waiting.pop()
                self._leave(tag)
            elif isinstance(child, NavigableString):
                if not isinstance(child, PreformattedString):
                    self._inline.append(_SPACE.sub(" ", child))
            elif isinstance(child, Tag) and not _hidden(child) and self._enter(child):
                waiting.append((child, iter(child.contents)))
        self._flush()
        return "".join(("\n" if tight else "\n\n") + block for block, tight in self._blocks).strip()

    def _enter(self, tag: Tag) -> bool:
        """Whether to go on inside of it."""
        name = tag.name
        if name == "br":
            self._inline.append("\n" if self._row is None else " ")
        elif name == "img":
            self._inline.append(f" {tag.get('alt') or ''} ")
        elif name == "pre" and self._row is None:
            self._code(tag)
            return False
        elif name == "tr":
            self._end_row()
            self._flush()
            self._row = []
        elif name in _CELLS and self._row is not None:
            self._end_cell()
        elif self._row is None:
            self._begin(tag)
        elif name in _BLOCKS or name in _HEADINGS or name in _LISTS or name == "li":
            self._inline.append(" ")
        return True

    def _begin(self, tag: Tag) -> None:
        """A block outside of tables."""
        name = tag.name
        if name in _HEADINGS:
            self._flush()
            self._prefix = _HEADINGS[name]
        elif name in _LISTS:
            self._flush()
            self._lists.append((name, 0))
        elif name == "li":
            self._flush()
            self._prefix, self._tight = self._item()
        elif name in _BLOCKS:
            self._flush(keep_prefix=True)
            self._rows = 0 if name == "table" else self._rows

    def _leave(self, tag: Tag) -> None:
        name = tag.name
        if name in _CELLS and self._row is not None:
            # A cell that was left open holds the next one.
            self._end_cell(empty=not any(isinstance(child, Tag) and child.name in _CELLS for child in tag.contents))
        elif name == "tr":
            self._end_row()
        elif self._row is None and (name in _BLOCKS or name in _HEADINGS or name in _LISTS or name == "li"):
            self._flush()
            if name in _LISTS and self._lists:
                self._lists.pop()

    def _end_cell(self, *, empty: bool = False) -> None:
        """What has gathered is a cell, also where its tag was left open; with ``empty``, nothing is one too."""
        text = " ".join("".join(self._inline).split()).replace("|", "\\|")
        self._inline.clear()
        if self._row is not None and (text or empty):
            self._row.append(text)

    def _end_row(self) -> None:
        if self._row is None:
            return
        self._end_cell()
        row, self._row = self._row, None
        if any(row):
            self._blocks.append((f"| {' | '.join(row)} |", self._rows > 0))
            if self._rows == 0:
                self._blocks.append(("|" + " --- |" * len(row), True))
            self._rows += 1

    def _item(self) -> tuple[str, bool]:
        """The mark of the next item, and whether it goes right below the block before."""
        name, items = self._lists.pop() if self._lists else ("ul", 0)
        self._lists.append((name, items + 1))
        mark = f"{items + 1}. " if name == "ol" else "- "
        return "  " * (min(len(self._lists), _MOST_INDENTED) - 1) + mark, items > 0 or len(self._lists) > 1

    def _code(self, tag: Tag) -> None:
        self._flush()
        code = tag.get_text().strip("\n")
        if code.strip():
            self._blocks.append((f"```\n{code}\n```", False))

    def _flush(self, *, keep_prefix: bool = False) -> None:
        """End a block. The mark of a heading or an item stays until there is something to put it before, where a block begins inside."""
        lines = [" ".join(line.split()) for line in "".join(self._inline).split("\n")]
        self._inline.clear()
        if text := (" " if self._prefix.startswith("#") else "\n").join(filter(None, lines)):
            self._blocks.append((self._prefix + text, self._tight))
        if text or not keep_prefix:
            self._prefix, self._tight = "", False


def _hidden(tag: Tag) -> bool:
    if tag.name in _DROPPED or tag.has_attr("hidden") or tag.get("aria-hidden") == "true":
        return True
    style = tag.get("style")
    return isinstance(style, str) and _HIDDEN.search(style) is not None
