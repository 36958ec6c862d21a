"""The table of services: where each one's class is, and the paths it owns. Reading it imports no service."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """``target`` is "module:Class", or None while this build lacks the service. ``paths`` are the first segments below /v1 that it
    owns, each with the index of the path segment that holds its key ("/v1/agents/{name}" has its key at 3), None for none."""

    target: str | None
    paths: Mapping[str, int | None]
    forwarded: bool = True


SERVICES: Mapping[str, ServiceEntry] = {
    "agents": ServiceEntry("app.services.agents:Agents", {"agents": 3, "ws": 4}),
    "inference": ServiceEntry("app.services.inference:Inference", {"embeddings": None, "providers": None}),
    "memory": ServiceEntry("app.services.memory:Memory", {"memory": 5}),
    "tools": ServiceEntry("app.services.tools:Tools", {"tools": None}),
    "channels": ServiceEntry("app.services.channels:Channels", {"channels": None}),
    "rag": ServiceEntry(None, {"rag": None}),
    "observability": ServiceEntry("app.services.observability:Observability", {"traces": None, "metrics": None}, forwarded=False),
}

SERVICE_NAMES = ("api", *SERVICES)
