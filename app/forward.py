"""Relay a request to a peer: streamed both ways, over at most three nodes, tried elsewhere only while that is safe.

Nothing begun (refused, unresolved, 421, a 503 marked not-begun, no 100 Continue): the next peer. Begun and safe to repeat (GET, HEAD, PUT,
DELETE, inference, a run that its Idempotency-Key has recorded): the next peer, as long as the answer has not begun. Anything else that a
peer takes along is 502 peer_lost, at once.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter
from starlette.types import Message, Receive, Scope, Send

from app.call import Headers
from app.connection import BrokenError
from app.context import RequestContext, current
from app.errors import Misdirected, NodeError, PeerLost, ServiceUnavailable
from app.frames import UPGRADE, Frames
from app.node_client import NodeClient
from app.paths import template
from app.peers.peer import Peer, Peers
from app.services import SERVICES
from app.tracing import ACTIVE, Span, Value, http_name
from app.upstream import Answer, NotSentError

REPLAY_BYTES = 256 * 1024
MAX_HOPS = 3
_REPEATABLE = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS"))
# RFC 9110 §7.6.1, and what this node says itself.
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"))
_HOP_BY_HOP |= {b"te", b"trailer", b"transfer-encoding", b"upgrade"}
_NOT_SENT = _HOP_BY_HOP | {
    b"host",
    b"expect",
    b"authorization",
    b"x-request-id",
    b"traceparent",
    b"tracestate",
    b"x-session-id",
    b"content-length",
}
_WAIT = (b"prefer", b"wait")
_NOT_RETURNED = _HOP_BY_HOP | {b"x-request-id", b"x-astromesh-load", b"date", b"server"}


class _NotBegun(Exception):
    """The peer has begun nothing; the message says why."""

    code = "not_begun"


class _Lost(Exception):
    """The peer had the request, perhaps, and is gone."""

    code = "peer_lost"


class Body:
    """A request's body: ``kept`` whole when it is small enough to be sent again, else streamed once; ``begun`` once any of it was."""

    __slots__ = ("_first", "_receive", "begun", "kept")

    def __init__(self, kept: bytes | None, first: bytes, receive: Receive) -> None:
        self.kept = kept
        self.begun = False
        self._first, self._receive = first, receive

    async def stream(self) -> AsyncIterator[bytes]:
        self.begun = True
        yield self._first
        more = True
        while more:
            message = await _receive(self._receive)
            if chunk := message.get("body", b""):
                yield chunk
            more = message.get("more_body", False)


async def _receive(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        await asyncio.Event().wait()  # whoever asked is gone: this task is about to be cancelled
    return message


async def read_body(receive: Receive) -> Body:
    """Read up to what is kept for replay; a longer body is left to be streamed."""
    parts, size = list[bytes](), 0
    while True:
        message = await _receive(receive)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if not message.get("more_body", False):
            return Body(b"".join(parts), b"", receive)
        if size > REPLAY_BYTES:
            return Body(None, b"".join(parts), receive)


class Forwarder:
    """Sends requests to peers, and tells the view of them who fails."""

    def __init__(self, client: NodeClient, peers: Peers, registry: CollectorRegistry) -> None:
        self._client, self._peers = client, peers
        labels = ["service", "outcome"]
        self._outcomes = Counter("astromesh_forwards", "Requests sent to peers, by service and outcome.", labels, registry=registry)
        told = "Requests for a service that is not here and that no peer could take."
        self._without_peer = Counter("astromesh_requests_without_peer", told, ["service"], registry=registry)
        for name in (name for name, entry in SERVICES.items() if entry.forwarded):
            self._without_peer.labels(name)  # from the start, so that Prometheus sees the first one
        self._counters: dict[tuple[str, str], Counter] = {}

    async def relay(self, service: str, peers: Iterable[Peer], request: tuple[Scope, Receive, Send]) -> None:
        """Relay to the first peer that takes the request. Raises PeerLost, Misdirected or ServiceUnavailable."""
        scope, receive, send = request
        context = current()
        if len(context.hops) >= MAX_HOPS:
            raise Misdirected(f"This request has passed {len(context.hops)} nodes already, and {service} is not on this one.")
        body = await read_body(receive)
        recorded = service == "agents" and _is_recorded(scope)
        repeatable = body.kept is not None and (scope["method"] in _REPEATABLE or service == "inference" or recorded)
        refusals: list[str] = []
        above = ACTIVE.get()
        for number, peer in enumerate(peers):
            attempt = _Attempt(peer, (receive, send), _client_span(above, scope, peer, number) if above else None)
            try:
                await attempt.run(self._send(peer, scope, context, body))
            except _NotBegun as refusal:
                self._count(service, "not_begun")
                refusals.append(f"{peer.name}: {refusal}")
                if body.begun:  # what was streamed of the body is gone, and a part of it must not be taken for the whole
                    break
            except _Lost as loss:
                self._count(service, "lost")
                self._peers.failed(peer, str(loss))
                if attempt.answering or not repeatable:
                    raise PeerLost(f"Node {peer.name} was lost while it worked on this ({loss}); it may have done it or not.") from loss
                refusals.append(f"{peer.name}: {loss}")
                if recorded and _WAIT not in scope["headers"]:  # the lost one may still be at it: its answer is waited for, or its end
                    scope = {**scope, "headers": [*scope["headers"], _WAIT]}
            except asyncio.CancelledError:  # whoever asked is gone, or the time is over
                self._count(service, "cancelled")
                raise
            else:
                self._count(service, "answered")
                return
        raise self.unavailable(service, context, refusals)

    def _count(self, service: str, outcome: str) -> None:
        found = self._counters.get((service, outcome))
        if found is None:
            found = self._counters[service, outcome] = self._outcomes.labels(service, outcome)
        found.inc()

    def unavailable(self, service: str, context: RequestContext, refusals: Sequence[str]) -> NodeError:
        """The error when no peer took a request: 421 to the node that passed it on, so that it asks another; 503 to a client."""
        self._without_peer.labels(service).inc()
        told = f" ({'; '.join(refusals)})" if refusals else ""
        if context.hops:
            return Misdirected(
                f"The service {service} is not on this node, and no peer of it that this request has not passed offers it{told}."
            )
        return ServiceUnavailable(
            f"The service {service} is not on this node, and no peer can give it now{told}.", headers={"Retry-After": "1"}
        )

    async def _send(self, peer: Peer, scope: Scope, context: RequestContext, body: Body) -> Answer:
        query = scope["query_string"]
        target = scope["raw_path"].decode("ascii") + (f"?{query.decode('ascii')}" if query else "")
        headers = self._client.headers(context)
        headers += [header for header in _end_to_end(scope["headers"], _NOT_SENT) if not header[0].startswith(b"x-astromesh-")]
        upgrades = UPGRADE in scope.get("extensions", ())
        if upgrades:
            headers += [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
        try:
            if body.kept is not None:
                answer = await self._client.send(scope["method"], peer.url, target, headers, body.kept or None, peer.in_flight)
            else:
                headers += [header for header in scope["headers"] if header[0] == b"content-length"]
                answer = await self._client.send(scope["method"], peer.url, target, headers, body.stream, peer.in_flight)
        except NotSentError as error:
            self._peers.failed(peer, str(error))
            raise _NotBegun(str(error)) from error
        except BrokenError as error:
            if body.kept is None and not body.begun:
                self._peers.failed(peer, str(error))
                raise _NotBegun(str(error)) from error
            raise _Lost(str(error)) from error
        # It does not believe this node; the client has done nothing wrong. A service's own 401, of an unsigned webhook, is an answer.
        if answer.status == 401 and answer.header(b"x-astromesh-not-admitted"):
            answer.close()
            self._peers.failed(peer, f"it does not take this node's word; {self._client.credentials.remedy}")
            raise _NotBegun(peer.reason)
        if not (200 <= answer.status <= 599 or (upgrades and answer.status == 101)):
            answer.close()
            raise _Lost(f"it answered with status {answer.status}")
        if answer.status == 421 or (answer.status == 503 and answer.header(b"x-astromesh-not-begun")):
            answer.close()
            raise _NotBegun("it cannot pass this on" if answer.status == 421 else "it takes no new work")
        return answer


class _Attempt:
    """One request at one peer, from the sending to the last byte of the answer; ``answering`` once the client has a part of it, ``span``
    where it is recorded."""

    __slots__ = ("_peer", "_receive", "_relay", "_span", "answering")

    def __init__(self, peer: Peer, client: tuple[Receive, Send], span: Span | None) -> None:
        self._peer, self._span = peer, span
        self._receive, self._relay = client
        self.answering = False

    async def run(self, sending: Awaitable[Answer]) -> None:
        if self._span is None:
            await self._run(sending)
        else:
            with self._span:
                await self._run(sending)

    async def _run(self, sending: Awaitable[Answer]) -> None:
        try:
            await self._pass_on(await sending)
        except BrokenError as error:
            raise _Lost(str(error)) from error

    async def _pass_on(self, answer: Answer) -> None:
        try:
            if (load := answer.header(b"x-astromesh-load")) and load.isdigit() and len(load) < 10:
                self._peer.load = int(load)
            headers = _end_to_end(answer.headers, _NOT_RETURNED)
            if self._span is not None:
                _note_status(self._span, answer.status)
            if answer.status == 426:  # each hop says for itself what it could be upgraded to (RFC 9110 §15.5.22)
                headers.append((b"upgrade", b"websocket"))
            self.answering = True
            await self._relay({"type": "http.response.start", "status": answer.status, "headers": headers})
            if answer.status == 101:
                await self._pass_both_ways(answer)
                return
            more = True
            while more:
                chunk, more = await answer.next_chunk()
                await self._relay({"type": "http.response.body", "body": chunk, "more_body": more})
        finally:
            answer.close()

    async def _pass_both_ways(self, answer: Answer) -> None:
        """Pass the two streams of a WebSocket on as they are. A peer that ends its own without a close frame is lost."""
        upwards = asyncio.get_running_loop().create_task(self._pass_up(answer))
        said = Frames()
        try:
            more = True
            while more:
                chunk, more = await answer.next_chunk()
                said.feed(chunk)
                await self._relay({"type": "http.response.body", "body": chunk, "more_body": more or not said.closed})
            if not said.closed:
                raise BrokenError("it closed the connection")
        finally:
            upwards.cancel()
            await asyncio.wait([upwards])

    async def _pass_up(self, answer: Answer) -> None:
        while True:
            message = await _receive(self._receive)
            await answer.write(message.get("body", b""))


def _is_recorded(scope: Scope) -> bool:
    """Whether the request is a run that records itself, before it begins, under a key of the client's."""
    run = scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/run")
    return run and any(name == b"idempotency-key" and value for name, value in scope["headers"])


def _client_span(above: Span, scope: Scope, peer: Peer, number: int) -> Span:
    """The span of one attempt, the ``number``th after the first, by OpenTelemetry's conventions for HTTP."""
    method, name = http_name(scope["method"], template(scope["path"].rstrip("/") or "/"))
    host, port = _address(peer.url)
    noted: dict[str, Value] = {
        "http.request.method": method,
        "url.full": peer.url + scope["raw_path"][:200].decode("latin-1"),
        "server.address": host,
        "server.port": port,
        "astromesh.peer": peer.name,
    }
    if number:
        noted["http.request.resend_count"] = number
    return above.child(name, "client", noted)


def _note_status(attempt: Span, status: int) -> None:
    """A 5xx is the attempt's failure; a 4xx, which is passed on as well, the request's own."""
    attempt.set("http.response.status_code", status)
    if status >= 500:
        attempt.fail(str(status))


@lru_cache(1024)
def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _end_to_end(headers: Headers, dropped: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """The headers that go on: not those in ``dropped``, nor those that a Connection header names as this hop's own."""
    kept, named = [], []
    for header in headers:
        if header[0] not in dropped:
            kept.append(header)
        elif header[0] == b"connection" and header[1].lower() not in (b"close", b"keep-alive"):
            named.append(header[1])
    if not named:
        return kept
    tokens = {token.strip().lower() for value in named for token in value.split(b",")}
    return [header for header in kept if header[0] not in tokens]
