"""``spec.channels``: how the node works on what comes in and what goes out. Default values live here alone."""

import hashlib
import json
from dataclasses import dataclass

from app.services.channels.message import Person

LEASE_S = 10.0
"""How long a process that stands still keeps a conversation from the others; renewed three times as often."""


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
    """The session of a conversation: the channel, and a digest of account and sender. Sessions stand in logs and traces, where a person's
    number has no place, and no two persons have the same one, whatever they call themselves."""
    return f"{person.channel}:{hashlib.blake2b(json.dumps(person).encode(), digest_size=12).hexdigest()}"


def back_off_s(attempts: int) -> float:
    """Seconds until the next try after so many: 1, 2, 4, … up to five minutes."""
    return float(min(300, 2 ** min(attempts - 1, 9)))
