"""What was seen in files, for as long as nobody has written them: a node with hundreds of collections looks at all of them every second."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

_SETTLED_S = 2.0
"""A file that was written this lately may be written again without its times telling: they are as coarse as the clock's ticks."""
T = TypeVar("T")
_State = tuple[tuple[int, int, int], ...]


class Unwritten(Generic[T]):
    """For many threads at once."""

    def __init__(self) -> None:
        self._seen = dict[Path, tuple[_State, T]]()

    def see(self, path: Path, look: Callable[[], T], *, lasting: Callable[[T], bool] = lambda _: True) -> T:
        """What is in a file; only what is ``lasting`` is kept, the rest changes without anybody writing."""
        state = _state(path)  # before the look: what is written meanwhile is seen next time
        seen = self._seen.get(path)
        if seen and seen[0] == state:
            return seen[1]
        self._seen.pop(path, None)
        found = look()
        if state and time.time_ns() - max(written for _, written, _ in state) > _SETTLED_S * 1e9 and lasting(found):
            self._seen[path] = state, found
        return found

    def forget(self, keep: Callable[[Path], bool]) -> None:
        """Keep nothing of files that are not to be kept."""
        for path in [path for path in list(self._seen) if not keep(path)]:
            self._seen.pop(path, None)


def _state(path: Path) -> _State:
    """Of a file and its WAL, where there is something in that; () where there is none."""
    found = list[os.stat_result]()
    with suppress(FileNotFoundError):
        found.append(path.stat())
        wal = os.stat(f"{path}-wal")
        found += [wal] if wal.st_size else []
    return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)
