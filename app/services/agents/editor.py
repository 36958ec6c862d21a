"""Changes to the agents of a running node: made, replaced and deleted over HTTP, read anew from their files. One at a time, on disk before
it is answered; runs that have begun keep the agent that they began with."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from app.body import parse_json
from app.context import current
from app.errors import AgentNotFound, Conflict, Forbidden, InvalidAgent, InvalidJSON, Problem, StoreUnavailable
from app.services.agents.agent import Agent
from app.services.agents.definition import checked, encode
from app.services.agents.library import Library
from app.services.agents.mask import masked
from app.services.agents.settings import Orchestration
from app.services.agents.store import AgentStore
from app.services.contract import NodeContext

LOOK_S = 1.0
"""Seconds between looks at a data directory in which other nodes may make agents, too."""
log = logging.getLogger(__name__)


class Editor:
    """Keeps ``library`` and ``store`` in step. ``node.changed`` is called when there are other agents than before."""

    def __init__(self, library: Library, store: AgentStore, defaults: Orchestration, node: NodeContext) -> None:
        self._library, self._store, self._defaults = library, store, defaults
        self._changed: Callable[[], None] = node.changed
        # Without any key a node believes what anybody says of a principal.
        self._keyed = bool(node.environ.get("ASTROMESH_API_KEYS") or node.environ.get("ASTROMESH_MESH_KEY"))
        self._lock = asyncio.Lock()

    async def find(self, name: str) -> Agent:
        """The agent, also when another node that shares the data directory made it just now. Raises AgentUnavailable or AgentNotFound."""
        if not self._library.knows(name):
            await self._look()
        return self._library.find(name)

    async def describe(self, name: str) -> dict[str, Any]:
        """All about one agent; of one that was made over HTTP also its definition, secrets masked."""
        if not self._library.knows(name):
            await self._look()
        told = self._library.describe(name)
        content = None if self._library.file_of(name) else await asyncio.to_thread(self._store.read, name)
        return told if content is None else {**told, "definition": _shown(content)}

    async def make(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a new agent. Raises Forbidden, InvalidAgent or Conflict."""
        self._check_allowed("make")
        async with self._lock:
            agent = await asyncio.to_thread(checked, definition, self._defaults)
            await self._check_no_file(agent.name)
            await asyncio.to_thread(self._store.create, agent.name, encode(definition))
            await self._load("made", agent.name)
        return await self.describe(agent.name)

    async def put(self, name: str, definition: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Keep an agent under its name; (all about it, whether it is new). Raises Forbidden, InvalidAgent or Conflict."""
        self._check_allowed("change")
        async with self._lock:
            agent = await asyncio.to_thread(checked, definition, self._defaults)
            if agent.name != name:
                message = f"is {agent.name!r}, and the path names {name!r}"
                raise InvalidAgent([Problem("the body", message, "metadata.name", remedy="make the two the same")])
            await self._check_no_file(name)
            new = await asyncio.to_thread(self._store.read, name) is None
            await asyncio.to_thread(self._store.create if new else self._store.replace, name, encode(definition))
            await self._load("made" if new else "changed", name)
        return await self.describe(name), new

    async def delete(self, name: str) -> None:
        """Raises Forbidden, Conflict for an agent from a file, or AgentNotFound."""
        self._check_allowed("delete")
        async with self._lock:
            await self._check_no_file(name)
            # A name that no agent can have is none of a file of the store either.
            if not self._library.knows(name) or not await asyncio.to_thread(self._store.delete, name):
                raise AgentNotFound(f"There is no agent {name!r} here; GET /v1/agents lists those there are.")
            await self._load("deleted", name)

    async def reload(self) -> dict[str, Any]:
        """Read all files anew; what is loaded then."""
        async with self._lock:
            before = set(self._library.agents)
            await asyncio.to_thread(self._library.load)
            self._changed()
        told = self._library.summary()
        new, gone = sorted(set(told["loaded"]) - before), sorted(before - set(told["loaded"]))
        log.info("read the agent files anew: %d agents; new: %s; gone: %s", told["agents"], ", ".join(new) or "-", ", ".join(gone) or "-")
        return told

    async def watch(self) -> None:
        """Take in what other nodes do in the same data directory, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look()

    async def _look(self) -> None:
        async with self._lock:
            try:
                if await asyncio.to_thread(self._library.load_made):
                    self._changed()
            except StoreUnavailable as error:
                log.warning("%s", error.message)

    async def _load(self, what: str, name: str) -> None:
        await asyncio.to_thread(self._library.load_made)
        self._changed()
        log.info("agent %s was %s over HTTP by %s", name, what, current().principal)

    def _check_allowed(self, what: str) -> None:
        if not (self._keyed and current().principal):
            told = f"Nobody may {what} agents over HTTP on a node that asks for no API key"
            raise Forbidden(f"{told}; set ASTROMESH_API_KEYS, also on the node that clients call, or write the agent as a file.")

    async def _check_no_file(self, name: str) -> None:
        await asyncio.to_thread(self._library.load_made)
        if file := self._library.file_of(name):
            told = f"The agent {name!r} is in the file {file}, and files win: it cannot be replaced or deleted over HTTP"
            raise Conflict(f"{told}; change the file and POST /v1/agents/reload, or take another name.", param="$.metadata.name")


def _shown(content: bytes) -> Any:
    try:
        return masked(parse_json(content))
    except InvalidJSON:
        return None
