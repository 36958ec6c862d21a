"""`python -m bench.quality [--docs FOLDER] [--quick]`: take Python's documentation into a real node, ask it the questions of the FAQ
and the entries of the index by words, by vectors and hybrid, print how much is found, and write that to bench/README.md; --quick takes the
FAQ alone and writes nothing."""

import argparse
import http.client
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rank_bm25 import BM25Okapi

from bench import programs, report
from bench.collection import FAQ, DocumentedPython, documented_python
from bench.figures import TOP, interval, recall, reciprocal
from bench.minilm import NAME, MiniLM
from bench.process import Running, running

BATCH = 10
"""Documents in one request to take them in."""
ANSWER_S = 600
ENTRIES = 400
MODELS = {"all-MiniLM-L6-v2": f"openai/{NAME}", "builtin": "builtin"}
"""What the tables call an embedding model, and its name at the node."""
Search = Callable[[str], Sequence[str]]
"""The documents of the ten results, best first: one as often as there are chunks of it."""


Queries = Mapping[str, frozenset[str]]
"""Of each the documents that are right."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """Of one way to search, for each query: what is found of the right documents, and 1 / the rank of the first."""

    recalls: Sequence[float]
    reciprocals: Sequence[float]


def ranked(search: Search, queries: Queries) -> Ranked:
    found = [(search(query), right) for query, right in queries.items()]
    return Ranked([recall(*each) for each in found], [reciprocal(*each) for each in found])


def drawn(queries: Queries, most: int) -> Queries:
    """So many of them, always the same."""
    return {query: queries[query] for query in random.Random(5).sample(sorted(queries), min(most, len(queries)))}


class Node:
    """What is asked of the node over HTTP."""

    def __init__(self, process: Running) -> None:
        self._port = process.program.port

    def create(self, collection: str, model: str) -> None:
        self._ask("POST", "/v1/rag/collections", {"name": collection, "embedding_model": model})

    def ingest(self, collection: str, documents: Sequence[Mapping[str, str]]) -> int:
        """How many chunks they became."""
        chunks = 0
        for start in range(0, len(documents), BATCH):
            body = {"collection": collection, "documents": documents[start : start + BATCH], "wait": True}
            chunks += self._ask("POST", "/v1/rag/ingest", body)["chunks"]
            print(f"\r{collection}: {min(start + BATCH, len(documents))} of {len(documents)}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        return chunks

    def query(self, collection: str, mode: str, query: str, top: int = TOP) -> list[dict[str, Any]]:
        body = {"collection": collection, "query": query, "mode": mode, "top_k": top}
        answer = self._ask("POST", "/v1/rag/query", body)
        if answer["mode"] != mode or answer.get("note"):
            raise RuntimeError(f"asked for {mode}, searched by {answer['mode']}: {answer.get('note')}")
        results: list[dict[str, Any]] = answer["results"]
        return results

    def search(self, collection: str, mode: str) -> Search:
        return lambda question: [result["document_id"] for result in self.query(collection, mode, question)]

    def _ask(self, method: str, path: str, body: object) -> Any:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)) as connection:
            connection.request(method, path, json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            told = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {told.decode()[:500]}")
        return json.loads(told)


def okapi(of: DocumentedPython) -> Search:
    """BM25 by a library that has nothing of ours, over whole sections."""
    ids = [section.id for section in of.sections]
    index = BM25Okapi([words(section.text) for section in of.sections])

    def search(question: str) -> Sequence[str]:
        scores = index.get_scores(words(question))
        return [ids[place] for place in sorted(range(len(ids)), key=lambda place: -scores[place])[:TOP]]

    return search


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def measure(of: DocumentedPython, asked: Sequence[Queries], folder: Path) -> tuple[dict[str, list[Ranked]], int]:
    """Of each way the ranks for each set of queries, and how many chunks there were."""
    with running(programs.embedding()) as embedding, running(programs.knowledge(folder, embedding.program.url)) as process:
        node, chunks = Node(process), 0
        searches: dict[str, Search] = {}
        for name, model in MODELS.items():
            collection = name.lower()
            node.create(collection, model)
            chunks = node.ingest(collection, [{"id": section.id, "text": section.text} for section in of.sections])
            if not searches:
                searches["words"] = node.search(collection, "words")
            searches |= {f"{mode}, {name}": node.search(collection, mode) for mode in ("vectors", "hybrid")}
        searches["rank-bm25, whole sections"] = okapi(of)
        return {name: [ranked(search, queries) for queries in asked] for name, search in searches.items()}, chunks


def table(found: Mapping[str, Ranked]) -> str:
    heads = ("search", f"recall@{TOP}", f"MRR@{TOP}", f"recall@{TOP} less that of words (95 %)")
    words_found = found["words"].recalls
    rows = []
    for name, each in found.items():
        differences = [ours - theirs for ours, theirs in zip(each.recalls, words_found, strict=True)]
        low, high = interval(differences)
        against = f"{statistics.fmean(differences):+.3f} ({low:+.3f} to {high:+.3f})" if name != "words" else ""
        rows.append((name, f"{statistics.fmean(each.recalls):.3f}", f"{statistics.fmean(each.reciprocals):.3f}", against))
    return report.table(heads, rows)


def documentation() -> Path:
    """Where Debian's packages put it."""
    return next(iter(sorted(Path("/usr/share/doc").glob("python3.*/html"), reverse=True)), Path("/usr/share/doc/python3/html"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--docs", type=Path, default=documentation(), help="Python's documentation as HTML (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="the FAQ alone, and leave bench/README.md as it is")
    asked = parser.parse_args()
    try:
        of = documented_python(asked.docs, (FAQ,)) if asked.quick else documented_python(asked.docs)
    except FileNotFoundError as error:
        parser.error(f"{error}; `apt-get install python3-doc` brings it, or name the folder by --docs")
    MiniLM().prove()
    began = time.perf_counter()
    sets = {"questions of the FAQ": of.questions, "entries of the index": drawn(of.entries, ENTRIES)}
    with tempfile.TemporaryDirectory(prefix="bench-quality-") as folder:
        found, chunks = measure(of, list(sets.values()), Path(folder))
    counts = f"Python {of.version}: {len(of.sections):,} documents in {chunks:,} chunks."
    text = f"{report.circumstances(time.perf_counter() - began)} {counts}"
    for number, (name, queries) in enumerate(sets.items()):
        text += f"\n\n{len(queries)} {name}:\n\n{table({way: ranks[number] for way, ranks in found.items()})}"
    print(text)
    if not asked.quick:
        report.write(text, "make bench-quality")


if __name__ == "__main__":
    main()
