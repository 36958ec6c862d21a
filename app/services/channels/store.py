"""What was received and what is to be sent, in one SQLite file that several processes of a host may share.

The rule: a platform is answered 200 only after its messages are on the disk, and everything that happens to a conversation afterwards is
done by the one process that holds its lease. A lease that ran out is lost: whoever comes back with it changes nothing (``owner`` is in
the condition of every write). All methods block.
"""

# ruff: noqa: S608 - the only text put into these statements is the constants below, names of tables and question marks
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.services.channels.database import Database
from app.services.channels.letters import Letters
from app.services.channels.message import Inbound, Outbound, Person, Receipt
from app.services.channels.owner import Owner
from app.services.channels.settings import LEASE_S

_OF = "channel = ? AND account = ? AND sender = ?"
_LEASED = f"EXISTS (SELECT 1 FROM conversations WHERE {_OF} AND owner = ?)"
_OPEN_OUT = "state IN ('ready', 'sending', 'uncertain')"
_CAN_FAIL = "state IN ('sending', 'uncertain', 'sent')"
_CAN_ARRIVE = "(state != 'dead' OR status != 'failed')"
"""A letter that was given up because nobody knew of it has arrived after all; of one that the platform gave up, older news is late."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``messages`` of one person within ``window_s``; further ones are kept as ``limited`` and not answered."""

    window_s: float
    messages: int


@dataclass(frozen=True, slots=True)
class Question:
    """Messages that wait for one answer. ``attempts`` is how often it was tried to get one."""

    person: Person
    messages: Sequence[Inbound]
    attempts: int
    traceparent: str


@dataclass(frozen=True, slots=True)
class Parcel:
    """A part to be delivered. ``state`` is ready, sending (a process died or stands still over it) or uncertain."""

    message: Outbound
    state: str
    attempts: int
    due: float
    last_inbound: float


class Store:
    """For one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._database, self._process = Database(path), Owner(path.parent)
        self._owner, self._held = self._process.name, set[Person]()
        self.letters = Letters(self._database)

    def open(self) -> None:
        """Raises StoreUnavailable, also for a file of a newer build."""
        with self._database.errors():
            self._process.take()
        self._database.open()
        self._sql = self._database.sql
        self.free_leases_of_the_dead()

    def close(self) -> None:
        self._database.close()
        self._process.let_go()

    def free_leases_of_the_dead(self) -> None:
        """What a process that ended was working on need not wait until its leases run out."""
        with self._database.transaction():
            owners = [
                owner
                for (owner,) in self._sql.execute("SELECT DISTINCT owner FROM conversations WHERE owner NOT IN ('', ?)", (self._owner,))
            ]
            gone = [owner for owner in owners if self._process.is_gone(owner)]
            self._sql.executemany("UPDATE conversations SET owner = '', leased_until = 0 WHERE owner = ?", [(owner,) for owner in gone])

    # ---- what comes in

    def take(self, channel: str, messages: Sequence[Inbound], receipts: Sequence[Receipt], traceparent: str, limit: Limit | None) -> int:
        """Keep the messages that are new, each once whoever else takes it at the same time, and what the receipts say. Returns how many
        are new. When this returns, they are on the disk."""
        now, new = time.time(), 0
        with self._database.transaction():
            for message in messages:
                new += self._add(Person(channel, message.account, message.sender), message, traceparent, limit, now)
            for receipt in receipts:
                self._receipt(channel, receipt, now)
        return new

    def _add(self, person: Person, message: Inbound, traceparent: str, limit: Limit | None, now: float) -> int:
        state = "waiting" if message.text else "ignored"
        if state == "waiting" and limit and self._recent(person, now - limit.window_s) >= limit.messages:
            state = "limited"
        added = self._sql.execute(
            "INSERT OR IGNORE INTO inbox (channel, account, sender, message_id, kind, text, details, traceparent, received, state, due)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*person, message.message_id, message.kind, message.text, _json(message.details), traceparent, now, state, now),
        ).rowcount
        if added:
            self._sql.execute(
                "INSERT INTO conversations (channel, account, sender, last_inbound, due) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET last_inbound = excluded.last_inbound,"
                " due = coalesce(min(due, excluded.due), due, excluded.due)",
                (*person, now, now if state == "waiting" else None),
            )
        return added

    def _recent(self, person: Person, since: float) -> int:
        counted = f"SELECT count(*) FROM inbox WHERE {_OF} AND received > ? AND state NOT IN ('ignored', 'limited')"
        count: int = self._sql.execute(counted, (*person, since)).fetchone()[0]
        return count

    def _receipt(self, channel: str, receipt: Receipt, now: float) -> None:
        """A status proves that the platform took the message, or says that it came to nothing. It settles what was uncertain."""
        where, named = ("token = ?", receipt.token) if receipt.token else ("provider_id = ?", receipt.provider_id)
        if not named:
            return
        state, believed = ("dead", _CAN_FAIL) if receipt.status == "failed" else ("sent", _CAN_ARRIVE)
        found = self._sql.execute(
            f"SELECT token, account, sender, state FROM outbox WHERE channel = ? AND {where} AND {believed}", (channel, named)
        ).fetchall()
        for token, account, sender, was in found:
            self._sql.execute(
                "UPDATE outbox SET state = ?, status = ?, error = ?, provider_id = coalesce(nullif(?, ''), provider_id) WHERE token = ?",
                (state, receipt.status, receipt.error, receipt.provider_id, token),
            )
            if was != "sent":  # what waited behind it may go on
                self._due(Person(channel, account, sender), now)

    # ---- leases

    def claim(self, channels: Sequence[str]) -> Person | None:
        """Take the conversation of these channels that has waited longest for something to be done, and that nobody holds. One that this
        process works on is held, also when its lease ran out while the process, or the disk, stood still, or because the clock was set."""
        now = time.time()
        with self._database.transaction():
            rows = self._sql.execute(
                "SELECT channel, account, sender FROM conversations WHERE due <= ? AND leased_until < ?"
                f" AND channel IN ({_marks(channels)}) ORDER BY due LIMIT ?",
                (now, now, *channels, len(self._held) + 1),
            ).fetchall()
            person = next((person for row in rows if (person := Person(*row)) not in self._held), None)
            if person:
                lease = (self._owner, now + LEASE_S)
                self._sql.execute(f"UPDATE conversations SET owner = ?, leased_until = ? WHERE {_OF}", (*lease, *person))
        if person:
            self._held.add(person)
        return person

    def renew(self, person: Person) -> bool:
        """Whether the lease is still this process's."""
        with self._database.transaction():
            changed = self._sql.execute(
                f"UPDATE conversations SET leased_until = ? WHERE {_OF} AND owner = ?",
                (time.time() + LEASE_S, *person, self._owner),
            ).rowcount
        return changed == 1

    def release(self, person: Person) -> None:
        """Let go; the conversation is due again when the first thing in it is. What waits behind an open part waits for that."""
        self.give_up(person)
        with self._database.transaction():
            self._sql.execute(
                "UPDATE conversations SET owner = '', leased_until = 0, due = coalesce("
                f"(SELECT due FROM outbox WHERE {_OF} AND {_OPEN_OUT} ORDER BY sequence LIMIT 1),"
                f" (SELECT due FROM inbox WHERE {_OF} AND state = 'waiting' ORDER BY sequence LIMIT 1)) WHERE {_OF} AND owner = ?",
                (*person, *person, *person, self._owner),
            )

    def give_up(self, person: Person) -> None:
        """Let its lease run out: what failed for no reason that is known is not begun again at once."""
        self._held.discard(person)

    def next_due(self, channels: Sequence[str]) -> float | None:
        """When, in seconds since 1970, the next of these channels' conversations that this process does not hold will want something;
        None for never."""
        with self._database.errors():
            found: float | None = self._sql.execute(
                "SELECT min(max(due, leased_until)) FROM conversations WHERE due IS NOT NULL AND owner != ?"
                f" AND channel IN ({_marks(channels)})",
                (self._owner, *channels),
            ).fetchone()[0]
        return found

    # ---- questions

    def question(self, person: Person, *, merged: bool) -> Question | None:
        """The first message that waits; ``merged``, all of them. None while the first is not due."""
        with self._database.errors():
            rows = self._sql.execute(
                "SELECT message_id, account, sender, text, kind, details, attempts, traceparent, due FROM inbox"
                f" WHERE {_OF} AND state = 'waiting' ORDER BY sequence LIMIT ?",
                (*person, 100 if merged else 1),
            ).fetchall()
        if not rows or rows[0][8] > time.time():
            return None
        messages = [Inbound(row[0], row[1], row[2], row[3], row[4], json.loads(row[5])) for row in rows]
        return Question(person, messages, rows[0][6], rows[0][7])

    def settle(self, question: Question, parts: Sequence[Outbound], state: str, error: str) -> bool:
        """Keep the answer's parts and settle the question as done or dead, both or neither. False where the lease is lost: another
        process answers."""
        ids = [message.message_id for message in question.messages]
        with self._database.transaction():
            settled = self._sql.execute(
                f"UPDATE inbox SET state = ?, error = ?, attempts = attempts + 1 WHERE {_OF} AND message_id IN ({_marks(ids)})"
                f" AND state = 'waiting' AND {_LEASED}",
                (state, error, *question.person, *ids, *question.person, self._owner),
            ).rowcount
            if settled:
                now = time.time()
                self._sql.executemany(
                    "INSERT INTO outbox (token, channel, account, sender, in_reply_to, text, part, parts, made, state, due)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'ready', ?)",
                    [(part.token, *part.person, part.in_reply_to, part.text, part.part, part.parts, now, now) for part in parts],
                )
        return settled > 0

    def postponed_question(self, question: Question, error: str, again_in_s: float) -> None:
        """Getting an answer failed, and is tried again then."""
        ids = [message.message_id for message in question.messages]
        with self._database.transaction():
            self._sql.execute(
                f"UPDATE inbox SET attempts = attempts + 1, due = ?, error = ? WHERE {_OF} AND message_id IN ({_marks(ids)})"
                f" AND state = 'waiting' AND {_LEASED}",
                (time.time() + again_in_s, error, *question.person, *ids, *question.person, self._owner),
            )

    # ---- parcels

    def parcel(self, person: Person) -> Parcel | None:
        """The first part that is not settled: nothing overtakes it."""
        with self._database.errors():
            row = self._sql.execute(
                "SELECT o.token, o.in_reply_to, o.text, o.part, o.parts, o.state, o.attempts, o.due, c.last_inbound"
                " FROM outbox o JOIN conversations c USING (channel, account, sender)"
                f" WHERE {_OF} AND {_OPEN_OUT} ORDER BY sequence LIMIT 1",
                person,
            ).fetchone()
        if row is None:
            return None
        token, in_reply_to, text, part, parts, *rest = row
        return Parcel(Outbound(token, person, in_reply_to, text, part, parts), *rest)

    def sending(self, parcel: Parcel) -> bool:
        """Note that it is about to be sent, before it is. False where the lease is lost, or a status has settled it."""
        return self._mark(parcel, "sending", attempts=1)

    def sent(self, parcel: Parcel, provider_id: str) -> None:
        """The platform has taken it, which is true whoever holds the lease by now."""
        with self._database.transaction():
            self._sql.execute(
                "UPDATE outbox SET state = 'sent', error = '', provider_id = coalesce(nullif(?, ''), provider_id)"
                f" WHERE token = ? AND {_OPEN_OUT}",
                (provider_id, parcel.message.token),
            )
            self._due(parcel.message.person, time.time())

    def postponed(self, parcel: Parcel, error: str, again_in_s: float) -> None:
        """It was surely not taken, and is tried again."""
        self._mark(parcel, "ready", error=error, due=time.time() + again_in_s)

    def uncertain(self, parcel: Parcel, error: str, settle_in_s: float) -> None:
        """A status may still tell until then."""
        self._mark(parcel, "uncertain", error=error, due=time.time() + settle_in_s)

    def dead(self, parcel: Parcel, error: str) -> None:
        self._mark(parcel, "dead", error=error)

    def _mark(self, parcel: Parcel, state: str, *, attempts: int = 0, error: str = "", due: float | None = None) -> bool:
        person = parcel.message.person
        with self._database.transaction():
            changed = self._sql.execute(
                "UPDATE outbox SET state = ?, attempts = attempts + ?, error = ?, due = coalesce(?, due)"
                f" WHERE token = ? AND {_OPEN_OUT} AND {_LEASED}",
                (state, attempts, error, due, parcel.message.token, *person, self._owner),
            ).rowcount
        return changed == 1

    def _due(self, person: Person, now: float) -> None:
        self._sql.execute(
            f"UPDATE conversations SET due = min(coalesce(due, ?), ?) WHERE {_OF}",
            (now, now, *person),
        )


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))  # in ASCII: half of a surrogate pair stays the escape that it came as
