"""Which web pages may open a WebSocket. CORS does not hold browsers back from that: the node that is asked has to look at ``Origin``."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from app.errors import ForbiddenOrigin

_PORTS = {"http": 80, "https": 443}


def check_origin(origin: str | None, host: str, allowed: Sequence[str]) -> None:
    """Raise ForbiddenOrigin unless a page of ``origin`` may upgrade: one of the node's own ``host`` (its Host header), or of ``allowed``
    (spec.api.cors_origins). Programs that are no browsers send no Origin."""
    if origin is None or "*" in allowed or origin.lower() in allowed or _is_of(origin, host):
        return
    raise ForbiddenOrigin(
        f"The origin {origin[:100]!r} may not open WebSockets here; add it to spec.api.cors_origins, or send no Origin from a program."
    )


def _is_of(origin: str, host: str) -> bool:
    """Whether both name one host and port. The scheme may differ: with TLS in front, a page of https reaches the node by http."""
    try:
        page = urlsplit(origin)
        port = page.port or _PORTS.get(page.scheme)
        own = urlsplit(f"//{host}")
        own_port = own.port or _PORTS.get(page.scheme)
    except ValueError:
        return False
    return page.scheme in _PORTS and bool(page.hostname) and (page.hostname, port) == (own.hostname, own_port)
