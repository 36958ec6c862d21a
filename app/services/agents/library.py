"""The agents of a folder. A broken file stops nobody: it is kept beside the others with what is wrong in it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.config.yaml import Document, read
from app.errors import AgentNotFound, AgentUnavailable, ConfigError, Problem
from app.services.agents.agent import Agent
from app.services.agents.settings import Orchestration
from app.services.agents.spec import read_agent
from app.services.contract import Check

SUFFIX = ".agent.yaml"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """An agent file that cannot be used. ``name`` is the agent's, or the file's where that is unknown or taken."""

    name: str
    file: str
    problems: tuple[Problem, ...]

    def row(self) -> dict[str, Any]:
        return {"name": self.name, "file": self.file, "status": "broken", "errors": [str(problem) for problem in self.problems]}


class Library:
    """The agents of one folder by name, and the files that gave none. Empty until ``load``. ``environ`` has the variables they name."""

    def __init__(self, folder: Path, defaults: Orchestration, environ: Mapping[str, str] | None = None) -> None:
        self._folder, self._environ = folder, environ
        self._defaults = defaults
        self.agents: dict[str, Agent] = {}
        self.broken: list[BrokenFile] = []

    def load(self) -> None:
        """Read every agent file, in the order of their names, and log what is wrong. A missing folder has no agents. Blocks on the disk."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            self._load(path)
        for problem in (problem for file in self.broken for problem in file.problems):
            log.error("agent file: %s", problem)
        for agent in self.agents.values():
            for warning in agent.warnings:
                log.warning("agent %s (%s): %s", agent.name, agent.file, warning)
            if agent.unavailable:
                log.warning("agent %s (%s) is unavailable: %s", agent.name, agent.file, agent.unavailable)

    def _load(self, path: Path) -> None:
        name = path.name.removesuffix(SUFFIX)
        try:
            document = read(path)
            name = _name_in(document) or name
            agent = read_agent(document, self._defaults, self._environ)
            if known := self.agents.get(name):
                message = f"{name!r} is the name in {known.file} already"
                raise ConfigError([document.problem(("metadata", "name"), message, "rename one of the two")])
            self.agents[name] = agent
        except ConfigError as error:
            shown = path.name.removesuffix(SUFFIX) if name in self.agents else name
            self.broken.append(BrokenFile(shown, path.name, error.problems))

    def find(self, name: str) -> Agent:
        """Raises AgentUnavailable for a broken file, AgentNotFound with the names there are."""
        if name in self.agents:
            return self.agents[name]
        if broken := self._broken(name):
            errors = "; ".join(str(problem) for problem in broken.problems)
            raise AgentUnavailable(f"Agent {name!r} cannot run, its file is broken: {errors}")
        raise AgentNotFound(f"There is no agent {name!r} here; there is {', '.join(sorted(self.agents)) or 'none'}.")

    def describe(self, name: str) -> dict[str, Any]:
        broken = None if name in self.agents else self._broken(name)
        return broken.row() if broken else self.find(name).detail()

    def rows(self) -> list[dict[str, Any]]:
        rows = [agent.row() for agent in self.agents.values()] + [broken.row() for broken in self.broken]
        return sorted(rows, key=lambda row: str(row["name"]))

    def check(self) -> dict[str, Check]:
        agents = self.agents.values()
        warned = [f"{agent.name}: {warning}" for agent in agents for warning in agent.warnings]
        wrong = [str(problem) for broken in self.broken for problem in broken.problems]
        wrong += [f"{agent.name} is unavailable: {agent.unavailable}" for agent in agents if agent.unavailable]
        ready = sum(not agent.unavailable for agent in agents)
        checks = {"agents": Check("degraded" if wrong else "ok", "; ".join([f"{ready} ready", *wrong]))}
        if warned:
            checks["agents.fields"] = Check("degraded", "; ".join(warned))
        return checks

    def _broken(self, name: str) -> BrokenFile | None:
        return next((broken for broken in self.broken if broken.name == name), None)


def _name_in(document: Document) -> str | None:
    metadata = document.data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return name if isinstance(name, str) and name else None
