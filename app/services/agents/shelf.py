"""The agents of one folder as they were read. A broken file stops nobody: it is kept beside the others with what is wrong in it, and an
agent that it gave before goes on as it was."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from app.config.yaml import Document
from app.errors import ConfigError, Problem
from app.services.agents.agent import Agent

ENDINGS = (".agent.yaml", ".agent.json")


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """An agent file that cannot be used. ``name`` is the agent's, or the file's where that is unknown or taken. ``kept``: the agent that it
    gave before goes on."""

    name: str
    file: str
    problems: tuple[Problem, ...]
    kept: bool = False

    def row(self) -> dict[str, Any]:
        return {"name": self.name, "file": self.file, "status": "broken", "errors": [str(problem) for problem in self.problems]}


@dataclass(frozen=True, slots=True)
class Reader:
    """How the files of a folder are read: as documents, and documents as agents. Both raise ConfigError with every problem."""

    document: Callable[[Path], Document]
    agent: Callable[[Document], Agent]


@dataclass(frozen=True, slots=True)
class Shelf:
    """``agents`` by name, and the files that gave none, or none that is new."""

    agents: Mapping[str, Agent] = field(default_factory=dict)
    broken: tuple[BrokenFile, ...] = ()

    def reread(self, paths: Iterable[Path], reader: Reader) -> "Shelf":
        """The shelf as the files are now. Blocks on the disk."""
        fresh = _Reading(reader)
        for path in paths:
            fresh.take(path)
        fresh.keep({agent.file: agent for agent in self.agents.values()})
        return Shelf(fresh.agents, tuple(fresh.broken.values()))


class _Reading:
    """The files of one folder, read one after the other. ``broken`` is by path."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.agents: dict[str, Agent] = {}
        self.broken: dict[str, BrokenFile] = {}

    def take(self, path: Path) -> None:
        stem = _stem(path)
        name = stem
        try:
            document = self._reader.document(path)
            name = _name_in(document) or name
            agent = self._reader.agent(document)
            if known := self.agents.get(name):
                message = f"{name!r} is the name in {known.file} already"
                raise ConfigError([document.problem(("metadata", "name"), message, "rename one of the two")])
            self.agents[name] = agent
        except ConfigError as error:
            self.broken[str(path)] = BrokenFile(stem if name in self.agents else name, path.name, error.problems)

    def keep(self, before: Mapping[str, Agent]) -> None:
        """Let agents go on whose files have broken since, unless another file has their name now."""
        for file, broken in self.broken.items():
            agent = before.get(file)
            if agent is not None and agent.name not in self.agents:
                self.agents[agent.name] = replace(agent, stale="; ".join(str(problem) for problem in broken.problems))
                self.broken[file] = replace(broken, name=agent.name, kept=True)


def _stem(path: Path) -> str:
    for ending in ENDINGS:
        if path.name.endswith(ending):
            return path.name.removesuffix(ending)
    return path.name


def _name_in(document: Document) -> str | None:
    metadata = document.data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return name if isinstance(name, str) and name else None
