"""The one contract between the node and its services. A service knows of its node what NodeContext holds, and nothing else."""

from asyncio import Event
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from app.session import NO_STORE
from app.tracing import OFF, Recorder

AskPeers = Callable[[str], Awaitable[tuple[Sequence[tuple[str, Any]], Sequence[str]]]]
"""The target of a GET -> the JSON answers of the peers that have one, each with the peer's name; and the names of those that do not say."""
Locate = Callable[[str, str | None], ASGIApp]
"""(service, key) -> whoever answers, here or elsewhere. The key is the agent's name, the model, the session; None where there is none."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of ``doctor``. Only ``error`` makes ``/readyz`` fail; ``degraded`` serves with something missing."""

    status: Literal["ok", "degraded", "error", "unavailable"]
    message: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a service tells of itself, without I/O: the keys it serves (None: any key) and the random id of the store it keeps."""

    keys: frozenset[str] | None = None
    store_id: str | None = None


async def no_peers(target: str) -> tuple[Sequence[tuple[str, Any]], Sequence[str]]:
    return (), ()


def untold() -> None:
    """The ``changed`` of a node that nobody else has to know of."""


def no_store() -> str:
    """The ``store_for_new_session`` of a node that knows of none."""
    return NO_STORE


@dataclass(frozen=True, slots=True)
class NodeContext:
    """What a service may know of its node. ``environ`` is the process environment with every ``X_FILE`` secret already read into ``X``;
    a service whose facts have changed calls ``changed``, so that other nodes hear of it at once. ``store_id`` is the data directory's;
    a session that is made here is named after ``store_for_new_session``, which may be another."""

    name: str
    node_id: str
    store_id: str
    data_dir: Path
    config_dir: Path
    locate: Locate
    metrics: CollectorRegistry
    draining: Event
    environ: Mapping[str, str]
    traces: Recorder = OFF
    ask_peers: AskPeers = no_peers
    changed: Callable[[], None] = untold
    store_for_new_session: Callable[[], str] = no_store


class Service(Protocol):
    """One capability of the node. Constructing it does no I/O; ``config`` is the profile's ``spec.<service>`` section."""

    def __init__(self, config: Mapping[str, Any], node: NodeContext) -> None: ...

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Absolute paths, without a trailing slash: "/v1/memory/{agent}/history/{session}"."""
        ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """Acquire on enter, release on exit. Raises ConfigError for configuration files that cannot be used."""
        ...

    async def run(self) -> None:
        """Background work until cancelled; may return at once. Raising stops the node."""
        ...

    def facts(self) -> Facts: ...

    async def check(self) -> Mapping[str, Check]:
        """Checks by name, for /readyz and doctor; each at most a second, and none of them of a peer."""
        ...
