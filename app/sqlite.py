"""SQLite files of services: transactions, and what the failures of a disk and of SQLite mean to a person."""

import errno
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from app.errors import StoreUnavailable

_REMEDIES: Mapping[int, str | None] = {
    sqlite3.SQLITE_PERM: None,
    sqlite3.SQLITE_READONLY: None,
    sqlite3.SQLITE_CANTOPEN: None,
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "check its disk: reading or writing it failed",
}
"""By SQLite's primary code; None: it is a matter of who owns the place."""


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """All or nothing, and on the disk when it ends."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # the disk may fail the rollback too; SQLite then rolls back at the next open
            connection.execute("ROLLBACK")
        raise


@contextmanager
def errors(path: Path, who: str, remedies: Mapping[int, str], headers: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn what the disk and SQLite raise into StoreUnavailable with a remedy. ``who`` cannot use the file, "Memory" or "Knowledge";
    ``remedies``, by SQLite's primary code, are its own; ``headers`` go with what SQLite raises."""
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        remedy = _REMEDIES[sqlite3.SQLITE_FULL] if full else _owner_remedy(path)
        raise StoreUnavailable(f"{who} cannot use {error.filename or path}: {error.strerror}; {remedy}.") from error
    except sqlite3.Error as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        told = {**_REMEDIES, **remedies}.get(code, "see the message and the disk's own log")
        remedy = _owner_remedy(path) if told is None else told
        raise StoreUnavailable(f"{who} cannot use {path}: {error}; {remedy}.", headers=headers) from error


def _owner_remedy(path: Path) -> str:
    """What to do about a place that cannot be written: name its owner where that is somebody else."""
    here = next((place for place in (path, *path.parents) if os.path.exists(place)), Path("/"))
    owner, wanted = here.stat(), f"{os.geteuid()}:{os.getegid()}"
    if owner.st_uid != os.geteuid() and os.geteuid() != 0:
        return f"{here} belongs to another user ({owner.st_uid}:{owner.st_gid}): own the mount as {wanted}, or run the node as its owner"
    return f"make {here} writable for {wanted}"
