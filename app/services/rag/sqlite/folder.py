"""Which collections there are: for each a small file, named by a digest of its name, that says where its data are.

The rule: the file of a collection's data has a random name that is never used again. So whoever still has the data of a dropped collection
open can do no harm to one that was made anew under the same name. A collection is there from the moment its small file is linked until
that is unlinked; both happen once, whoever tries at the same time.
"""

import fcntl
import hashlib
import json
import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from app.errors import StoreUnavailable
from app.services.rag.knowledge import Collection, Name
from app.services.rag.sqlite import file, rows

log = logging.getLogger(__name__)
_POINTER, _DATA, _DRAFT = ".collection", ".sqlite", ".draft"


class Folder:
    """The collections of one data directory. All methods but ``names`` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._names = frozenset[Name]()

    def names(self) -> frozenset[Name]:
        return self._names

    def prepare(self) -> None:
        """Make the folder, and remove what processes that died have left in it. Raises StoreUnavailable; ConfigError for newer files."""
        with file.errors(self.path):
            if not self.path.is_dir():
                self.path.mkdir(parents=True, exist_ok=True)
                self.path.chmod(0o770)
            self._sweep()
        for of, path in self.refresh().items():
            try:
                file.check_version(path)
            except StoreUnavailable as error:  # the others can be served
                log.warning("the collection %r cannot be used: %s", of.name, error)

    def refresh(self) -> Mapping[Name, Path]:
        """All collections and where their data are."""
        with file.errors(self.path), self._lock:
            found = dict(entry for pointer in self.path.glob("*" + _POINTER) if (entry := self._read(pointer)))
            self._names = frozenset(found)
        return found

    def find(self, of: Name) -> Path | None:
        """Where the data of a collection are now; None where there is none of that name."""
        with file.errors(self.path):
            entry = self._read(self._pointer(of))
        return entry[1] if entry else None

    def add(self, collection: Collection) -> bool:
        """Make a collection. False where there is one of its name."""
        of, token = collection.of, secrets.token_hex(12)
        if self.find(of):
            self._know(of)
            return False
        data = self.path / (token + _DATA)
        with file.errors(data), self._draft(token, of, data) as draft:
            try:
                file.create(data, collection)
                os.link(draft, self._pointer(of))  # fails when it is there already: the first one wins
            except BaseException as error:
                _remove(data)
                if not isinstance(error, FileExistsError):
                    raise
                self._know(of)
                return False
            self._know(of)
            file.sync(self.path)
        return True

    def remove(self, of: Name) -> Path | None:
        """Drop a collection; where its data were, or None where there is none."""
        pointer = self._pointer(of)
        with file.errors(pointer):
            entry = self._read(pointer)
            try:
                pointer.unlink()
            except FileNotFoundError:
                entry = None
            with self._lock:
                self._names -= {of}
            if entry is None:
                return None
            file.sync(self.path)
            _remove(entry[1])
        return entry[1]

    def probe(self) -> None:
        """Write something, and see it go to the disk."""
        with file.errors(self.path), tempfile.TemporaryFile(dir=self.path, buffering=0) as trial:
            trial.write(b"probe")
            os.fsync(trial.fileno())

    def _know(self, of: Name) -> None:
        with self._lock:
            self._names |= {of}

    def _pointer(self, of: Name) -> Path:
        return self.path / (hashlib.sha256(rows.json_blob([of.owner, of.name])).hexdigest()[:40] + _POINTER)

    def _read(self, pointer: Path) -> tuple[Name, Path] | None:
        try:
            told = json.loads(pointer.read_bytes().decode("utf-8", "surrogatepass"))
            return Name(told["name"], told["owner"]), self.path / told["data"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreUnavailable(f"{pointer} is damaged; restore it from a backup, or delete it and the collection with it.") from error

    @contextmanager
    def _draft(self, token: str, of: Name, data: Path) -> Iterator[Path]:
        """The small file under a name of its own, locked as long as its data are being made, so that nobody takes them for remains."""
        draft = self.path / (token + _DRAFT)
        with draft.open("wb") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX)
                opened.write(rows.json_blob({"name": of.name, "owner": of.owner, "data": data.name}))
                opened.flush()
                os.fchmod(opened.fileno(), 0o660)
                os.fsync(opened.fileno())
                yield draft
            finally:
                draft.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove data that no collection has and nobody is making."""
        tokens = {path.name.split(".")[0] for path in self.path.iterdir() if _DATA in path.suffix or path.suffix == _DRAFT}
        for token in tokens:
            draft, data = self.path / (token + _DRAFT), self.path / (token + _DATA)
            if _is_locked(draft):
                continue
            # Read after the draft was seen without an owner: from then on nobody links it.
            if data not in self.refresh().values():
                _remove(data)
            draft.unlink(missing_ok=True)


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _remove(data: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{data}{suffix}").unlink(missing_ok=True)
