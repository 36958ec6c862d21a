"""The table of services: where each one's class is, and the paths it owns. Reading it imports no service."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a service in the configuration folder: the ``kind`` in their header ("" for files without one), and their ``pattern``.

    ``examine`` is the "module:function" that looks at some of them, (paths, environ) -> Examined of each.
    """

    kind: str
    pattern: str
    examine: str


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """``target`` is "module:Class". ``paths`` are the first segments below /v1 that it owns, each with the index of the path segment that
    holds its key ("/v1/agents/{name}" has its key at 3), None for none.
    ``settings`` is the "module:dataclass" of ``spec.<service>`` with its defaults."""

    target: str
    paths: Mapping[str, int | None]
    forwarded: bool = True
    files: Files | None = None
    settings: str | None = None


_AGENT_FILES = Files("Agent", "agents/*.agent.yaml", "app.services.agents.examination:examine")
_PROVIDERS_FILE = Files("ProviderConfig", "providers.yaml", "app.services.inference.examination:examine")
_CHANNELS_FILE = Files("", "channels.yaml", "app.services.channels.examination:examine")
_RAG_FILES = Files("RAGPipeline", "rag/*.rag.yaml", "app.services.rag.examination:examine")

SERVICES: Mapping[str, ServiceEntry] = {
    "agents": ServiceEntry(
        "app.services.agents:Agents", {"agents": 3, "ws": 4}, files=_AGENT_FILES, settings="app.services.agents.settings:Settings"
    ),
    "inference": ServiceEntry(
        "app.services.inference:Inference",
        {"embeddings": None, "providers": None},
        files=_PROVIDERS_FILE,
        settings="app.services.inference.configuration:Configuration",
    ),
    "memory": ServiceEntry("app.services.memory:Memory", {"memory": 5}, settings="app.services.memory.conversation:MemorySettings"),
    "tools": ServiceEntry("app.services.tools:Tools", {"tools": None}, settings="app.services.tools.registry:ToolSettings"),
    "channels": ServiceEntry(
        "app.services.channels:Channels", {"channels": None}, files=_CHANNELS_FILE, settings="app.services.channels.settings:Settings"
    ),
    "rag": ServiceEntry("app.services.rag:Rag", {"rag": 4}, files=_RAG_FILES, settings="app.services.rag.settings:Settings"),
    "observability": ServiceEntry(
        "app.services.observability:Observability",
        {"traces": None, "metrics": None},
        forwarded=False,
        settings="app.config.profile:ObservabilitySettings",
    ),
}

SERVICE_NAMES = ("api", *SERVICES)
