"""Connections to the files of collections, kept open between uses: a bounded number, the least recently used go first."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.services.rag.sqlite import file

MAX_IDLE = 64
"""Each has up to three files open and a page cache of up to 2 MB."""


class Connections:
    """For many threads at once; each connection is in one hand at a time. ``prepare`` is done to a new one."""

    def __init__(self, prepare: Callable[[sqlite3.Connection], None]) -> None:
        self._prepare = prepare
        self._lock = threading.Lock()
        self._idle: list[tuple[Path, sqlite3.Connection]] = []

    @contextmanager
    def borrow(self, path: Path) -> Iterator[sqlite3.Connection]:
        """Raises FileNotFoundError. One with which something went wrong is not used again."""
        connection = self._taken(path) or self._opened(path)
        try:
            yield connection
        except BaseException as error:
            if isinstance(error, sqlite3.Error) or connection.in_transaction:
                connection.close()
            else:
                self._give_back(path, connection)
            raise
        self._give_back(path, connection)

    def forget(self, keep: Callable[[Path], bool]) -> None:
        """Close the idle ones of files that are not to be kept."""
        with self._lock:
            gone = [connection for path, connection in self._idle if not keep(path)]
            self._idle = [entry for entry in self._idle if keep(entry[0])]
        for connection in gone:
            connection.close()

    def close(self) -> None:
        self.forget(lambda path: False)

    def _taken(self, path: Path) -> sqlite3.Connection | None:
        with self._lock:
            for place in range(len(self._idle) - 1, -1, -1):
                if self._idle[place][0] == path:
                    return self._idle.pop(place)[1]
        return None

    def _opened(self, path: Path) -> sqlite3.Connection:
        connection = file.connect(path)
        self._prepare(connection)
        return connection

    def _give_back(self, path: Path, connection: sqlite3.Connection) -> None:
        with self._lock:
            self._idle.append((path, connection))
            surplus = self._idle[:-MAX_IDLE]
            self._idle = self._idle[-MAX_IDLE:]
        for _, old in surplus:
            old.close()
