"""What operators see of a channel's messages, and do about them; and how long they are kept."""

# ruff: noqa: S608 - the only text put into these statements is names of tables and columns from the constants below
import time
from collections.abc import Mapping
from typing import Any

from app.services.channels.database import Database
from app.services.channels.message import Person
from app.services.channels.settings import session_of

_SHOWN: Mapping[str, tuple[str, ...]] = {
    "inbox": ("message_id", "account", "sender", "kind", "state", "attempts", "received", "error"),
    "outbox": ("token", "account", "sender", "in_reply_to", "part", "parts", "state", "attempts", "made", "provider_id", "status", "error"),
}


class Letters:
    """``box`` is inbox or outbox; a letter of the inbox is named by the platform's id, one of the outbox by our token."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self, channel: str) -> dict[str, dict[str, int]]:
        """By box and state."""
        with self._database.errors():
            return {
                box: dict(
                    self._database.sql.execute(f"SELECT state, count(*) FROM {box} WHERE channel = ? GROUP BY state", (channel,)).fetchall()
                )
                for box in ("inbox", "outbox")
            }

    def rows(self, box: str, channel: str, state: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest rows of inbox or outbox, in one state or in any."""
        shown = _SHOWN[box]
        with self._database.errors():
            found = self._database.sql.execute(
                f"SELECT {', '.join(shown)} FROM {box} WHERE channel = ? AND (? IS NULL OR state = ?) ORDER BY sequence DESC LIMIT ?",
                (channel, state, state, limit),
            ).fetchall()
        rows = [dict(zip(shown, row, strict=True)) for row in found]
        return [row | {"session_id": session_of(Person(channel, row["account"], row["sender"]))} for row in rows]

    def retry(self, box: str, channel: str, name: str) -> str | None:
        """Make a dead letter ready again. Returns the state it was in, None where there is no such row; only ``dead`` was changed."""
        key, fresh = ("message_id", "waiting") if box == "inbox" else ("token", "ready")
        now = time.time()
        with self._database.transaction():
            row = self._database.sql.execute(
                f"SELECT state, account, sender FROM {box} WHERE channel = ? AND {key} = ?",
                (channel, name),
            ).fetchone()
            if row and row[0] == "dead":
                anew = "" if box == "inbox" else ", status = '', provider_id = ''"  # what was told of the try before is over
                self._database.sql.execute(
                    f"UPDATE {box} SET state = ?, attempts = 0, due = ?{anew} WHERE channel = ? AND {key} = ?",
                    (fresh, now, channel, name),
                )
                self._database.sql.execute(
                    "UPDATE conversations SET due = min(coalesce(due, ?), ?) WHERE channel = ? AND account = ? AND sender = ?",
                    (now, now, channel, row[1], row[2]),
                )
        return row[0] if row else None

    def sweep(self, older_than_s: float) -> int:
        """Forget what is settled and old: only so long are duplicates known; and people of whom nothing is left. Dead letters stay."""
        before, gone = time.time() - older_than_s, 0
        with self._database.transaction():
            gone += self._database.sql.execute(
                "DELETE FROM inbox WHERE received < ? AND state NOT IN ('waiting', 'dead')", (before,)
            ).rowcount
            gone += self._database.sql.execute("DELETE FROM outbox WHERE made < ? AND state = 'sent'", (before,)).rowcount
            of_them = "(b.channel, b.account, b.sender) = (c.channel, c.account, c.sender)"
            left = [f"NOT EXISTS (SELECT 1 FROM {box} b WHERE {of_them})" for box in _SHOWN]
            nothing = f"due IS NULL AND owner = '' AND last_inbound < ? AND {' AND '.join(left)}"
            self._database.sql.execute(f"DELETE FROM conversations AS c WHERE {nothing}", (before,))
        return gone
