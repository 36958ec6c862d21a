"""``spec.agents``, and what the profile's ``spec.defaults`` give to agent files. Default values live here alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Settings:
    """``spec.agents``. A result or prompt that is longer than allowed is cut, or refused, and says so."""

    max_depth: int = 5
    parallel_tool_calls: int = 8
    parallel_workers: int = 4
    max_handoffs: int = 5
    tool_timeout_s: float = 60.0
    tool_result_chars: int = 50_000
    prompt_chars: int = 100_000
    message_bytes: int = 512 * 1024
    question_bytes: int = 512 * 1024  # half of what memory keeps of a turn by default: the other half is the run's
    pass_unsure_topics: bool = False


@dataclass(frozen=True, slots=True)
class Orchestration:
    """How an agent runs, where its file leaves it open."""

    pattern: str = "react"
    max_iterations: int = 10
    timeout_s: float = 300.0

    def filled(self, section: Mapping[str, Any]) -> "Orchestration":
        """This, but for what ``section`` (an ``orchestration:`` mapping) says; ``timeout`` is another word for ``timeout_seconds``."""
        return Orchestration(
            section.get("pattern", self.pattern),
            section.get("max_iterations", self.max_iterations),
            section.get("timeout_seconds", section.get("timeout", self.timeout_s)),
        )
