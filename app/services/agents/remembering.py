"""How an agent remembers: which part of a conversation its model sees again. ``spec.memory.conversational`` of its file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.services.agents.completion import Message
from app.services.agents.excerpt import shortened, size_of

TOKEN_BYTES = 4
"""A token is taken for so many bytes of the messages' JSON: about right for text of most languages, and roles and names count as well."""
MAX_TURNS = 20
MAX_TOKENS = 4000
_ALL_TURNS = 1000
_SUMMARISED_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class PastTurn:
    """One turn as memory keeps it."""

    turn_id: str
    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class Past:
    """What memory has of a conversation: turns, oldest first, and in short what was said up to and with the turn ``summarised``."""

    turns: Sequence[PastTurn] = ()
    summary: str = ""
    summarised: str = ""

    def messages(self) -> list[Message]:
        return [message for turn in self.turns for message in turn.messages]

    def after_summary(self) -> list[PastTurn]:
        ids = [turn.turn_id for turn in self.turns]
        return list(self.turns[ids.index(self.summarised) + 1 :]) if self.summarised in ids else list(self.turns)


@dataclass(frozen=True, slots=True)
class Remembering:
    """``strategy``: sliding_window (the last turns), token_budget (those that fit), or summary (the last turns, and what was before them in
    short). ``ttl_s``: how long an unused conversation is kept; None: for ever."""

    strategy: str = "sliding_window"
    max_turns: int = MAX_TURNS
    max_tokens: int | None = None
    ttl_s: float | None = None

    @classmethod
    def read(cls, section: Mapping[str, Any]) -> "Remembering":
        strategy = section.get("strategy", "sliding_window")
        by_tokens = strategy == "token_budget"
        return cls(
            strategy,
            section.get("max_turns", _ALL_TURNS if by_tokens else MAX_TURNS),
            None if strategy == "sliding_window" else section.get("max_tokens", MAX_TOKENS if by_tokens else None),
            section.get("ttl"),
        )

    def as_json(self) -> dict[str, Any]:
        told = {"strategy": self.strategy, "max_turns": self.max_turns, "max_tokens": self.max_tokens, "ttl": self.ttl_s}
        return {key: value for key, value in told.items() if value is not None}

    @property
    def summarises(self) -> bool:
        return self.strategy == "summary"

    @property
    def query(self) -> str:
        """What to ask of memory for it."""
        if self.summarises:
            return f"max_turns={max(2 * self.max_turns, _SUMMARISED_AT_ONCE)}"
        return f"max_turns={self.max_turns}" + (f"&max_bytes={self.max_tokens * TOKEN_BYTES}" if self.max_tokens else "")

    def window(self, turns: Sequence[PastTurn], share: int = 1) -> list[PastTurn]:
        """The newest turns that fit into the window, or into one ``share``-th of it. The last one is always among them, cut where it alone
        is too large."""
        limit = self.max_tokens * TOKEN_BYTES // share if self.max_tokens else None
        kept, size = list[PastTurn](), 0
        for turn in list(reversed(turns))[: max(1, self.max_turns // share)]:
            size += size_of(turn.messages)
            if kept and limit is not None and size > limit:
                break
            kept.insert(0, turn)
        return [_cut(turn, limit) for turn in kept] if limit is not None and len(kept) == 1 else kept


def _cut(turn: PastTurn, size: int) -> PastTurn:
    """A turn that is too large by itself, with less of what tools and the model said in it; without any messages where its question alone
    is too much."""
    if size_of(turn.messages) <= size:
        return turn
    asked = [message for message in turn.messages if message["role"] == "user"]
    added = [message for message in turn.messages if message["role"] != "user" and isinstance(message.get("content"), str)]
    kept = [*asked, *(shortened(added, size - size_of(asked)) if added else ())]
    return PastTurn(turn.turn_id, kept if size_of(kept) <= size else ())
