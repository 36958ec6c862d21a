"""What memory keeps: a conversation is known by agent, principal and session, and is a list of turns that stand or fall whole."""

import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from app.errors import BadRequest, BodyTooLarge, Conflict
from app.session import check_session_id

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """``spec.memory``. A turn holds one exchange with all its tool calls; a session of ten thousand of them is a year of talk."""

    max_turn_bytes: int = 1024 * 1024
    max_turns_per_session: int = 10_000
    max_history_bytes: int = 16 * 1024 * 1024
    sweep_interval_s: float = 5.0
    run_lease_s: float = 15.0
    run_ttl_s: float = 86_400.0
    max_runs: int = 10_000
    max_run_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Conversation:
    """The key of a history. "" is the anonymous principal."""

    agent: str
    principal: str
    session: str


@dataclass(frozen=True, slots=True, order=True)
class Turn:
    """One turn as stored, in the order of its fields; ``created_us`` is wall time in microseconds, ``messages`` a JSON list."""

    sequence: int
    created_us: int
    turn_id: str
    messages: bytes

    @property
    def created_at(self) -> str:
        return (_EPOCH + timedelta(microseconds=self.created_us)).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A turn that is to be kept. ``ttl_s`` is how long its conversation stays without another one, None for ever; ``semantic`` has it
    found by what it is about."""

    turn_id: str
    messages: list[dict[str, Any]]
    ttl_s: float | None = None
    semantic: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """What was said up to and with the turn ``turn_id``, in short. The turns themselves stay."""

    turn_id: str
    text: str


@dataclass(frozen=True, slots=True)
class History:
    """The newest turns of a conversation, oldest first; ``truncated`` says that older ones did not fit into the answer."""

    turns: tuple[Turn, ...]
    truncated: bool = False
    summary: Summary | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a history is asked for: its newest turns, so many and in so many bytes at most; the newest one always. None: as much
    as the settings allow."""

    max_turns: int | None = None
    max_bytes: int | None = None

    def turns(self, settings: MemorySettings) -> int:
        return min(self.max_turns or settings.max_turns_per_session, settings.max_turns_per_session)

    def bytes(self, settings: MemorySettings) -> int:
        return min(self.max_bytes or settings.max_history_bytes, settings.max_history_bytes)


WHOLE = Part()


def conversation(agent: str, principal: str, session: str) -> Conversation:
    """The key, checked. Raises BadRequest."""
    return Conversation(check_agent(agent), principal, check_session_id(session))


def check_agent(agent: str) -> str:
    return _check_name(agent, "agent", "agent name")


def check_turn_id(turn_id: str) -> str:
    return _check_name(turn_id, "turn_id", "turn id")


def new_turn_id() -> str:
    return "t_" + secrets.token_hex(10)


def encode_messages(messages: list[dict[str, Any]], limit: int) -> bytes:
    """Messages as they are kept: compact UTF-8 JSON. Raises BodyTooLarge.

    Half of a surrogate pair, which a model may emit, is kept as it came ("surrogatepass"), because a turn must not fail for it.
    """
    encoded = json.dumps(messages, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    if len(encoded) > limit:
        raise BodyTooLarge(
            f"The turn has {len(encoded)} bytes; memory keeps at most {limit} (spec.memory.max_turn_bytes).", param="messages"
        )
    return encoded


def check_same(there: bytes, messages: bytes, turn_id: str) -> None:
    """That a turn which is sent again is the one that is kept. Raises Conflict."""
    if there != messages and json.loads(there) != json.loads(messages):
        raise Conflict(f"Turn {turn_id!r} is there with other messages; give a new turn an id of its own.", param="turn_id")


def _check_name(name: str, param: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"The {what} {name[:140]!r} cannot be used; take 1 to 128 letters, digits and ._:-, a letter or digit first.", param=param
        )
    return name
