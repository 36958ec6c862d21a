"""Search by words: FTS5 with BM25, asked in words and never in its own query language.

Chinese, Japanese and Korean are written without spaces, so every character is indexed as a word, and asked for in pairs of neighbours.
"""

# ruff: noqa: S608 - what is put into these statements are constants, conditions of filters.py and question marks
import itertools
import re
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence

from app.services.rag.knowledge import Filter, Hit
from app.services.rag.sqlite import filters, rows

MAX_WORDS = 1000
"""Of a longer query only so many different words are looked for: a page of text, and what a search can take in a fraction of a second."""
_CJK = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_CJK_CHARACTER = re.compile(f"[{_CJK}]")
_RUN = re.compile(f"[{_CJK}]+|[^{_CJK}]+")


def searchable(text: str) -> str:
    """A text as it is indexed. What this gives for a text must not change: deleting takes the same words out of the index again."""
    return _CJK_CHARACTER.sub(r" \g<0> ", text.encode("utf-8", "replace").decode().replace("\0", " "))


def expression(query: str) -> str:
    """The FTS5 expression for any word of the query; "" where it has none."""
    found = dict.fromkeys(word for piece in _words(query) for word in _terms(piece))
    return " OR ".join(f'"{word}"' for word in list(found)[:MAX_WORDS])


def find(connection: sqlite3.Connection, query: str, where: Filter, limit: int) -> Sequence[Hit]:
    """Within a transaction."""
    asked = expression(query)
    if not asked or limit < 1:
        return []
    best = [(key, -rank) for key, rank in connection.execute(*_statement(asked, where, limit))]
    found = list(hits(connection, best))
    return sorted(found, key=lambda hit: (-hit.score, hit.document_id, hit.chunk))


def hits(connection: sqlite3.Connection, scored: Sequence[tuple[int, float]]) -> Iterator[Hit]:
    """The chunks with these keys, each with its score."""
    for key, score in scored:
        number, text, document_id, metadata = connection.execute(
            "SELECT c.number, c.text, d.id, d.metadata FROM chunks c JOIN documents d ON d.key = c.document WHERE c.key = ?", (key,)
        ).fetchone()
        yield Hit(rows.text(document_id), number, rows.text(text), score, rows.mapping(metadata))


def add(connection: sqlite3.Connection, key: int, text: str) -> None:
    connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (key, searchable(text)))


def remove(connection: sqlite3.Connection, chunks: Sequence[tuple[int, bytes]]) -> None:
    """Take chunks (key, text) out of the index."""
    gone = ((key, searchable(rows.text(text))) for key, text in chunks)
    connection.executemany("INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)", gone)


def remove_all(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO words (words) VALUES ('delete-all')")


def _statement(asked: str, where: Filter, limit: int) -> tuple[str, list[object]]:
    if not where:
        return "SELECT rowid, rank FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?", [asked, limit]
    held, values = filters.condition(where, "c.document")
    statement = (
        "SELECT words.rowid, words.rank FROM words CROSS JOIN chunks c ON c.key = words.rowid"
        f" WHERE words MATCH ? AND {held} ORDER BY words.rank LIMIT ?"
    )
    return statement, [asked, *values, limit]


def _words(query: str) -> Iterator[str]:
    """What stands between blanks, punctuation, symbols and control characters; marks belong to the letters before them."""
    yield from "".join(" " if _separates(letter) else letter for letter in query).split()


def _separates(letter: str) -> bool:
    category = unicodedata.category(letter)
    return category[0] in "PSZC" and category != "Co"


def _terms(piece: str) -> Iterator[str]:
    for run in _RUN.findall(piece):
        if not _CJK_CHARACTER.match(run) or len(run) == 1:
            yield run
        else:
            yield from (f"{one} {other}" for one, other in itertools.pairwise(run))
