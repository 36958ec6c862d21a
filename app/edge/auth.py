"""Who is calling: API keys of clients, and whether a request comes from a peer.

Until nodes share a mesh key, a node presents its own first API key to its peers; so whoever holds the first key may speak as a node.
Give clients other keys. On a node without any key everybody is believed.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from app.config.settings import ApiKey
from app.errors import Unauthorized

_REMEDY = "send a valid key as `Authorization: Bearer <key>`, or as the password of Basic authentication."


@dataclass(frozen=True, slots=True)
class Caller:
    """``principal`` is the key's name, "" without keys; ``may_be_peer`` says whether node headers are believed."""

    principal: str
    may_be_peer: bool


class Auth:
    """Checks the Authorization header against the configured keys, in constant time over all of them."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = [(key.name, key.secret.encode()) for key in keys]
        self._names = frozenset(key.name for key in keys)
        self._anonymous = Caller("", may_be_peer=not keys)

    @property
    def names(self) -> frozenset[str]:
        """The names of all keys: the principals there can be."""
        return self._names

    @property
    def enabled(self) -> bool:
        return bool(self._keys)

    def caller(self, authorization: bytes | None, public: bool) -> Caller:
        """The caller behind a raw header value. Raises Unauthorized unless ``public``."""
        if not self._keys:
            return self._anonymous
        if authorization is None:
            if public:
                return self._anonymous
            raise _unauthorized(f"An API key is missing; {_REMEDY}")
        presented = _secret(authorization)
        matches = [index for index, (_, secret) in enumerate(self._keys) if hmac.compare_digest(presented, secret)]
        if matches:
            return Caller(self._keys[matches[0]][0], may_be_peer=matches[0] == 0)
        if public:
            return self._anonymous
        raise _unauthorized(f"The API key is not one of this node's; {_REMEDY}")

    def node_header(self) -> tuple[bytes, bytes] | None:
        """What this node presents to its peers."""
        return (b"authorization", b"Bearer " + self._keys[0][1]) if self._keys else None


def _secret(authorization: bytes) -> bytes:
    scheme, _, value = authorization.strip().partition(b" ")
    value = value.strip()
    if scheme.lower() == b"bearer":
        return value
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _unauthorized(message: str) -> Unauthorized:
    return Unauthorized(message, headers={"WWW-Authenticate": 'Bearer realm="astromesh"'})
