"""The agents of a node by name: those of the files in its configuration folder, and those that were made over HTTP. Files win."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from app.config.yaml import read
from app.errors import AgentNotFound, AgentUnavailable
from app.services.agents.agent import Agent
from app.services.agents.definition import read_made, stored
from app.services.agents.settings import Orchestration
from app.services.agents.shelf import BrokenFile, Reader, Shelf
from app.services.agents.spec import read_agent
from app.services.agents.store import AgentStore
from app.services.contract import Check

SUFFIX = ".agent.yaml"
log = logging.getLogger(__name__)


class Library:
    """Empty until ``load``. ``environ`` has the variables that files name; ``store`` keeps the agents that were made over HTTP."""

    def __init__(
        self, folder: Path, defaults: Orchestration, environ: Mapping[str, str] | None = None, store: AgentStore | None = None
    ) -> None:
        self._folder, self._store = folder, store
        self._files_reader = Reader(read, partial(read_agent, defaults=defaults, environ=environ))
        self._made_reader = Reader(stored, partial(read_made, defaults=defaults))
        self._files, self._made = Shelf(), Shelf()
        self._stamp: object = None
        self.agents: Mapping[str, Agent] = {}
        self.broken: list[BrokenFile] = []

    def load(self) -> None:
        """Read every agent file, in the order of their names, and log what is wrong. A missing folder has no agents. Blocks on the disk."""
        self._files = self._files.reread(sorted(self._folder.glob(f"*{SUFFIX}")), self._files_reader)
        self._stamp = None
        self.load_made()
        _tell(self.broken, self.agents)

    def load_made(self) -> bool:
        """Read the agents that were made over HTTP, here or by another node that shares the data directory, if they have changed; says
        whether they had. Blocks on the disk."""
        stamp = self._store.stamp() if self._store else None
        changed = stamp != self._stamp
        if self._store and changed:
            self._made = self._made.reread(self._store.paths(), self._made_reader)
        self._stamp = stamp
        self.agents = {**self._made.agents, **{name: self._winning(agent) for name, agent in self._files.agents.items()}}
        self.broken = [*self._files.broken, *self._made.broken]
        return changed

    def _winning(self, agent: Agent) -> Agent:
        """A file's agent, with a word of the one that it keeps from being used."""
        passed_over = self._made.agents.get(agent.name)
        if passed_over is None:
            return agent
        told = f"an agent of this name was made over HTTP and is passed over, for files win; delete {passed_over.file} or rename the file's"
        return replace(agent, warnings=(*agent.warnings, told))

    def file_of(self, name: str) -> str:
        """The configuration file that has an agent's name, "" for none."""
        if name in self._files.agents:
            return self._files.agents[name].file
        return next((str(self._folder / broken.file) for broken in self._files.broken if broken.name == name), "")

    def find(self, name: str) -> Agent:
        """Raises AgentUnavailable for a broken file, AgentNotFound with the names there are."""
        if name in self.agents:
            return self.agents[name]
        if broken := self._broken(name):
            errors = "; ".join(str(problem) for problem in broken.problems)
            raise AgentUnavailable(f"Agent {name!r} cannot run, its file is broken: {errors}")
        raise AgentNotFound(f"There is no agent {name!r} here; there is {', '.join(sorted(self.agents)) or 'none'}.")

    def knows(self, name: str) -> bool:
        return name in self.agents or self._broken(name) is not None

    def describe(self, name: str) -> dict[str, Any]:
        broken = None if name in self.agents else self._broken(name)
        return broken.row() if broken else self.find(name).detail()

    def rows(self) -> list[dict[str, Any]]:
        rows = [agent.row() for agent in self.agents.values()] + [broken.row() for broken in self.broken if not broken.kept]
        return sorted(rows, key=lambda row: str(row["name"]))

    def summary(self) -> dict[str, Any]:
        """What is loaded: the answer to a reload."""
        unavailable = [{"name": agent.name, "reason": agent.unavailable} for agent in self.agents.values() if agent.unavailable]
        broken = [{**broken.row(), "kept": broken.kept} for broken in self.broken]
        return {"agents": len(self.agents), "loaded": sorted(self.agents), "broken": broken, "unavailable": unavailable}

    def check(self) -> dict[str, Check]:
        agents = self.agents.values()
        warned = [f"{agent.name}: {warning}" for agent in agents for warning in agent.warnings]
        wrong = [str(problem) for broken in self.broken if not broken.kept for problem in broken.problems]
        wrong += [f"{agent.name} goes on as it was before its file broke: {agent.stale}" for agent in agents if agent.stale]
        wrong += [f"{agent.name} is unavailable: {agent.unavailable}" for agent in agents if agent.unavailable]
        ready = sum(not agent.unavailable for agent in agents)
        checks = {"agents": Check("degraded" if wrong else "ok", "; ".join([f"{ready} ready", *wrong]))}
        if warned:
            checks["agents.fields"] = Check("degraded", "; ".join(warned))
        return checks

    def _broken(self, name: str) -> BrokenFile | None:
        return next((broken for broken in self.broken if broken.name == name), None)


def _tell(broken: list[BrokenFile], agents: Mapping[str, Agent]) -> None:
    for problem in (problem for file in broken for problem in file.problems):
        log.error("agent file: %s", problem)
    for agent in agents.values():
        if agent.stale:
            log.warning("agent %s (%s) goes on as it was before its file broke", agent.name, agent.file)
        for warning in agent.warnings:
            log.warning("agent %s (%s): %s", agent.name, agent.file, warning)
        if agent.unavailable:
            log.warning("agent %s (%s) is unavailable: %s", agent.name, agent.file, agent.unavailable)
