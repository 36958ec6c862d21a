"""Pure ASGI around everything from the network: context, keys, limits, drain, disconnect, the one error shape, metrics, a log line."""

import asyncio
import logging
import math
import time

from prometheus_client import CollectorRegistry, Counter, Gauge
from starlette.types import ASGIApp, Receive, Scope, Send

from app import paths
from app.config.profile import ApiSettings
from app.context import CURRENT
from app.edge import span
from app.edge.auth import Auth
from app.edge.cycle import CYCLE
from app.edge.exchange import SLOWEST_BYTES_S, EndedError, Exchange, too_large
from app.edge.head import MESSAGE_PATHS, Head, is_public, read_head, request_id_of
from app.edge.origin import check_origin
from app.edge.quota import Quota
from app.edge.upgrade import is_upgrade, page_of
from app.errors import DeadlineExceeded, NodeError, NotBegun, NotFound, RequestTimeout, ShuttingDown, Unauthorized
from app.metrics import Histogram
from app.tracing import OFF, UNRECORDED, Recorder

log = logging.getLogger("app.edge")
access_log = logging.getLogger("app.access")
_PROBES = frozenset(("/livez", "/readyz", "/v1/health", "/metrics"))
_WATCHED = _PROBES | {"/v1/system/status", *(f"/v1/mesh/{kind}" for kind in ("state", "join", "gossip", "sync", "probe", "leave"))}
"""What machines ask every few seconds: answered while draining too, and logged only for debugging."""


ROOM_S = 0.1
NOT_ADMITTED = "X-Astromesh-Not-Admitted"
"""Tells a node that is refused from one whose client is."""


class HeaderTooLarge(NodeError):
    status, code, type = 431, "header_too_large", "invalid_request_error"


class Edge:
    """The outermost app. ``draining`` closes connections after their answers; ``refusing`` turns new work away as not begun."""

    def __init__(
        self,
        app: ASGIApp,
        api: ApiSettings,
        auth: Auth,
        node: tuple[str, CollectorRegistry],
        recorder: Recorder = OFF,
        *,
        public: bool = True,
        logs_access: bool = True,
    ) -> None:
        """``node`` is its name and where its metrics go, ``recorder`` where its spans. Not ``public``: only health, metrics and other nodes
        are answered. ``logs_access`` says whether each request gets a line in the log."""
        self._app, self._api, self._auth, self._public = app, api, auth, public
        self._recorder, self._logs_access = recorder, logs_access
        self._quota = Quota(api.limits)
        name, registry = node
        self.rename(name)
        self._exchanges: set[Exchange] = set()
        self._sockets = 0  # of them: mostly idle, so they count by themselves
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._slow: list[Exchange] = []
        self._looked_at = -math.inf
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = self.refusing = False
        labels = ["method", "path", "status", "principal"]
        self._requests = Counter(
            "astromesh_http_requests", "Requests answered, by method, path template, status and key's name.", labels, registry=registry
        )
        self._duration = Histogram(
            "astromesh_http_request_duration_seconds", "From the request's head to the answer's end.", ["path"], registry=registry
        )
        self._children: dict[tuple[str, str, str, str], tuple[Counter, Histogram]] = {}
        gauge = Gauge("astromesh_http_requests_in_flight", "Requests that are being answered.", registry=registry)
        gauge.set_function(lambda: self.in_flight)
        gauge = Gauge("astromesh_websockets_open", "WebSockets that are open, or being opened.", registry=registry)
        gauge.set_function(lambda: self._sockets)

    def rename(self, name: str) -> None:
        """The node's name in answers."""
        self.name = self._recorder.node = name
        self._node_header = (b"x-astromesh-node", name.encode("latin-1", "replace"))

    @property
    def in_flight(self) -> int:
        """Requests that are being answered, without WebSockets."""
        return len(self._exchanges) - self._sockets

    async def wait_idle(self) -> None:
        """Return once no request is in flight."""
        await self._idle.wait()

    def drain(self) -> None:
        """From now on every connection is closed after its answer, also those whose answers are on their way."""
        self.draining = True
        for exchange in self._exchanges:
            exchange.closing = True

    def cut(self) -> None:
        """End what is still in flight: the deadline of the drain has come."""
        for exchange in list(self._exchanges):
            exchange.end("drain")

    async def run(self) -> None:
        """End requests whose bodies stand still, until cancelled. One look at all of them now and then costs less than a timer for each."""
        limit_s = self._api.body_idle_timeout_s
        while True:
            await asyncio.sleep(min(1.0, limit_s / 4))
            oldest = time.perf_counter() - limit_s
            for exchange in [each for each in self._exchanges if 0 < each.waiting_since < oldest]:
                exchange.end("body_idle")

    def _watch(self, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        """Be there at a deadline. One timer, for the earliest: nearly all requests are long answered by then."""
        if deadline < self._alarm_at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm, self._alarm_at = loop.call_at(deadline, self._on_alarm, loop), deadline

    def _on_alarm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._alarm, self._alarm_at = None, math.inf
        now = loop.time()
        for exchange in self._exchanges:
            if exchange.deadline <= now:
                exchange.end("deadline")
        self._watch(min((each.deadline for each in self._exchanges if each.deadline > now), default=math.inf), loop)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = request_id_of(scope)
        headers = [(b"x-request-id", request_id.encode()), self._node_header]
        exchange = Exchange(scope["extensions"][CYCLE], receive, send, headers, self._api.max_body_bytes)
        exchange.closing = self.draining
        upgrades = is_upgrade(scope)
        self._sockets += upgrades
        self._exchanges.add(exchange)
        self._idle.clear()
        try:
            await self._answer(exchange, scope, request_id)
        except NodeError as error:
            await exchange.fail(error)
        finally:
            exchange.close()
            self._exchanges.discard(exchange)
            self._sockets -= upgrades
            if not self._exchanges:
                self._idle.set()
            self._record(exchange, scope, request_id)

    async def _answer(self, exchange: Exchange, scope: Scope, request_id: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            head = read_head(scope, request_id, self._auth, self._api.deadline_s, loop, self._recorder)
        except Unauthorized as error:
            error.headers[NOT_ADMITTED] = "1"
            raise
        exchange.principal = head.context.principal
        if head.context.from_peer:
            exchange.answer_headers.append((b"x-astromesh-load", str(max(0, self.in_flight - 1)).encode()))
        self._admit(exchange, scope, head, loop.time())
        if not head.has_body:
            exchange.expect_no_body()
        CURRENT.set(head.context)
        if self._recorder.accepts(head.context.traceparent):
            span.begin(self._recorder, exchange, scope, head)
        exchange.deadline = head.context.deadline
        self._watch(exchange.deadline, loop)
        try:
            await exchange.run(self._app(scope, exchange.receive, exchange.send))
        except (EndedError, TimeoutError) as error:
            self._ended(exchange, request_id, error)
        except NodeError:
            raise
        except Exception as error:
            if exchange.ended_by == "client_gone":
                return
            log.exception("a request failed inside the node")
            raise NodeError(f"The node failed on this request; its log has the reason under {request_id}.") from error

    def _admit(self, exchange: Exchange, scope: Scope, head: Head, now: float) -> None:
        if head.size > self._api.max_header_bytes:
            exchange.closing = True
            raise HeaderTooLarge(f"The request head is {head.size} bytes, over the {self._api.max_header_bytes} that this node takes.")
        path = scope["path"].rstrip("/")
        if head.content_length is not None and head.content_length > self._api.max_body_bytes and path not in MESSAGE_PATHS:
            raise too_large(self._api.max_body_bytes)  # messages of nodes have a lower limit, and whoever reads them counts refusals
        if not (self._public or head.context.from_peer or path in _PROBES or (head.to_be_checked and path in _WATCHED)):
            raise NotFound("The public API of this node is off (spec.services.api); ask another node.")
        if path in _WATCHED:
            return
        if self.refusing or (self.draining and is_upgrade(scope)):  # a socket that is opened now would be closed at once
            raise NotBegun("This node is shutting down and takes no new work; ask again, another node will answer.")
        at_once, what = (self._sockets, "WebSockets") if is_upgrade(scope) else (self.in_flight, "requests")
        if at_once > self._api.max_concurrency and (is_upgrade(scope) or not self._make_room(now)):
            raise NotBegun(f"This node is at its limit of {self._api.max_concurrency} {what} at once; ask again shortly.")
        if is_upgrade(scope) and not head.context.from_peer:  # a node has asked that before it passed this on
            check_origin(*page_of(scope), self._api.cors_origins)
        # The node that a client asked has counted it; and what a platform's webhook brings must not be lost.
        if self._quota.enabled and not head.context.from_peer and not is_public(path):
            exchange.account = self._quota.admit(head.context.principal, scope["client"][0] if scope["client"] else "", now)

    def _make_room(self, now: float) -> bool:
        """End a request whose body comes so slowly that it only holds a place, the oldest of them. To look at all costs time, so it is done
        ten times a second at most; the slow ones are kept meanwhile."""
        if not self._slow and now - self._looked_at >= ROOM_S:
            self._looked_at = now
            self._slow = sorted((each for each in self._exchanges if each.dawdles()), key=lambda each: -each.started_at)
        while self._slow:
            if (oldest := self._slow.pop()).dawdles():
                oldest.end("body_slow")
                return True
        return False

    def _ended(self, exchange: Exchange, request_id: str, error: Exception) -> None:
        if exchange.ended_by == "client_gone":
            return
        if exchange.refusal is not None:
            raise exchange.refusal from error
        if exchange.ended_by == "drain":
            told = "This node shut down before the answer was finished, and may have done a part of what was asked"
            raise ShuttingDown(f"{told}; ask again where that does no harm, another node will answer.") from error
        if exchange.ended_by == "body_idle":
            exchange.closing = True
            raise RequestTimeout(f"The body stood still for {self._api.body_idle_timeout_s:g} s; send it without pauses.") from error
        if exchange.ended_by == "body_slow":
            exchange.closing = True
            told = f"This node is at its limit of {self._api.max_concurrency} requests at once, and this one's body came slowly"
            raise RequestTimeout(f"{told}; send it at once, or at {SLOWEST_BYTES_S} bytes a second at least.") from error
        if exchange.ended_by is None:
            log.error("a request timed out inside the node", exc_info=error)
            raise NodeError(f"Something inside the node timed out; its log has the reason under {request_id}.") from error
        raise DeadlineExceeded("The request's deadline has passed; give it more time or ask for less.") from error

    def _record(self, exchange: Exchange, scope: Scope, request_id: str) -> None:
        path = paths.template(scope["path"].rstrip("/") or "/")
        socket = exchange.status == 101  # whose client leaves as it likes, after minutes or days
        status = "499" if exchange.ended_by == "client_gone" and not socket else str(exchange.status)
        seconds = time.perf_counter() - exchange.started_at
        method = scope["method"] if scope["method"] in _METHODS else "other"
        principal = exchange.principal if exchange.principal in self._auth.names else ""
        self._count((method, path, status, principal), None if socket else seconds)
        if exchange.span is not UNRECORDED:
            span.end(exchange, scope, request_id, path)
        if not self._logs_access:
            return
        level = logging.DEBUG if path in _WATCHED else logging.INFO
        if access_log.isEnabledFor(level):
            extra = {"request_id": request_id, "principal": exchange.principal}
            target = scope["raw_path"][:500].decode("latin-1")  # as it came: decoded, it could hold a line end
            access_log.log(level, "%s %s %s %.1f ms", scope["method"], target, status, seconds * 1000, extra=extra)

    def _count(self, key: tuple[str, str, str, str], seconds: float | None) -> None:
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = (self._requests.labels(*key), self._duration.labels(key[1]))
        found[0].inc()
        if seconds is not None:
            found[1].observe(seconds)


_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
