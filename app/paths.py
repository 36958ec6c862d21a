"""The path table: which service owns a path, and which segment of it is the key. Built once from SERVICES; imports no service."""

import re
from functools import lru_cache

from app.services import SERVICES

_OWNERS = {segment: (service, key_at) for service, entry in SERVICES.items() for segment, key_at in entry.paths.items()}
_ROUTES = frozenset({"/v1/agents", "/v1/agents/{}", "/v1/agents/{}/run", "/v1/chat/completions", "/v1/embeddings", "/v1/providers"})
_ROUTES |= {"/v1/agents/reload", "/v1/ws/agent/{}"}
_ROUTES |= {"/v1/models", "/v1/models/{}", "/v1/tools", "/v1/tools/builtin", "/v1/tools/execute", "/v1/memory/{}/history/{}"}
_ROUTES |= {"/v1/memory/{}/history/{}/turns/{}", "/v1/system/status", "/v1/system/doctor", "/v1/health", "/v1/metrics"}
_ROUTES |= {"/v1/memory/{}/semantic", "/v1/memory/{}/runs/{}/{}", "/v1/memory/{}/history/{}/summary"}
_ROUTES |= {"/v1/mesh/state", "/v1/mesh/join", "/v1/mesh/gossip", "/v1/mesh/sync", "/v1/mesh/probe", "/v1/mesh/leave"}
_ROUTES |= {"/v1/channels", "/v1/channels/{}/webhook", "/v1/channels/{}/inbox", "/v1/channels/{}/outbox"}
_ROUTES |= {"/v1/channels/{}/inbox/{}/retry", "/v1/channels/{}/outbox/{}/retry"}
_ROUTES |= {"/v1/rag/collections", "/v1/rag/ingest", "/v1/rag/query"}
_ROUTES |= {f"/v1/rag/collections/{{}}{rest}" for rest in ("", "/ingest", "/query", "/documents", "/documents/{}", "/jobs", "/jobs/{}")}
_ROUTES |= {"/livez", "/readyz", "/metrics", "/v1/traces", "/v1/traces/{}"}
_ROUTES |= {"/openapi.json"}
_WITH_SLASHES = (re.compile("/v1/models/"), re.compile("/v1/rag/collections/[^/]+/documents/"))
"""Where the rest of the path is one name, whatever is in it."""
_WORDS = frozenset(word for route in _ROUTES for word in route.split("/")) - {"{}"}


def owner(path: str) -> tuple[str, str | None] | None:
    """(service, key) of a decoded path without a trailing slash; None where no service owns it."""
    parts = path.split("/")
    if len(parts) < 3 or parts[1] != "v1":
        return ("observability", None) if path == "/metrics" else None
    found = _OWNERS.get(parts[2])
    if found is None:
        return None
    service, key_at = found
    return service, parts[key_at] if key_at is not None and len(parts) > key_at else None


@lru_cache(4096)
def template(path: str) -> str:
    """The route of a path as a label for metrics ("/v1/agents/{}/run"), from a bounded set: what is no route of ours is "other"."""
    shape = "/".join(part if part in _WORDS else "{}" for part in path.split("/", 7))
    if shape in _ROUTES:
        return shape
    within = (route for route in _WITH_SLASHES if route.match(path))
    return next((route.pattern.replace("[^/]+", "{}") + "{}" for route in within), "other")
