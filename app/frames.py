"""WebSocket frames as far as whoever passes a stream of them on needs them (RFC 6455 §5.2): where they end, and last words. No I/O.

An upgraded connection is passed on byte for byte. So back-pressure, close codes and pings go from end to end, and a node in between reads
nothing but the lengths: to know whether a stream has said goodbye, and where it could say so itself.
"""

import json
import struct

from app.errors import NodeError

UPGRADE = "astromesh.websocket"
"""Set in the extensions of a scope of type "http" whose answer may be 101. After it the bodies of both sides are the streams of frames."""
POLICY_VIOLATION, INTERNAL_ERROR, SERVICE_RESTART = 1008, 1011, 1012
"""Close codes of the registry that RFC 6455 §11.7 set up."""
_CLOSE_CODES = {"rate_limited": POLICY_VIOLATION, "shutting_down": SERVICE_RESTART}
_REASON_BYTES = 123
_EXTENDED = {126: 2, 127: 8}


class Frames:
    """Follows one direction of a stream. ``closed`` once a close frame has begun; ``messages`` are those that have begun."""

    __slots__ = ("_head", "_in_message", "_left", "closed", "messages")

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0  # bytes of the current frame that are still to come
        self._in_message = self.closed = False
        self.messages = 0

    @property
    def between_messages(self) -> bool:
        """Whether a message of one's own may begin here."""
        return not (self._head or self._left or self._in_message or self.closed)

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._left:
                passed = min(self._left, len(data) - at)
                self._left -= passed
                at += passed
                continue
            self._head.append(data[at])
            at += 1
            if len(self._head) >= 2 and len(self._head) == 2 + _EXTENDED.get(self._head[1] & 0x7F, 0):
                self._begin()

    def _begin(self) -> None:
        opcode, length = self._head[0] & 0x0F, self._head[1] & 0x7F
        if length in _EXTENDED:
            length = int.from_bytes(self._head[2:])
        self._left = length + (4 if self._head[1] & 0x80 else 0)  # a client's frames have a mask before their content
        if opcode < 8:
            self._in_message = not self._head[0] & 0x80
            self.messages += opcode > 0
        self.closed = self.closed or opcode == 8
        self._head.clear()


def last_words(error: NodeError) -> bytes:
    """An error event, and the close frame after it."""
    text = json.dumps({"type": "error", **error.body()}).encode()
    code = _CLOSE_CODES.get(error.code, INTERNAL_ERROR)
    return _frame(1, text) + _frame(8, struct.pack("!H", code) + error.code.encode()[:_REASON_BYTES])


def _frame(opcode: int, content: bytes) -> bytes:
    """A whole frame of a server's."""
    size = len(content)
    length = bytes((size,)) if size < 126 else struct.pack("!BH", 126, size) if size < 65536 else struct.pack("!BQ", 127, size)
    return bytes((0x80 | opcode,)) + length + content
