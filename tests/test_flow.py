"""The writes of a connection, with a transport that only remembers them."""

import asyncio

from app.flow import WRITTEN_AT_ONCE, Batch, Flow


class Remembering(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 0


def connect(batch: Batch) -> tuple[Flow, Remembering]:
    flow, transport = Flow(asyncio.get_running_loop(), batch), Remembering()
    flow.connection_made(transport)
    return flow, transport


async def test_what_is_written_in_one_turn_of_the_loop_goes_out_at_its_end_in_one_piece() -> None:
    batch = Batch()
    (one, first), (two, second) = connect(batch), connect(batch)
    for part in (b"head ", b"body"):
        one.write(part)
        two.write(part.upper())
    assert first.written == second.written == []
    await asyncio.sleep(0)
    assert (first.written, second.written) == ([b"head body"], [b"HEAD BODY"])
    one.write(b"more")
    await asyncio.sleep(0)
    assert (first.written, second.written) == ([b"head body", b"more"], [b"HEAD BODY"])


async def test_much_is_written_at_once_so_that_the_transport_can_hold_it_back() -> None:
    flow, transport = connect(Batch())
    for _ in range(3):
        flow.write(b"x" * (WRITTEN_AT_ONCE // 2))
    assert sum(map(len, transport.written)) > WRITTEN_AT_ONCE
    flow.write(b"y")
    await asyncio.sleep(0)
    assert transport.written[-1] == b"y"


async def test_closing_sends_what_was_written_and_nothing_later() -> None:
    flow, transport = connect(Batch())
    flow.write(b"last words")
    flow.close()
    assert transport.written == [b"last words"]
    flow.write(b"too late")
    await asyncio.sleep(0)
    assert transport.written == [b"last words"]


async def test_whoever_waits_for_room_goes_on_when_there_is_some() -> None:
    flow, _ = connect(Batch())
    await flow.drain()
    flow.pause_writing()
    waiting = asyncio.create_task(flow.drain())
    await asyncio.sleep(0)
    assert not waiting.done()
    flow.resume_writing()
    await waiting
