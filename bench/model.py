"""A model server that costs nearly nothing: `python -m bench.model PORT`. It answers chat completions with the same bytes at once, as JSON
or as a stream of events, each event written by itself; and it says the status of a node that has inference, so that it can be a peer."""

import asyncio
import json
import sys

import httptools
import uvloop

EVENTS = 50
_MODEL = {"id": "chatcmpl-1", "created": 1, "model": "echo"}
_TEXT = "The capital of France is Paris, which has been its seat of government since the tenth century. " * 4
ANSWER = json.dumps(
    {
        **_MODEL,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 120, "completion_tokens": 80, "total_tokens": 200},
    }
).encode()
_CHUNK = {**_MODEL, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}]}
STREAM = [b"data: " + json.dumps(_CHUNK).encode() + b"\n\n"] * EVENTS + [b"data: [DONE]\n\n"]
_STATUS = json.dumps({"node_id": "be" * 8, "node_name": "model", "services": {"inference": True}, "reaches": [], "in_flight": 0}).encode()


def _json_response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


_ANSWER_BYTES, _STATUS_BYTES = _json_response(ANSWER), _json_response(_STATUS)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
_STREAM_BYTES = [b"%x\r\n%b\r\n" % (len(event), event) for event in STREAM] + [b"0\r\n\r\n"]


class Model(asyncio.Protocol):
    """One connection."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._target = self._body = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._target = self._body = b""

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        if self._target != b"/v1/chat/completions":
            self.transport.write(_STATUS_BYTES)
        elif b'"stream": true' in self._body:
            self.transport.write(_STREAM_HEAD)
            asyncio.get_running_loop().call_soon(self._write_event, 0)
        else:
            self.transport.write(_ANSWER_BYTES)

    def _write_event(self, number: int) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(_STREAM_BYTES[number])
        if number + 1 < len(_STREAM_BYTES):
            asyncio.get_running_loop().call_soon(self._write_event, number + 1)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Model, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
