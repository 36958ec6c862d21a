"""Who holds leases: a process, known by a random name, with a file that it keeps locked for as long as it lives, however it ends."""

import fcntl
import os
import secrets
from pathlib import Path


class Owner:
    """This process, among those that share a folder. ``take`` before the first lease, ``let_go`` after the last one."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.name = folder, secrets.token_hex(8)

    def take(self) -> None:
        """Raises OSError where the folder cannot be written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._file(self.name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def let_go(self) -> None:
        self._file(self.name).unlink(missing_ok=True)
        os.close(self._lock)

    def is_gone(self, other: str) -> bool:
        """Whether that process has ended: nobody holds its file. One that only stands still is not gone."""
        try:
            lock = os.open(self._file(other), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file(other).unlink(missing_ok=True)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True

    def _file(self, name: str) -> Path:
        return self._folder / f"owner-{name}.lock"
