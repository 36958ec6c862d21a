"""The path table: which service owns a path, and which segment of it is the key. Built once from SERVICES; imports no service."""

from app.services import SERVICES

_OWNERS = {segment: (service, key_at) for service, entry in SERVICES.items() for segment, key_at in entry.paths.items()}
_WORDS = frozenset({"v1", "agents", "builtin", "channels", "chat", "completions", "doctor", "embeddings", "execute", "health", "history"})
_WORDS |= {"livez", "memory", "mesh", "metrics", "models", "openapi.json", "providers", "rag", "readyz", "run", "state", "status", "system"}
_WORDS |= {"tools", "traces", "turns", "webhook", "ws", "agent"}


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


def template(path: str) -> str:
    """A bounded label for metrics: the path with everything that is not one of our own words as {}; deep paths are cut."""
    parts = path.split("/", 7)
    if len(parts) < 2 or parts[1] not in _WORDS:
        return "{}"
    return "/".join(part if part in _WORDS or not part else "{}" for part in parts[:7])
