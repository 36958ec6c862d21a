"""Conversations in SQLite, shared by several processes of one host, one of which may be frozen in the middle of a write.

SQLite lets one process write a file at a time, and a frozen one would keep that right for ever. So nobody writes a file of somebody else:

- Each process takes the lowest free slot, `conversations-<n>.sqlite`, by a flock on `conversations-<n>.lock` that it holds for life. The
  kernel drops the lock with the process, so kill -9 leaves nothing locked and a restarted node finds its slot again.
- Reads merge all slot files (in WAL mode a reader waits for no writer), ordered by (sequence, created_us, turn_id), each turn id once.
- An append goes to one's own file, with sequence = 1 + the highest that any file has for the conversation. Two processes that append at
  the same moment share a number; time, then turn id, decides between them, alike for every reader.
- A delete writes into one's own file that the conversation is cleared up to a sequence. Every read honours that mark at once, whoever
  holds the rows. The rows themselves go with the delete from one's own file and from files that nobody holds, from a live process's file
  at its next sweep, and from a frozen one's when it thaws. A mark goes when no file has rows under it.

A summary is a turn of a conversation beside it, whose session no client can name ("~" before the id); its turn id is that of the last turn
that it covers. It counts as long as that turn is there.

Reads take the rows first and the marks after, so that a delete in between hides all of a history and never shows a part of it.
All methods block: they are called in threads, `history` in any and the others, which write, in one.
"""

import heapq
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from app.errors import StoreUnavailable
from app.services.memory import sqlite_slots as slots
from app.services.memory.conversation import WHOLE, Conversation, History, MemorySettings, Part, Summary, Turn, check_same
from app.services.memory.sqlite_ledger import Ledger


class ConversationStore:
    """The conversations of one data directory. ``history`` may be called in many threads at once, whatever writes in one at a time."""

    def __init__(self, folder: Path, settings: MemorySettings) -> None:
        self._folder = folder
        self._settings = settings
        self._readers: list[dict[Path, Ledger]] = []
        self._local = threading.local()

    def open(self) -> None:
        """Take a slot. Raises StoreUnavailable, or ConfigError for a file of a newer build."""
        self._slot = slots.claim(self._folder)
        try:
            self._own = Ledger(self._slot.path, write=True)
        except BaseException:
            self._slot.release()
            raise

    def close(self) -> None:
        """Let go of everything; no other call may be under way."""
        for opened in self._readers:
            for ledger in opened.values():
                ledger.close()
        self._readers.clear()
        self._local = threading.local()
        self._own.close()
        self._slot.release()

    def append(self, to: Conversation, turn_id: str, messages: bytes, ttl_s: float | None = None) -> bool:
        """Add a turn; False when the very same one is there already. Raises Conflict when another has its id."""
        ledgers = [self._own, *self._others()]
        with self._own.transaction():
            cleared = max(ledger.cleared(to) for ledger in ledgers)
            for there in (ledger.turn(to, turn_id) for ledger in ledgers):
                if there and there.sequence > cleared:
                    check_same(there.messages, messages, turn_id)
                    return False
            sequence, now_us = 1 + max(cleared, *(ledger.last(to) for ledger in ledgers)), _now_us()
            self._own.forget(to, max(cleared, sequence - self._settings.max_turns_per_session))
            self._own.add(to, Turn(sequence, now_us, turn_id, messages))
            self._own.expire(to, now_us, ttl_s)
        return True

    def history(self, of: Conversation, part: Part = WHOLE) -> History:
        """The newest turns, oldest first; empty when there is none."""
        turns, size, beyond, limit = list[Turn](), 0, 0, part.bytes(self._settings)
        summary = self._summary(of)
        with self._newest_first(of) as newest:
            for turn in itertools.islice(newest, part.turns(self._settings)):
                size += len(turn.messages)
                if turns and size > limit:
                    beyond = turn.sequence
                    break
                turns.append(turn)
        covered = self._turn(of, summary.turn_id) if summary else None
        cleared = max(ledger.cleared(of) for ledger in self._all())
        kept = tuple(turn for turn in reversed(turns) if turn.sequence > cleared)
        told = summary if covered and covered.sequence > cleared else None
        return History(kept, truncated=beyond > cleared, summary=told)

    def summarise(self, of: Conversation, summary: Summary) -> bool:
        """Keep a summary; False where its last turn is not there, or the one that is kept covers as much."""
        beside, ledgers = _beside(of), [self._own, *self._others()]
        with self._own.transaction():
            covered, cleared = self._turn(of, summary.turn_id), max(ledger.cleared(of) for ledger in ledgers)
            kept = self._summary(of)
            before = self._turn(of, kept.turn_id) if kept else None
            if covered is None or covered.sequence <= cleared or (before is not None and before >= covered):
                return False
            sequence = 1 + max(*(ledger.cleared(beside) for ledger in ledgers), *(ledger.last(beside) for ledger in ledgers))
            self._own.forget(beside, sequence)
            self._own.add(beside, Turn(sequence, _now_us(), summary.turn_id, summary.text.encode("utf-8", "surrogatepass")))
        return True

    def clear(self, of: Conversation) -> int:
        """Delete a conversation; the number of turns it had."""
        ledgers = [self._own, *self._others()]
        with self._own.transaction():
            cleared = max(ledger.cleared(of) for ledger in ledgers)
            turns = set[str]().union(*(ledger.turn_ids(of, cleared) for ledger in ledgers))
            self._clear(of, max(ledger.last(of) for ledger in ledgers))
        self._own.scrub()
        self.sweep()
        return len(turns)

    def _clear(self, of: Conversation, through: int) -> None:
        """In a transaction: delete a conversation up to a sequence, and its summary."""
        beside = _beside(of)
        for each, last in ((of, through), (beside, max(ledger.last(beside) for ledger in self._all()))):
            if any(ledger.last(each) for ledger in self._others()):
                self._own.mark(each, last)
            self._own.forget(each, last)

    def expire(self) -> list[Conversation]:
        """Delete the conversations of one's own file, and of files that nobody holds, that nobody has used for their time."""
        gone, now_us = list[Conversation](), _now_us()
        if not any(ledger.due(now_us) for ledger in self._all()):
            return gone
        with self._writable() as writable:
            for ledger in writable:
                for of, used_us in ledger.due(now_us):
                    gone += [of] if self._expired(of, used_us) else []
                    with ledger.transaction():
                        ledger.expire(of, used_us, None)
        if gone:
            self._own.scrub()
        return gone

    def _expired(self, of: Conversation, used_us: int) -> bool:
        """Delete a conversation unless it was used after ``used_us``."""
        with self._newest_first(of) as newest:
            last = next(newest, None)
        if last is None or last.created_us > used_us:
            return False
        with self._own.transaction():
            self._clear(of, last.sequence)
        return True

    def sweep(self) -> None:
        """Remove the rows that marks hide, from one's own file and from those that nobody holds, and the marks that hide no more rows."""
        readers = self._all()
        hidden: dict[Conversation, int] = {}
        for ledger in readers:
            for of, through in ledger.marks().items():
                hidden[of] = max(through, hidden.get(of, 0))
        if not hidden:
            return
        with self._writable() as writable:
            for ledger in writable:
                with ledger.transaction():
                    for of, through in hidden.items():
                        ledger.forget(of, through)
                ledger.scrub()
            for ledger in writable:
                idle = [of for of, through in ledger.marks().items() if not _has_rows(readers, of, through)]
                with ledger.transaction():
                    for of in idle:
                        ledger.unmark(of)

    def probe(self) -> None:
        """Write something. Raises StoreUnavailable when conversations could not be written."""
        with self._own.transaction():
            self._own.probe(_now_us())

    @contextmanager
    def _writable(self) -> Iterator[list[Ledger]]:
        """One's own file and those of processes that are gone, whose slots are held meanwhile."""
        with ExitStack() as stack:
            ledgers = [self._own]
            for path in slots.files(self._folder):
                if path != self._slot.path and (slot := slots.try_claim(path)):
                    stack.callback(slot.release)
                    ledgers.append(stack.enter_context(closing(Ledger(path, write=True))))
            yield ledgers

    @contextmanager
    def _newest_first(self, of: Conversation) -> Iterator[Iterator[Turn]]:
        """Merge all files. Of two turns with one id (two nodes given it at once) the later counts, so any window of n stays exact."""
        with ExitStack() as stack:
            rows = [stack.enter_context(closing(ledger.newest_first(of))) for ledger in self._all()]
            yield _each_id_once(heapq.merge(*rows, reverse=True))

    def _summary(self, of: Conversation) -> Summary | None:
        """The last one that was kept, whether or not the turns that it covers are still there."""
        beside = _beside(of)
        with self._newest_first(beside) as newest:
            kept = next(newest, None)
        if kept is None or kept.sequence <= max(ledger.cleared(beside) for ledger in self._all()):
            return None
        return Summary(kept.turn_id, kept.messages.decode("utf-8", "surrogatepass"))

    def _turn(self, of: Conversation, turn_id: str) -> Turn | None:
        """The turn as it counts: of two with one id the later."""
        return max((turn for ledger in self._all() if (turn := ledger.turn(of, turn_id))), default=None)

    def _others(self) -> list[Ledger]:
        return [ledger for ledger in self._all() if ledger.path != self._slot.path]

    def _all(self) -> list[Ledger]:
        """This thread's readers of all files; new processes bring new files at any time."""
        opened: dict[Path, Ledger] | None = getattr(self._local, "opened", None)
        if opened is None:
            opened = self._local.opened = {}
            self._readers.append(opened)
        with slots.storage_errors(self._folder):
            paths = slots.files(self._folder)
        if self._slot.path not in paths:
            raise StoreUnavailable(f"{self._slot.path} is gone while in use; restore the data directory and restart the node.")
        for path in paths:
            if path not in opened:
                opened[path] = Ledger(path)
        return [opened[path] for path in paths]


def _each_id_once(turns: Iterator[Turn]) -> Iterator[Turn]:
    seen = set[str]()
    for turn in turns:
        if turn.turn_id not in seen:
            seen.add(turn.turn_id)
            yield turn


def _has_rows(ledgers: list[Ledger], of: Conversation, through: int) -> bool:
    return any(first is not None and first <= through for first in (ledger.first(of) for ledger in ledgers))


def _beside(of: Conversation) -> Conversation:
    return replace(of, session=f"~{of.session}")


def _now_us() -> int:
    return time.time_ns() // 1000
