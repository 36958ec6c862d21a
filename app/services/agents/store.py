"""The agents that were made over HTTP, one JSON file for each in the data directory, which several nodes of a host may share.

There are no locks, which a frozen process could hold for ever: a file is written aside, flushed, and then appears by link(2), which never
replaces another, or by rename(2), which does. Whoever reads sees a whole file or none. All methods block.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.errors import Conflict, StoreUnavailable

SUFFIX = ".agent.json"
MAX_AGENTS = 1000
_DRAFT = ".draft"
_LEFT_BEHIND_S = 3600.0
Stamp = tuple[tuple[str, int, int, int], ...]


class AgentStore:
    """The files of one folder, which is made when the first agent is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def paths(self) -> list[Path]:
        return [self._folder / name for name, *_ in self.stamp()]

    def stamp(self) -> Stamp:
        """What changes when any of the files does, in the order of their names; empty without a folder. Raises StoreUnavailable."""
        found = list[tuple[str, int, int, int]]()
        with self._telling("The agents that were made over HTTP cannot be listed"), suppress(FileNotFoundError, NotADirectoryError):
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIX):
                        with suppress(FileNotFoundError):
                            stat = entry.stat()
                            found.append((entry.name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(sorted(found))

    def read(self, name: str) -> bytes | None:
        try:
            return self._path(name).read_bytes()
        except OSError:
            return None

    def create(self, name: str, content: bytes) -> None:
        """Raises Conflict where there is a file of that name, or no room for one more."""
        if len(self.stamp()) >= MAX_AGENTS:
            raise Conflict(f"This store has {MAX_AGENTS} agents that were made over HTTP, the most that it keeps; delete some.")
        with self._draft(name, content) as draft:
            try:
                os.link(draft, self._path(name))
            except FileExistsError:
                raise Conflict(
                    f"There is an agent {name!r} already; change it by PUT /v1/agents/{name}.", param="$.metadata.name"
                ) from None

    def replace(self, name: str, content: bytes) -> None:
        """Put a file in the place of the one of that name."""
        with self._draft(name, content) as draft:
            os.replace(draft, self._path(name))

    def delete(self, name: str) -> bool:
        """False where there was none."""
        with self._telling(f"The agent {name!r} cannot be deleted"):
            try:
                self._path(name).unlink()
            except FileNotFoundError:
                return False
            self._flush_folder()
        return True

    def sweep(self) -> None:
        """Remove what a process left behind that was killed while it wrote."""
        with suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(_DRAFT) and entry.stat().st_mtime < time.time() - _LEFT_BEHIND_S:
                    os.unlink(entry.path)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{SUFFIX}"

    @contextmanager
    def _draft(self, name: str, content: bytes) -> Iterator[Path]:
        """The content in a file of its own, flushed; after the block the folder is flushed too, and the draft is gone."""
        draft = self._folder / f".{name}.{secrets.token_hex(8)}{_DRAFT}"
        with self._telling(f"The agent {name!r} cannot be kept"):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                # Keys may be in it: nothing for strangers, and the group may read, for a node may run as another user of its group later.
                with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o660), "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                yield draft
            finally:
                draft.unlink(missing_ok=True)
            self._flush_folder()

    def _flush_folder(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise StoreUnavailable(f"{what} in {self._folder}: {reason}; make room there, or mend its permissions.") from error
