"""The load: `python -m bench.load URL CONNECTIONS SECONDS [stream]`, in a process of its own. Each connection asks, waits for the whole
answer, and asks again; every answer is checked. Prints its figures as JSON."""

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit

import httptools
import uvloop

from bench.model import ANSWER, STREAM

_MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant. Answer briefly, in the language of the question. " * 4},
    {"role": "user", "content": "What is the capital of Italy?"},
    {"role": "assistant", "content": "Rome is the capital of Italy, and the seat of its government since 1871."},
    {"role": "user", "content": "And what is the capital of France, and since when has it been that?"},
]
_LAST_CHUNK = b"0\r\n\r\n"


class Load:
    """Counts for all connections; ``ends_at`` on the clock of time.perf_counter."""

    def __init__(self, host: str, *, stream: bool) -> None:
        body = json.dumps({"model": "echo", "messages": _MESSAGES, "temperature": 0.2, "stream": stream}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.stream = stream
        self.request = head.encode() + body
        self.expected_bytes = sum(map(len, STREAM)) if stream else len(ANSWER)
        self.latencies: list[float] = []
        self.errors = 0
        self.ends_at = 0.0
        self.open = 0
        self.done = asyncio.Event()

    def figures(self, seconds: float) -> dict[str, float]:
        ordered = sorted(self.latencies)
        if not ordered:
            return {"per_s": 0.0, "p50_ms": 0.0, "p99_ms": 0.0, "count": 0, "errors": self.errors}
        p50, p99 = (ordered[int(len(ordered) * share)] * 1000 for share in (0.5, 0.99))
        return {"per_s": len(ordered) / seconds, "p50_ms": p50, "p99_ms": p99, "count": len(ordered), "errors": self.errors}


class Connection(asyncio.Protocol):
    """One client."""

    transport: asyncio.Transport

    def __init__(self, load: Load) -> None:
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self._began = 0.0
        self._received = 0
        self._pending: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._load.open += 1
        self._ask()

    def data_received(self, data: bytes) -> None:
        # A stream is parsed when it is whole, or this process would be busier than those that it measures.
        if self._load.stream:
            self._pending.append(data)
            if not data.endswith(_LAST_CHUNK):
                return
            data = b"".join(self._pending)
            self._pending.clear()
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self._received += len(part)

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        if self._parser.get_status_code() == 200 and self._received == self._load.expected_bytes:
            self._load.latencies.append(now - self._began)
        else:
            self._load.errors += 1
        if now < self._load.ends_at:
            self._ask()
        else:
            self._began = 0.0
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._load.errors += bool(self._began)
        self._load.open -= 1
        if not self._load.open:
            self._load.done.set()

    def _ask(self) -> None:
        self._began, self._received = time.perf_counter(), 0
        self.transport.write(self._load.request)


async def main(url: str, connections: int, seconds: float, *, stream: bool) -> dict[str, float]:
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 80
    load = Load(address.netloc, stream=stream)
    began = time.perf_counter()
    load.ends_at = began + seconds
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(load), host, port)
    async with asyncio.timeout(seconds + 10):
        await load.done.wait()
    return load.figures(time.perf_counter() - began)


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), stream="stream" in sys.argv[4:]))))
