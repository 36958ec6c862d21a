"""An agent as its file describes it, checked and filled in: values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.services.agents.cast import Cast, ModelChoice, roles_of
from app.services.agents.guardrails.guardrail import Guardrail
from app.services.agents.output import OutputSchema
from app.services.agents.prompt import Prompt
from app.services.agents.recollection import Recollecting
from app.services.agents.remembering import Remembering

SEARCH = "knowledge_search"
"""The builtin tool that carries out every tool of the type rag."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the agent may use. ``type`` is builtin, agent, client, webhook or rag; ``parameters`` is a JSON Schema, None without one;
    ``collections`` are those that a rag tool searches.

    ``url`` and ``headers`` are a webhook's, and never shown: they may hold secrets.
    """

    name: str
    type: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    agent: str = ""
    collections: tuple[str, ...] = ()
    url: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent. ``memory`` is None without one, as ``semantic`` is then; ``unavailable`` says why this build cannot run it, "" when it
    can.

    ``permitted`` are the tools that it may call, None for all of them. ``made`` says that it came over HTTP, not from whoever runs the
    node; ``stale`` what is wrong in its file, where that has broken since this agent was read.
    """

    name: str
    file: str
    version: str = ""
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    display_name: str = ""
    description: str = ""
    avatar: str = ""
    cast: Cast = field(default_factory=Cast)
    system: Prompt | None = None
    pattern: str = "react"
    max_iterations: int = 10
    timeout_s: float = 300.0
    tools: tuple[Tool, ...] = ()
    permitted: frozenset[str] | None = None
    memory: Remembering | None = None
    semantic: Recollecting | None = None
    output: OutputSchema | None = None
    guardrails: tuple[Guardrail, ...] = ()
    warnings: tuple[str, ...] = ()
    unavailable: str = ""
    made: bool = False
    stale: str = ""

    def may_call(self, tool: str) -> bool:
        return self.permitted is None or tool in self.permitted

    @property
    def models(self) -> tuple[ModelChoice, ...]:
        """Those that give the answer."""
        return self.cast.candidates(self.roles[-1]).choices

    @property
    def roles(self) -> tuple[str, ...]:
        return roles_of(self.pattern, self.cast.stages)

    def row(self) -> dict[str, Any]:
        """The agent in a list."""
        return {
            "name": self.name,
            "version": self.version,
            "namespace": self.namespace,
            "display_name": self.display_name or self.name,
            "description": self.description,
            "model": self.models[0].name,
            "pattern": self.pattern,
            "tools": [tool.name for tool in self.tools],
            "memory": self.memory is not None,
            "status": "unavailable" if self.unavailable else "ready",
            "reason": self.unavailable or None,
            "stale": self.stale or None,
            "source": "http" if self.made else "file",
            "warnings": list(self.warnings),
            "guardrails": [guardrail.name for guardrail in self.guardrails],
        }

    def detail(self) -> dict[str, Any]:
        """The agent alone: the row and what a list has no room for."""
        return self.row() | {
            "file": self.file,
            "labels": dict(self.labels),
            "avatar": self.avatar,
            "models": [choice.row() for choice in self.models],
            "roles": {role: [choice.row() for choice in self.cast.candidates(role).choices] for role in self.roles},
            "orchestration": {"pattern": self.pattern, "max_iterations": self.max_iterations, "timeout_seconds": self.timeout_s},
            "tools": [_tool_row(tool) for tool in self.tools],
            "memory": self.memory.as_json() | ({"semantic": self.semantic.as_json()} if self.semantic else {}) if self.memory else None,
            "output_schema": self.output.schema if self.output else None,
        }


def _tool_row(tool: Tool) -> dict[str, Any]:
    row: dict[str, Any] = {"name": tool.name, "type": tool.type, "description": tool.description}
    if tool.parameters is not None:
        row["parameters"] = dict(tool.parameters)
    row |= {"agent": tool.agent} if tool.agent else {}
    return row | ({"collections": list(tool.collections)} if tool.collections else {})
