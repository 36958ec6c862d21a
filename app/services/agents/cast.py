"""Who plays the roles of an agent's pattern: which models, in which order, told what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.services.agents.mask import masked
from app.services.agents.prompt import Prompt

DEFAULT_MODEL = "default"
"""The name under which the inference service serves whatever model the node has."""
_ROLES: Mapping[str, tuple[str, ...]] = {
    "react": ("reasoner",),
    "plan_and_execute": ("planner", "worker", "synthesizer"),
    "parallel_fan_out": ("planner", "worker", "synthesizer"),
    "supervisor": ("supervisor",),
    "swarm": ("reasoner",),
}


def roles_of(pattern: str, stages: tuple[str, ...]) -> tuple[str, ...]:
    """The roles that a pattern asks for; the last one gives the answer."""
    return _ROLES.get(pattern) or tuple(f"stage:{stage}" for stage in stages)


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model to ask: its name as the inference service knows it, and the sampling parameters to send along."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        return {"model": self.name, "parameters": masked(self.parameters)}


@dataclass(frozen=True, slots=True)
class Candidates:
    """Models for one thing, the next for when one does not answer. ``rotate``: each ask begins with another of them."""

    name: str = "default"
    choices: tuple[ModelChoice, ...] = (ModelChoice(DEFAULT_MODEL),)
    rotate: bool = False


@dataclass(frozen=True, slots=True)
class Cast:
    """``roles`` and ``templates`` hold what the file has for the roles of the pattern; the rest play ``default`` as they are told here.

    ``stages`` are a pipeline's; ``narrate`` lets listeners hear the words of every role.
    """

    roles: Mapping[str, Candidates] = field(default_factory=dict)
    default: Candidates = Candidates()
    templates: Mapping[str, Prompt] = field(default_factory=dict)
    stages: tuple[str, ...] = ()
    narrate: bool = False

    def candidates(self, role: str) -> Candidates:
        return self.roles.get(role, self.default)


class Rotation:
    """Where each group of candidates that take turns has got to, on this node."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, str], int] = {}

    def order(self, agent: str, candidates: Candidates) -> tuple[ModelChoice, ...]:
        """The choices, in the order in which this ask tries them."""
        if not candidates.rotate:
            return candidates.choices
        key = (agent, candidates.name)
        first = self._next.get(key, 0) % len(candidates.choices)
        self._next[key] = first + 1
        return candidates.choices[first:] + candidates.choices[:first]
