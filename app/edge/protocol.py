"""The HTTP/1.1 that uvicorn.Server speaks here, over the parser of httptools (llhttp): connections, request heads, and limits on both.

A protocol of our own, because uvicorn's (0.54) takes a head of 20 MB, waits for ever on half of one, and leaves 16 objects of each request
to the garbage collector. Oversized heads are answered 431, slow ones 408, malformed ones 400, in the one error shape, and then no more.
"""

import asyncio
import json
import logging
import math
from collections import deque
from contextvars import Context
from typing import Any, ClassVar
from urllib.parse import unquote

import httptools
import uvicorn
from starlette.types import Scope
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from app.config.profile import ApiSettings
from app.context import new_request_id
from app.edge.cycle import CYCLE, Cycle
from app.edge.framing import Framing, status_line
from app.edge.idle import Idle
from app.flow import Batch, Flow
from app.frames import UPGRADE

_SOCKETS = b"/v1/ws/"
"""Where an upgrade to a WebSocket is taken; anywhere else it is declined."""
_LONGEST_URL = 65_535
"""What httptools can parse; beyond it, it says "invalid"."""
_ASGI = {"version": "3.0", "spec_version": "2.3"}
log = logging.getLogger(__name__)


class HttpProtocol(Flow):
    """One connection. ``limited`` makes the subclass that uvicorn instantiates for each.

    The client owes the rest of a head that it began, and of a body whose answer is out already; ``head_timeout_s`` is the time for either.
    """

    max_head_bytes: ClassVar[int] = 64 * 1024
    head_timeout_s: ClassVar[float] = 10.0
    idle_timeout_s: ClassVar[float] = 75.0
    max_connections: ClassVar[int] = 10_000
    node_name: ClassVar[bytes] = b""
    batch: ClassVar[Batch]
    idle: ClassVar[Idle["HttpProtocol"]]

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(_loop or asyncio.get_running_loop(), self.batch)
        self._app, self._server = config.loaded_app, server_state
        self._parser: httptools.HttpRequestParser | None = _new_parser(self)
        self._url, self._headers, self._continue_due = b"", list[tuple[bytes, bytes]](), False
        self._in_head, self._spoken, self._answered = True, False, False
        self._head_bytes = 0
        self._arriving: Cycle | None = None  # of which the body is not here yet
        self._socket: Cycle | None = None  # to which all that comes belongs from here on
        self._answering: Cycle | None = None
        self._waiting: deque[Cycle] = deque()  # for the answers to those before them
        self._due, self._owing = math.inf, False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # The transport's side, and the server's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.connections.add(self)  # type: ignore[arg-type]  # a union of uvicorn's own
        self._addresses = {"server": get_local_addr(self.transport), "client": get_remote_addr(self.transport)}
        self._scheme = "https" if is_ssl(self.transport) else "http"
        if len(self._server.connections) > self.max_connections and not self._make_room():
            self._refuse(503, "too_many_connections", f"This node has {self.max_connections} connections at work already; try again later.")
            return
        self._watch()

    def _make_room(self) -> bool:
        """Close the connection that has been of no use for longest: clients who connect and ask nothing, or peers and browsers who keep a
        connection for later, do not keep others out."""
        longest = self.idle.longest()
        if longest is not None:
            longest.give_way()
        return longest is not None

    def give_way(self) -> None:
        """Close, and count no more from now on; what is left of an answer still goes out."""
        self._server.connections.discard(self)
        self.idle.discard(self)
        self._parser = None
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self.idle.discard(self)
        self._parser = None
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._answering is not None:
            self._answering.leave()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return
        if self._socket is not None:
            self._socket.feed(data)
            return
        # A head that begins behind another request's body counts from the next chunk on: where in this one it began, nobody tells.
        counted = len(data) if self._in_head else 0
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse_malformed()
            return
        self._spoken = True
        if self._in_head:
            self._head_bytes += counted
        if self._in_head and self._head_bytes > self.max_head_bytes:
            self._refuse(431, "header_too_large", f"The request head is over {self.max_head_bytes} bytes; send fewer or shorter headers.")
        else:
            self._watch()

    def _parse(self, data: bytes) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._parser is None:  # refused: CONNECT
                return
            if self._socket is not None:
                if rest := data[upgrade.args[0] :]:
                    self._socket.feed(rest)
                return
            # The parser takes what follows for another protocol, also the body. An upgrade is declined here by asking it again without.
            lines = [b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, self._parser.get_http_version().encode())]
            lines += [b": ".join(header) for header in self._headers if header[0] != b"upgrade"]
            self._parser = _new_parser(self)
            self._parse(b"\r\n".join((*lines, b"", data[upgrade.args[0] :])))

    def shutdown(self) -> None:
        """Called by the server: end now, or after the answer that is on its way."""
        if self._answering is None:
            self.close()
        else:
            self._answering.framing.keep_alive = False

    # The parser's side

    def on_message_begin(self) -> None:
        self._url, self._headers, self._continue_due = b"", [], False
        self._in_head, self._head_bytes = True, 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what comes later is a trailer, which nothing here reads
            name = name.lower()
            if name == b"expect":
                self._continue_due = value.lower() == b"100-continue"
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        version, method = parser.get_http_version(), parser.get_method().decode("ascii")
        upgrades = parser.should_upgrade() and any(name == b"upgrade" for name, _ in self._headers)
        if upgrades and not (method == "GET" and version == "1.1" and self._asks_for_a_socket()):
            return
        if method == "CONNECT":  # the parser leaves HTTP behind at its end; this is no proxy
            self._refuse(501, "not_implemented", "This node is no proxy, so it has no CONNECT; ask it for a path.")
            return
        path, query = _split(self._url)
        scope: Scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "scheme": self._scheme,
            "root_path": "",
            "method": method,
            "path": unquote(decoded) if "%" in (decoded := path.decode("ascii")) else decoded,
            "raw_path": path,
            "query_string": query,
            "headers": self._headers,
            **self._addresses,
        }
        framing = Framing(method, version, keep_alive=version == "1.1" and parser.should_keep_alive() and not upgrades)
        cycle = Cycle(self, scope, framing, self._server.default_headers, self._on_answered)
        cycle.continue_due = self._continue_due and version == "1.1"
        scope["extensions"] = {CYCLE: cycle, UPGRADE: True} if upgrades else {CYCLE: cycle}
        if upgrades:
            self._socket = cycle
        self._arriving, self._in_head = cycle, False
        if self._answering is None:
            self._start(cycle)
        else:
            self._waiting.append(cycle)
            self.read_on(False)

    def _asks_for_a_socket(self) -> bool:
        if not self._url.startswith(_SOCKETS) or any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers):
            return False
        return any(name == b"upgrade" and value.lower() == b"websocket" for name, value in self._headers)

    def on_body(self, body: bytes) -> None:
        assert self._arriving is not None
        self._arriving.feed(body)

    def on_message_complete(self) -> None:
        if self._arriving is None or self._socket is not None:
            return
        self._arriving.end_body()
        self._arriving = None
        self.read_on(not self._waiting)  # a long body has paused it, and who does not read never hears that the client left

    # Requests and their answers, one after the other

    def _start(self, cycle: Cycle) -> None:
        self._answering = cycle
        scope, cycle.scope = cycle.scope, {}  # or either would keep the other, until the garbage collector comes
        self._server.tasks.add(self.loop.create_task(self._run(cycle, scope), context=Context()))

    async def _run(self, cycle: Cycle, scope: Scope) -> None:
        try:
            await self._app(scope, cycle.receive, cycle.send)
        except Exception:
            log.exception("the edge failed on a request")
        finally:
            if not cycle.framing.complete:
                self._cut(cycle)
            self._server.tasks.discard(asyncio.current_task())

    def _on_answered(self, cycle: Cycle) -> None:
        self._answering, self._answered = None, True
        self._server.total_requests += 1
        if not cycle.framing.keep_alive:
            self.close()
        if self.transport.is_closing():
            self._waiting.clear()
        else:
            if self._waiting:
                self._start(self._waiting.popleft())
            self.read_on(not self._waiting)
        self._watch()

    def _cut(self, cycle: Cycle) -> None:
        """The app has ended before its answer: say so while nothing is said yet, or let the client see that the answer is not whole."""
        cycle.framing.keep_alive = False
        if cycle.gone:
            pass
        elif cycle.framing.started:
            log.debug("an answer was cut off before its end")  # the edge has told why
        else:
            self._write_error(500, "internal_error", "The node failed on this request; its log has the reason.")
        self._on_answered(cycle)

    def _watch(self) -> None:
        """Know until when the client must have done something: nothing while it waits for us, the rest of what it began, or to ask."""
        if self._answering is not None or self.transport.is_closing():
            self._due, self._owing = math.inf, False
            self.idle.discard(self)
            return
        self.idle.add(self, known=self._answered)
        if not (self._in_head or self._arriving):
            self._expect(self.idle_timeout_s)
            self._owing = False
        elif not self._owing:
            self._expect(self.head_timeout_s)
            self._owing = True

    def _expect(self, within_s: float) -> None:
        """Set the time that is due. A timer that rings too early is left alone and set anew then: most are for nothing."""
        self._due = self.loop.time() + within_s
        if self._timer is not None and self._timer_at > self._due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer, self._timer_at = self.loop.call_at(self._due, self._on_timer), self._due

    def _on_timer(self) -> None:
        self._timer = None
        if self._due == math.inf or self.transport.is_closing():
            return
        if (left_s := self._due - self.loop.time()) > 0:
            self._expect(left_s)
        elif self._in_head and self._spoken and self._owing:
            self._refuse(408, "request_timeout", f"The request head did not arrive within {self.head_timeout_s:g} s; send it at once.")
        else:
            self.close()

    # Refusals

    def _refuse_malformed(self) -> None:
        if len(self._url) > _LONGEST_URL:
            self._refuse(431, "header_too_large", f"The request's target is over {_LONGEST_URL} bytes; send a shorter one.")
        else:
            self._refuse(400, "malformed_request", "Invalid HTTP request received. Send a well-formed HTTP/1.1 request.")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Read no more. The answers that are due go out first, whole; a request that broke off within its body gets this one instead."""
        self._parser = None
        if self.transport.is_closing():
            return
        broken = self._arriving
        if self._waiting and self._waiting[-1] is broken:
            self._waiting.pop()
        last = self._waiting[-1] if self._waiting else self._answering
        if last is not None and last is not broken:
            last.framing.keep_alive = False
            return
        if broken is None or not broken.framing.started:
            self._write_error(status, code, message)
        if broken is not None:
            broken.leave()
        self.close()

    def _write_error(self, status: int, code: str, message: str) -> None:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        body = json.dumps({"error": {"message": message, "type": kind, "code": code, "param": None}}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        head += b"x-request-id: %b\r\nx-astromesh-node: %b\r\n\r\n" % (new_request_id().encode(), self.node_name)
        self.write(status_line(status) + b"\r\n" + head + body)


def _new_parser(protocol: HttpProtocol) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # or what comes behind a last request would take its answer away
    return parser


def _split(url: bytes) -> tuple[bytes, bytes]:
    """(path, query) of a request's target, still encoded. Raises ValueError or httptools.HttpParserInvalidURLError."""
    if not url.isascii():
        raise ValueError("a target in other characters than ASCII")
    if url[:1] != b"/" or b"#" in url:  # the absolute form, mostly
        parsed = httptools.parse_url(url)
        return parsed.path or b"/", parsed.query or b""
    path, _, query = url.partition(b"?")
    return path, query


def limited(api: ApiSettings, node_name: str) -> type[HttpProtocol]:
    """The protocol class with the limits of ``api``."""
    limits = {
        "max_head_bytes": api.max_header_bytes,
        "head_timeout_s": api.header_timeout_s,
        "idle_timeout_s": api.idle_timeout_s,
        "max_connections": api.max_connections,
    }
    return type(
        "Protocol", (HttpProtocol,), {**limits, "node_name": node_name.encode("latin-1", "replace"), "batch": Batch(), "idle": Idle()}
    )
