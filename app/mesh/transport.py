"""Carries messages to other nodes over HTTP, signed where there is a mesh key. The HTTP client is handed in."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence

from app.errors import NodeError
from app.mesh.messages import Message, Send
from app.mesh.wire import decode, encode
from app.signing import ANSWER, CHALLENGE, Claim, Signer

PATH = "/v1/mesh/"
Headers = Sequence[tuple[bytes, bytes]]
Post = Callable[[str, Headers, bytes], Awaitable[tuple[int, Headers, bytes]]]
"""(url, headers, body) -> (status, headers with lower-case names, body). Raises ConnectionError saying why there is no answer."""
_CHALLENGE, _ANSWER = CHALLENGE.lower().encode(), ANSWER.lower().encode()


class NoAnswerError(Exception):
    """Nobody answered, or with something that is no message; the text says why. ``refused``: somebody is there and takes no messages
    of this node."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Transport:
    """``sent`` and ``received`` count bytes of message bodies, as this node asks."""

    def __init__(self, post: Post, signer: Signer | None) -> None:
        self._post, self._signer = post, signer
        self.sent = self.received = 0

    async def send(self, send: Send) -> Message:
        """Post one message and return the answer. Raises NoAnswerError."""
        data = encode(send.message)
        try:
            async with asyncio.timeout(send.timeout_s):
                status, body = await self._ask(send.url, PATH + send.message.kind, data)
        except TimeoutError as error:
            raise NoAnswerError(f"no answer within {send.timeout_s:.1f} s") from error
        except ConnectionError as error:
            raise NoAnswerError(str(error)) from error
        if not (status == 200 or 400 <= status < 500):
            raise NoAnswerError(f"it answered {status}: {_told(body)}", refused=True)
        try:
            return decode(body)
        except NodeError as error:
            told = f"it answered {status}: {_told(body)}" if status != 200 else f"its answer is no message: {error.message}"
            raise NoAnswerError(told, refused=status != 200) from error

    async def _ask(self, base: str, path: str, data: bytes) -> tuple[int, bytes]:
        """Ask, and once more where the other one does not know this node yet."""
        for again in (True, False):
            authorization = self._signer.authorization(base, Claim("POST", path, {}, data)) if self._signer else ""
            headers = [(b"content-type", b"application/json")]
            if authorization:
                headers.append((b"authorization", authorization.encode()))
            self.sent += len(data)
            status, answered, body = await self._post(base + path, headers, data)
            self.received += len(body)
            if self._signer is None:
                break
            if status == 401 and again and self._signer.take_challenge(base, _value(answered, _CHALLENGE)):
                continue
            if not self._signer.is_answer(_value(answered, _ANSWER), authorization, body):  # it proves nothing, whatever it says
                told = f"it answered {status}: {_told(body)}" if status >= 400 else "its answer is not signed by the mesh key"
                raise NoAnswerError(f"{told}; the same ASTROMESH_MESH_KEY must be set on both nodes", refused=True)
            break
        return status, body


def _value(headers: Headers, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in headers if key == name), "")


def _told(body: bytes) -> str:
    """The message of an error answer, or the beginning of whatever it is."""
    try:
        return str(json.loads(body)["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError, RecursionError):
        return repr(body[:80])
