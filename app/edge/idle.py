"""The connections that could be spared: nothing is asked on them now, or not yet all of it. Where there are too many, one of them goes."""

from typing import Generic, TypeVar

C = TypeVar("C")


class Idle(Generic[C]):
    """Strangers, which never had an answer, and the known ones, which had; in either, that which is idle for longest comes first."""

    def __init__(self) -> None:
        self._strangers: dict[C, None] = {}
        self._known: dict[C, None] = {}

    def add(self, connection: C, *, known: bool) -> None:
        """One that is in already keeps its place."""
        (self._known if known else self._strangers).setdefault(connection)

    def discard(self, connection: C) -> None:
        self._known.pop(connection, None)
        self._strangers.pop(connection, None)

    def longest(self) -> C | None:
        """Of the more numerous: whoever floods the node pushes out their like."""
        more = self._known if len(self._known) > len(self._strangers) else self._strangers
        return next(iter(more), None)
