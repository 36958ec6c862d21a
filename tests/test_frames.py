"""Where frames end in a stream, however it is cut into parts; and last words that a client understands."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from app.errors import NodeError, PeerLost, ShuttingDown
from app.frames import Frames, last_words

SIZES = st.one_of(st.integers(0, 200), st.sampled_from([125, 126, 127, 65_535, 65_536, 70_000]))
FRAMES = st.lists(st.tuples(st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG]), SIZES), max_size=6)


def encoded(opcode: Opcode, size: int, *, mask: bool, fin: bool = True) -> bytes:
    size = min(size, 125) if opcode >= Opcode.CLOSE else size
    return Frame(opcode, b"\x81" * size, fin=fin).serialize(mask=mask)


@given(frames=FRAMES, mask=st.booleans(), cuts=st.lists(st.integers(0, 300), max_size=20))
def test_a_stream_is_between_messages_exactly_at_the_ends_of_its_frames(
    frames: list[tuple[Opcode, int]], mask: bool, cuts: list[int]
) -> None:
    parts = [encoded(*frame, mask=mask) for frame in frames]
    ends = {sum(map(len, parts[:count])) for count in range(len(parts) + 1)}
    stream, at, followed = b"".join(parts), 0, Frames()
    for size in [*cuts, len(stream)]:
        part = stream[at : at + size]
        followed.feed(part)
        at += len(part)
        assert followed.between_messages == (at in ends)
        assert not followed.closed


def test_within_a_message_of_several_frames_nothing_of_ones_own_may_be_said() -> None:
    followed = Frames()
    followed.feed(encoded(Opcode.TEXT, 3, mask=False, fin=False))
    assert not followed.between_messages
    followed.feed(encoded(Opcode.PING, 3, mask=False))
    assert not followed.between_messages
    followed.feed(encoded(Opcode.CONT, 3, mask=False))
    assert followed.between_messages
    followed.feed(encoded(Opcode.CLOSE, 2, mask=False)[:2])
    assert (followed.closed, followed.between_messages) == (True, False)


@pytest.mark.parametrize(("error", "code"), [(PeerLost("gone"), 1011), (ShuttingDown("x" * 200), 1012), (NodeError("x" * 70_000), 1011)])
def test_last_words_are_an_error_event_and_a_close_code(error: NodeError, code: int) -> None:
    client = ClientProtocol(parse_uri("ws://node/"), state=State.OPEN)
    client.receive_data(last_words(error))
    text, _ = client.events_received()
    assert isinstance(text, Frame)
    assert json.loads(bytes(text.data)) == {"type": "error", **error.body()}
    assert client.close_rcvd is not None
    assert (client.close_rcvd.code, client.close_rcvd.reason) == (code, error.code)
    followed = Frames()
    followed.feed(last_words(error))
    assert followed.closed
