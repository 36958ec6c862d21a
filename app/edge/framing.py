"""How an answer is framed in HTTP/1.1 (RFC 9112 §6): by its length, in chunks, by the connection's end, or without a body. No I/O."""

import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS = bytes(range(9)) + bytes(range(10, 32)) + b"\x7f"
"""What no field of a head may hold: all control characters but the tab."""
_BODYLESS = frozenset((204, 304))


class IllegalAnswerError(RuntimeError):
    """A handler's answer that cannot be written as HTTP: a mistake in the handler."""


class Framing:
    """Turns one answer into bytes. ``keep_alive`` says whether another request may follow on its connection."""

    __slots__ = ("_bodyless", "_chunked", "_left", "_upgraded", "_version", "complete", "keep_alive", "started")

    def __init__(self, method: str, version: str, *, keep_alive: bool) -> None:
        self._version, self._bodyless = version, method == "HEAD"
        self.keep_alive = keep_alive
        self.started = self.complete = self._chunked = self._upgraded = False
        self._left: int | None = None  # bytes of the body that are still to come; None: any number

    def head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The head, which decides how the body is framed. Raises IllegalAnswerError."""
        lines = [status_line(status)]
        close = not self.keep_alive
        for name, value in headers:
            begin = _line_of(name)
            if begin not in _OURS:
                lines.append(begin + value)
            elif begin == b"content-length: ":
                lines.append(begin + value)
                self._left = int(value)
            elif begin == b"connection: ":
                close = close or b"close" in value.lower()
        self._bodyless = self._bodyless or status in _BODYLESS
        if status == 101:  # what follows is no body, and goes out as it is
            self._upgraded, self.keep_alive, close = True, False, False
            lines.append(b"connection: Upgrade\r\nupgrade: websocket")
        elif self._left is None and not self._bodyless:
            if self._version == "1.1":
                self._chunked = True
                lines.append(b"transfer-encoding: chunked")
            else:
                close = True
        if close:
            self.keep_alive = False
            lines.append(b"connection: close")
        head = b"\r\n".join(lines)
        line_ends = len(lines) - 1 + self._upgraded
        if len(head) - len(head.translate(None, _CONTROLS)) != 2 * line_ends:  # one look at all of them: 0.2 µs
            raise IllegalAnswerError("a header of the answer has a control character in it")
        self.started = True
        return head + b"\r\n\r\n"

    def body(self, data: bytes, *, more: bool) -> bytes:
        """A part of the body, the last one unless ``more``. Raises IllegalAnswerError where it does not come to the length announced."""
        if self._bodyless:
            data = b""
        elif self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            if not more:
                data += b"0\r\n\r\n"
        elif self._left is not None:
            self._left -= len(data)
            if self._left < 0 or (self._left and not more):
                raise IllegalAnswerError(f"the answer is {'longer' if self._left < 0 else 'shorter'} than its Content-Length")
        self.complete = not more
        return data


_OURS = frozenset((b"connection: ", b"content-length: ", b"transfer-encoding: "))
"""What framing is told, or decides: whether the body comes in chunks is not for a handler to say."""


@lru_cache(1024)
def _line_of(name: bytes) -> bytes:
    """How a header's line begins. Raises IllegalAnswerError for what is no name."""
    if not _TOKEN.fullmatch(name):
        raise IllegalAnswerError(f"{name[:40]!r} is no name of a header")
    return name.lower() + b": "


@lru_cache
def status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}".encode()
