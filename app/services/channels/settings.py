"""``spec.channels``: how the node works on what comes in and what goes out. Default values live here alone."""

import hashlib
import json
import re
from dataclasses import dataclass

from app.services.channels.message import Person

LEASE_S = 10.0
"""How long a process that stands still keeps a conversation from the others; renewed three times as often."""
_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}")


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in seconds but for ``retention_days``. ``uncertain`` says what becomes of a message of which neither an answer nor a status
    told within ``uncertain_after_s`` whether it was taken: send_again, or dead_letter."""

    concurrency: int = 16
    run_timeout_s: float = 300.0
    max_attempts: int = 16
    uncertain_after_s: float = 60.0
    uncertain: str = "send_again"
    retention_days: float = 14.0


def session_of(person: Person) -> str:
    """The session of a conversation: channel, account and sender; a digest of them where they could not stand in a session id, or
    another person's would look the same. No two persons have the same one, whatever they call themselves."""
    parts = [part for part in person if part]
    plain = ":".join(parts)
    if _SESSION.fullmatch(plain) and not any(":" in part for part in parts):
        return plain
    return f"{person.channel}::{hashlib.blake2b(json.dumps(person).encode(), digest_size=16).hexdigest()}"


def back_off_s(attempts: int) -> float:
    """Seconds until the next try after so many: 1, 2, 4, … up to five minutes."""
    return float(min(300, 2 ** min(attempts - 1, 9)))
