"""Search by words, by BM25. PostgreSQL's own parsers know single languages, and split addresses and file names in ways of their own; so
words are found here, alike for all languages, and PostgreSQL keeps them in its inverted index.

A word is a run of letters, digits and marks, in one case and without the accents of European scripts. Chinese, Japanese and Korean are
written without spaces: every character is a word, and so is every pair of neighbours.
"""

import hashlib
import itertools
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

from app.errors import InvalidBody
from app.postgres import Connection
from app.services.rag.knowledge import Filter, Hit
from app.services.rag.postgres import filters, rows
from app.services.rag.postgres.filters import Parameters

MAX_WORDS = 1000
"""Of a longer query only so many different words are looked for: a page of text, and what a search can take in a fraction of a second."""
_MAX_WORD = 200
_MAX_TIMES = 16
"""How often a word stands in a chunk is counted up to here: BM25 gives for more hardly more."""
_POSITIONS = ("", "", *(":" + ",".join(map(str, range(1, times + 1))) for times in range(2, _MAX_TIMES + 1)))
_MAX_VECTOR = 1_000_000
_CJK = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_RUN = re.compile(f"([{_CJK}]+)|[^{_CJK}]+")
_ACCENTS = re.compile("[\u0300-\u036f]+")

# The rank of one word that stands n times is 6/pi² · (1 + 1/4 + 1/9 + … + 1/n²), from which n is got back: what is missing to the whole
# sum is 1/(n + 1/2), nearly. Then BM25 with the usual 1.2 and 0.75.
_FIND = """
WITH found AS (
    SELECT holding.* FROM unnest($1::text[]) AS asked (word) CROSS JOIN LATERAL (
        SELECT key, document, length, count(*) OVER () AS holders,
            round(1 / (1.64493406685 * (1 - ts_rank('{{1,1,1,1}}', words, asked.word::tsquery))) - 0.5) AS times
        FROM astromesh_rag_chunks WHERE words @@ asked.word::tsquery
    ) AS holding
),
best AS (
    SELECT key, round(1e9 * sum(
        ln(1 + ($2::float8 - holders + 0.5) / (holders + 0.5)) * 2.2 * times / (times + 1.2 * (0.25 + 0.75 * length / $3::float8))
    )) / 1e9 AS score
    FROM found WHERE {held} GROUP BY key ORDER BY score DESC FETCH FIRST ({limit}) ROWS WITH TIES
)
SELECT d.id, c.number, c.text, best.score, d.metadata
FROM best JOIN astromesh_rag_chunks c ON c.key = best.key JOIN astromesh_rag_documents d ON d.key = c.document
ORDER BY best.score DESC, d.id, c.number LIMIT {limit}
"""


def vector(collection: int, text: str, of: str) -> tuple[str, int]:
    """The words of a text as a tsvector in which only the number of positions counts, and how many words there are. A word carries the
    key of its collection, so that a search meets only that one's. Raises InvalidBody."""
    counted = Counter(word for piece in _pieces(text) for word in _indexed(piece))
    entries = [f"'{collection}/{word}'{_POSITIONS[min(times, _MAX_TIMES)]}" for word, times in counted.items()]
    written = " ".join(entries)
    if len(written.encode()) > _MAX_VECTOR:
        raise InvalidBody(f"{of} holds more different words than PostgreSQL takes for one; cut the document into smaller chunks.")
    return written, counted.total()


async def find(connection: Connection, there: rows.Kept, query: str, where: Filter, limit: int) -> Sequence[Hit]:
    asked = [f"'{there.key}/{word}'" for word in _asked(query)]
    if not asked or limit < 1 or not there.collection.chunks:
        return []
    chunks = there.collection.chunks
    parameters = Parameters([asked, float(chunks), max(there.words, 1) / chunks])
    held = filters.condition(where, "document", there.key, parameters)
    statement = _FIND.format(held=held, limit=parameters.add(limit, "bigint"))
    return [hit(row) for row in await connection.fetch(statement, *parameters)]


def hit(row: Sequence[object]) -> Hit:
    """A row of document id, chunk, text, score and metadata."""
    document_id, number, text, score, metadata = row
    assert isinstance(document_id, bytes) and isinstance(text, bytes) and isinstance(metadata, bytes)  # noqa: PT018
    assert isinstance(number, int) and isinstance(score, float)  # noqa: PT018
    return Hit(rows.text(document_id), number, rows.text(text), score, rows.mapping(metadata))


def _asked(query: str) -> Sequence[str]:
    return list(dict.fromkeys(word for piece in _pieces(query) for word in _terms(piece)))[:MAX_WORDS]


def _pieces(text: str) -> Iterator[str]:
    """What stands between blanks, punctuation, symbols and control characters, in one case and without accents."""
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text).casefold())
    return (piece[0] for piece in _word().finditer(unicodedata.normalize("NFKC", plain)))


def _indexed(piece: str) -> Iterator[str]:
    for run in _RUN.finditer(piece):
        if run[1]:
            yield from run[1]
            yield from map("".join, itertools.pairwise(run[1]))
        else:
            yield _bounded(run[0])


def _terms(piece: str) -> Iterator[str]:
    for run in _RUN.finditer(piece):
        if run[1] and len(run[1]) > 1:
            yield from map("".join, itertools.pairwise(run[1]))
        else:
            yield _bounded(run[0])


def _bounded(word: str) -> str:
    """A word that an index takes: of one that is too long, its digest."""
    return word if len(word) <= _MAX_WORD else hashlib.sha256(word.encode()).hexdigest()


@cache
def _word() -> re.Pattern[str]:
    marks = "".join(character for character in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(character)[0] == "M")
    return re.compile(rf"(?:[^\W_]|[{marks}])+")
