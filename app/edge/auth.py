"""Who is calling: API keys of clients, and whether a request comes from a peer.

With a mesh key nodes sign what they send. Without one a node presents its own first API key to its peers, so whoever holds the first key
may speak as a node; give clients other keys. On a node without any key everybody is believed.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from app.config.settings import ApiKey
from app.errors import Unauthorized
from app.signing import SCHEME, Claim, Verifier

_SCHEME = f"{SCHEME} ".encode()
_REMEDY = "send a valid key as `Authorization: Bearer <key>`, or as the password of Basic authentication."


@dataclass(frozen=True, slots=True)
class Caller:
    """``principal`` is the key's name, "" without keys; ``may_be_peer`` says whether node headers are believed."""

    principal: str
    may_be_peer: bool


def is_signature(authorization: bytes | None) -> bool:
    """Whether an Authorization value is a node's signature."""
    return authorization is not None and authorization.startswith(_SCHEME)


class Auth:
    """Checks the Authorization header against the configured keys, in constant time over all of them. ``verifier`` checks the signatures
    of nodes, where there is a mesh key."""

    def __init__(self, keys: Sequence[ApiKey], verifier: Verifier | None = None) -> None:
        self._keys = [(key.name, key.secret.encode()) for key in keys]
        self._names = frozenset(key.name for key in keys)
        self._verifier = verifier
        self._anonymous = Caller("", may_be_peer=not keys and verifier is None)

    @property
    def names(self) -> frozenset[str]:
        """The names of all keys: the principals there can be."""
        return self._names

    @property
    def enabled(self) -> bool:
        return bool(self._keys)

    def is_operator(self, principal: str) -> bool:
        """Whether a caller may steer the node itself: the holder of the first key, or anybody where there are no keys of any kind."""
        return principal == self._keys[0][0] if self._keys else self._verifier is None

    @property
    def operators(self) -> str:
        """Who that is, for a person."""
        return (
            "present the first of ASTROMESH_API_KEYS"
            if self._keys
            else "there is a mesh key and no API key, so ask from this machine itself"
        )

    @property
    def checks_signatures(self) -> bool:
        """Whether nodes have to sign what they send: there is a mesh key."""
        return self._verifier is not None

    def answer(self, authorization: str, body: bytes) -> str:
        """The code that proves this node's answer to a signed request."""
        assert self._verifier is not None
        return self._verifier.answer(authorization, body)

    def node(self, authorization: bytes, claim: Claim) -> str:
        """The id of the node that signed this request. Raises Unauthorized, with a challenge where the node is not known yet."""
        if self._verifier is None:
            raise Unauthorized("This node has no mesh key, so it cannot check signatures; set the same ASTROMESH_MESH_KEY on both nodes.")
        return self._verifier.sender(authorization.decode("latin-1"), claim)

    def caller(self, authorization: bytes | None, public: bool) -> Caller:
        """The client behind a raw header value. Raises Unauthorized unless ``public``."""
        if not self._keys:
            return self._anonymous
        if authorization is None:
            if public:
                return self._anonymous
            raise _unauthorized(f"An API key is missing; {_REMEDY}")
        presented = _secret(authorization)
        matches = [index for index, (_, secret) in enumerate(self._keys) if hmac.compare_digest(presented, secret)]
        if matches:
            return Caller(self._keys[matches[0]][0], may_be_peer=matches[0] == 0 and self._verifier is None)
        if public:
            return self._anonymous
        raise _unauthorized(f"The API key is not one of this node's; {_REMEDY}")


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
