"""The stores of knowledge that the conformance suite is run over: add a factory to PLACES, and all of its laws are tested on it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.postgres import parse
from app.services.rag.postgres import PostgresStore
from app.services.rag.sqlite import SqliteStore
from app.services.rag.store import KnowledgeStore


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere to keep knowledge. ``store`` gives a new store object on it each time; ``source`` is Python that makes one in another
    process and calls it ``store``."""

    store: Callable[[], KnowledgeStore]
    source: str


def sqlite_place(folder: Path) -> Place:
    made = f"SqliteStore(Path({str(folder)!r}), '5' * 12)"
    source = f"from pathlib import Path\nfrom app.services.rag.sqlite import SqliteStore\nstore = {made}"
    return Place(lambda: SqliteStore(folder, "5" * 12), source)


@contextmanager
def sqlite(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield sqlite_place(request.getfixturevalue("tmp_path") / "rag")


@contextmanager
def postgres(request: pytest.FixtureRequest) -> Iterator[Place]:
    url: str = request.getfixturevalue("postgres_url")
    source = f"from app.postgres import parse\nfrom app.services.rag.postgres import PostgresStore\nstore = PostgresStore(parse({url!r}))"
    yield Place(lambda: PostgresStore(parse(url)), source)


Factory = Callable[[pytest.FixtureRequest], AbstractContextManager[Place]]
PLACES = [pytest.param(sqlite, id="sqlite"), pytest.param(postgres, id="postgres", marks=pytest.mark.databases)]
