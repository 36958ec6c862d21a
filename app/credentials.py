"""What a node presents to other nodes: a signature by the mesh key where there is one, else its first API key, else nothing."""

from collections.abc import Mapping
from typing import Protocol

from app.call import Headers
from app.signing import CHALLENGE, Claim, Signer

_CHALLENGE = CHALLENGE.lower().encode()


def covered(headers: Headers) -> Mapping[str, str]:
    """The headers that a signature covers: those for which a peer is believed, and the session."""
    fields = dict[str, str]()
    for name, value in headers:
        if name.startswith(b"x-astromesh-") or name == b"x-session-id":
            key, text = name.decode("latin-1"), value.decode("latin-1")
            fields[key] = f"{fields[key]},{text}" if key in fields else text
    return fields


class Credentials(Protocol):
    remedy: str
    """What to look at where another node does not believe this one."""

    def authorization(self, url: str, method: str, target: str, headers: Headers) -> bytes | None:
        """The Authorization value for a request to the node at ``url``."""
        ...

    def challenged(self, url: str, answer: Headers) -> bool:
        """Whether a 401 with these headers is to be answered by sending the request once more."""
        ...


class ApiKeyCredentials:
    """The first API key of this node, "" for none. It says who calls, and proves nothing about what is called."""

    remedy = "the first of ASTROMESH_API_KEYS must be the same on both nodes"

    def __init__(self, key: str) -> None:
        self._header = f"Bearer {key}".encode() if key else None

    def authorization(self, url: str, method: str, target: str, headers: Headers) -> bytes | None:
        return self._header

    def challenged(self, url: str, answer: Headers) -> bool:
        return False


class SignedCredentials:
    """A signature over each request, by the mesh key."""

    remedy = "ASTROMESH_MESH_KEY must be the same on both nodes"

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def authorization(self, url: str, method: str, target: str, headers: Headers) -> bytes | None:
        return self._signer.authorization(url, Claim(method, target, covered(headers))).encode()

    def challenged(self, url: str, answer: Headers) -> bool:
        challenge = next((value.decode("latin-1") for name, value in answer if name == _CHALLENGE), "")
        return self._signer.take_challenge(url, challenge)
