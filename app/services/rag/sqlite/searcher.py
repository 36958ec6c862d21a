"""Which of the two searches vectors here, found by trying it; where neither can, words alone are searched and that is said."""

import importlib.metadata
import importlib.util
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import StoreUnavailable
from app.services.rag import embedding
from app.services.rag.knowledge import Filter, Hit, Name, Vector
from app.services.rag.sqlite import extension, vectors
from app.services.rag.sqlite.file import transaction

if TYPE_CHECKING:
    from app.services.rag.sqlite.matrix import Matrices

_REMEDY = "install numpy into the Python of the node, or search with the mode words"


class Searcher:
    """``name`` is what searches and its version; where nothing can, it is "" and ``reason`` says why. NumPy is imported with the first
    search."""

    def __init__(self) -> None:
        self.name, self.reason = "", ""
        self._lock = threading.Lock()
        self._matrices: Matrices | None = None

    def find(self) -> None:
        """Try what there is."""
        try:
            with closing(sqlite3.connect(":memory:")) as trial:
                self.name = f"sqlite-vec {extension.load(trial)}"
        except (sqlite3.Error, AttributeError, OSError) as error:
            if importlib.util.find_spec("numpy"):
                self.name = f"numpy {importlib.metadata.version('numpy')}"
            else:
                self._give_up(f"sqlite-vec does not load ({error}), and there is no NumPy")

    def prepare(self, connection: sqlite3.Connection) -> None:
        if self.name.startswith("sqlite-vec"):
            extension.load(connection)

    def forget(self, path: Path) -> None:
        """Keep nothing of that file in memory."""
        if self._matrices:
            self._matrices.forget(path)

    def search(self, connection: sqlite3.Connection, path: Path, of: Name, vector: Vector, where: Filter, limit: int) -> Sequence[Hit]:
        """Raises EmbeddingMismatch, and StoreUnavailable where nothing searches vectors."""
        if not self.name:
            raise StoreUnavailable(self.reason)
        query = embedding.unit(vector, "the query")
        if not vectors.check_query(connection, of, len(query)) or limit < 1:
            return []
        with transaction(connection, write=False):
            if not any(query):
                return vectors.first(connection, where, limit)
            found = self._candidates(connection, path, vectors.pack(query, "the query"), where, limit)
            return vectors.best(connection, query, found, limit)

    def _candidates(self, connection: sqlite3.Connection, path: Path, query: bytes, where: Filter, limit: int) -> Iterable[int]:
        if self.name.startswith("sqlite-vec"):
            return extension.candidates(connection, query, where, limit)
        return self._in_memory().candidates(connection, path, query, where, limit)

    def _in_memory(self) -> "Matrices":
        with self._lock:
            if self._matrices is None:
                try:
                    from app.services.rag.sqlite.matrix import Matrices
                except ImportError as error:
                    self._give_up(f"NumPy cannot be imported ({error}), and sqlite-vec does not load")
                    raise StoreUnavailable(self.reason) from error
                self._matrices = Matrices()
            return self._matrices

    def _give_up(self, why: str) -> None:
        self.name, self.reason = "", f"Nothing here searches vectors: {why}; {_REMEDY}."
