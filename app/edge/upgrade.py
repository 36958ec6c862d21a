"""What is particular to a WebSocket at the edge: the page that it comes from, and the key of a browser, which can set no Authorization."""

import base64
import binascii

from starlette.types import Scope

from app.errors import Unauthorized
from app.frames import UPGRADE

KEY_PROTOCOL = b"astromesh.key."
"""What a client puts before its API key in base64url, as one of its subprotocols: a key in a URL would be kept by logs and histories. It
goes no further than the node that checks it."""


def is_upgrade(scope: Scope) -> bool:
    return UPGRADE in scope.get("extensions", ())


def take_key(scope: Scope) -> bytes | None:
    """The Authorization value that stands for the key among the offered subprotocols, which is taken out of them. Raises Unauthorized for
    one that cannot be read."""
    key: bytes | None = None
    headers = list[tuple[bytes, bytes]]()
    for name, value in scope["headers"]:
        if name == b"sec-websocket-protocol" and KEY_PROTOCOL in value:
            offered = [part.strip() for part in value.split(b",")]
            key = next((part for part in offered if part.startswith(KEY_PROTOCOL)), key)
            value = b", ".join(part for part in offered if not part.startswith(KEY_PROTOCOL))
            if not value:
                continue
        headers.append((name, value))
    scope["headers"] = headers
    return None if key is None else b"Bearer " + _decoded(key.removeprefix(KEY_PROTOCOL))


def page_of(scope: Scope) -> tuple[str | None, str]:
    """The origin of the page that asks, None for a program, and the host that it asks."""
    headers = dict(scope["headers"])
    origin = headers.get(b"origin")
    return None if origin is None else origin.decode("latin-1"), headers.get(b"host", b"").decode("latin-1")


def _decoded(key: bytes) -> bytes:
    try:
        return base64.b64decode(key + b"=" * (-len(key) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        told = f"The subprotocol {KEY_PROTOCOL.decode()}… does not hold a key in base64url"
        raise Unauthorized(f"{told}; encode the API key, with - and _ and without =.") from None
