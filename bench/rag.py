"""`python -m bench.rag [--quick]`: measure the embedded store of rag next to plain FTS5 and to brute force in NumPy, print the table, and
write it to bench/README.md; --quick only shows that everything runs."""

import argparse
import asyncio
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.services.rag.fusion import fuse
from app.services.rag.knowledge import Chunk, Collection, Condition, Cut, Document, Embedding, Filter, Hit, Name
from app.services.rag.sqlite import SqliteStore
from bench import report

SIZES, QUICK = (1_000, 10_000, 100_000), (1_000, 2_000)
DIMENSION = 384
WORDS, CHUNK_WORDS, CHUNKS, BATCH = 20_000, 100, 5, 20
"""Different words; words in a chunk; chunks in a document; documents in a transaction."""
TOP, DEPTH = 10, 50
"""Results of a query, and of each of the two searches whose ranks a hybrid one fuses."""
QUERIES = 200
TENTH: Filter = (Condition("tenth", "eq", (3,)),)
OF, MODEL = Name("bench"), "bench/random"
Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Corpus:
    """So many chunks, always the same. Words are as unequally frequent as in a language, vectors lie in clusters."""

    chunks: int
    words: list[str]
    ranks: NDArray[np.int64]
    vectors: Matrix

    def text(self, chunk: int) -> str:
        return " ".join(self.words[rank] for rank in self.ranks[chunk])

    def document(self, number: int) -> Cut:
        own = range(number * CHUNKS, (number + 1) * CHUNKS)
        chunks = [Chunk(self.text(chunk), self.vectors[chunk].tolist()) for chunk in own]
        return Cut(Document(f"d{number:06}", "\n".join(chunk.text for chunk in chunks), {"tenth": number % 10}), chunks)


def corpus(chunks: int) -> Corpus:
    draw, letters = np.random.default_rng(7), random.Random(7)
    words = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=letters.randint(3, 11))) for _ in range(WORDS)]
    weights = 1 / (np.arange(WORDS) + 5.0)
    ranks = draw.choice(WORDS, (chunks, CHUNK_WORDS), p=weights / weights.sum())
    centres = draw.normal(size=(100, DIMENSION))
    vectors = (centres[draw.integers(0, 100, chunks)] + draw.normal(size=(chunks, DIMENSION))).astype(np.float32)
    return Corpus(chunks, words, ranks, vectors)


@dataclass(frozen=True, slots=True)
class Query:
    text: str
    vector: list[float]


def queries(of: Corpus, count: int) -> list[Query]:
    """Three words each, neither among the most frequent nor among the rarest, and a vector near some chunk."""
    draw, near = random.Random(11), np.random.default_rng(11)
    return [
        Query(
            " ".join(of.words[draw.randrange(50, 5_000)] for _ in range(3)),
            (of.vectors[draw.randrange(of.chunks)] + near.normal(size=DIMENSION)).tolist(),
        )
        for _ in range(count)
    ]


class PlainWords:
    """FTS5 as it is: one table, in this thread."""

    def __init__(self, path: Path) -> None:
        self._sql = sqlite3.connect(path, isolation_level=None)
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA synchronous = FULL")
        self._sql.execute("CREATE TABLE chunks (key INTEGER PRIMARY KEY, tenth INTEGER)")
        self._sql.execute("CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = 'unicode61 remove_diacritics 2')")

    def put(self, cuts: Sequence[Cut]) -> None:
        self._sql.execute("BEGIN IMMEDIATE")
        for cut in cuts:
            for chunk in cut.chunks:
                key = self._sql.execute("INSERT INTO words (text) VALUES (?)", (chunk.text,)).lastrowid
                self._sql.execute("INSERT INTO chunks VALUES (?, ?)", (key, cut.document.metadata["tenth"]))
        self._sql.execute("COMMIT")

    def find(self, query: str, filtered: bool) -> list[tuple[str, float]]:
        asked = " OR ".join(f'"{word}"' for word in query.split())
        if not filtered:
            found = self._sql.execute("SELECT text, rank FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?", (asked, TOP))
        else:
            found = self._sql.execute(
                "SELECT text, rank FROM words JOIN chunks ON key = words.rowid WHERE words MATCH ? AND tenth = 3 ORDER BY rank LIMIT ?",
                (asked, TOP),
            )
        return found.fetchall()

    def close(self) -> None:
        self._sql.close()


class BruteForce:
    """All vectors in one matrix in memory, which a process has to have read first."""

    def __init__(self, of: Corpus) -> None:
        self._rows = of.vectors / np.linalg.norm(of.vectors, axis=1, keepdims=True)
        self._tenth = np.flatnonzero((np.arange(of.chunks) // CHUNKS) % 10 == 3)

    def find(self, vector: list[float], filtered: bool) -> list[int]:
        query = np.array(vector, np.float32)
        scores = (self._rows[self._tenth] if filtered else self._rows) @ (query / np.linalg.norm(query))
        best = np.argpartition(scores, -TOP)[-TOP:]
        best = best[np.argsort(-scores[best])]
        return [int(place) for place in (self._tenth[best] if filtered else best)]


@dataclass(slots=True)
class Times:
    """Of one way to search, in milliseconds."""

    taken: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        return statistics.median(self.taken)

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.taken, n=100, method="inclusive")[98]


async def ingest(store: SqliteStore, plain: PlainWords, of: Corpus) -> tuple[float, float]:
    """Documents per second of ours and of plain FTS5, which take the same batches in turn."""
    await store.create(Collection(OF, embedding=Embedding(MODEL)))
    ours = rival = 0.0
    count = of.chunks // CHUNKS
    for start in range(0, count, BATCH):
        cuts = [of.document(number) for number in range(start, min(start + BATCH, count))]
        began = time.perf_counter()
        await store.put(OF, cuts, MODEL)
        middle = time.perf_counter()
        plain.put(cuts)
        ours, rival = ours + middle - began, rival + time.perf_counter() - middle
    return count / ours, count / rival


async def search(store: SqliteStore, plain: PlainWords, of: Corpus, count: int) -> dict[tuple[str, bool], Times]:
    """Every way in turn, query by query, each time in the opposite order; the first ones only warm up."""
    force = BruteForce(of)

    async def words(query: Query, where: Filter) -> object:
        return await store.by_words(OF, query.text, where, TOP)

    async def vectors(query: Query, where: Filter) -> object:
        return await store.by_vector(OF, query.vector, where, TOP)

    async def hybrid(query: Query, where: Filter) -> Sequence[Hit]:
        found = await asyncio.gather(store.by_words(OF, query.text, where, DEPTH), store.by_vector(OF, query.vector, where, DEPTH))
        return fuse(found)[:TOP]

    async def fts5(query: Query, where: Filter) -> object:
        return plain.find(query.text, bool(where))

    async def numpy(query: Query, where: Filter) -> object:
        return force.find(query.vector, bool(where))

    ways: dict[str, Callable[[Query, Filter], Awaitable[object]]] = {
        "words": words,
        "vectors": vectors,
        "hybrid": hybrid,
        "FTS5": fts5,
        "NumPy": numpy,
    }
    times = {(name, filtered): Times() for name in ways for filtered in (False, True)}
    for number, query in enumerate(queries(of, count + 3)):
        for name, filtered in list(times)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            await ways[name](query, TENTH if filtered else ())
            if number >= 3:
                times[name, filtered].taken.append((time.perf_counter() - began) * 1000)
    return times


async def measure(chunks: int, count: int) -> tuple[list[str], list[list[str]], str]:
    """A row on ingestion, the rows on queries, and what searched the vectors."""
    of = corpus(chunks)
    with tempfile.TemporaryDirectory(prefix="bench-rag-") as folder:
        store, plain = SqliteStore(Path(folder, "rag"), "0" * 12), PlainWords(Path(folder, "plain.sqlite"))
        try:
            async with store.open():
                ours, rival = await ingest(store, plain, of)
                times = await search(store, plain, of, count)
                searcher = store.vectors
        finally:
            plain.close()
    rows = [query_row(chunks, times, name, rival_name, filtered) for filtered in (False, True) for name, rival_name in RIVALS.items()]
    return [f"{chunks:,}", f"{ours:.0f}", f"{rival:.0f}", f"{ours / rival:.2f}"], rows, searcher


RIVALS = {"words": "FTS5", "vectors": "NumPy", "hybrid": ""}


def query_row(chunks: int, times: dict[tuple[str, bool], Times], name: str, rival_name: str, filtered: bool) -> list[str]:
    ours = times[name, filtered]
    told = [f"{chunks:,}", name + (", filtered" if filtered else ""), f"{ours.p50:.2f}", f"{ours.p99:.2f}"]
    if not rival_name:
        return [*told, "", "", "", ""]
    rival = times[rival_name, filtered]
    return [*told, rival_name, f"{rival.p50:.2f}", f"{rival.p99:.2f}", f"{ours.p50 / rival.p50:.2f}"]


async def tables(sizes: Sequence[int], count: int) -> str:
    measured = [await measure(chunks, count) for chunks in sizes]
    ingested = report.table(("chunks", "documents/s", "plain FTS5, words alone", "ratio"), [row for row, _, _ in measured])
    heads = ("chunks", "query", "p50 ms", "p99 ms", "rival", "p50 ms", "p99 ms", "ratio of p50")
    asked = report.table(heads, [row for _, rows, _ in measured for row in rows])
    return f"SQLite {sqlite3.sqlite_version}; vectors by {measured[0][2]}.\n\n{ingested}\n\n{asked}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.rag", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small collections, few queries, and leave bench/README.md as it is")
    asked = parser.parse_args()
    began = time.perf_counter()
    text = asyncio.run(tables(QUICK if asked.quick else SIZES, 20 if asked.quick else QUERIES))
    text = f"{report.circumstances(time.perf_counter() - began)} {text}"
    print(text)
    if not asked.quick:
        report.write(text, "make bench-rag")


if __name__ == "__main__":
    main()
