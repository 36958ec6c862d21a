"""Look at agent files without running a node: what is wrong in each, and what this build does not do of it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from app.config.yaml import read
from app.errors import ConfigError, Examined, Problem
from app.services.agents.agent import Agent
from app.services.agents.settings import Orchestration
from app.services.agents.spec import read_agent

KIND = "Agent"


def examine(paths: Sequence[Path], environ: Mapping[str, str]) -> Iterator[Examined]:
    """One Examined for each file, in their order; ``environ`` has the variables that the files name."""
    first = dict[str, str]()
    for path in paths:
        try:
            document = read(path)
            agent = read_agent(document, Orchestration(), environ)
        except ConfigError as error:
            yield Examined(str(path), KIND, error.problems)
            continue
        problems = list[Problem]()
        if (known := first.setdefault(agent.name, agent.file)) != agent.file:
            message = f"{agent.name!r} is the name in {known} already"
            problems.append(document.problem(("metadata", "name"), message, "rename one of the two"))
        yield Examined(str(path), KIND, tuple(problems), tuple(_warnings(agent)))


def _warnings(agent: Agent) -> Iterator[str]:
    if agent.unavailable:
        yield f"the agent is unavailable: {agent.unavailable}"
    yield from agent.warnings
