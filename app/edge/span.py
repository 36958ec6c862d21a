"""The span of a request from the network, by OpenTelemetry's conventions for HTTP servers."""

from starlette.types import Scope

from app.context import CURRENT
from app.edge.exchange import Exchange
from app.edge.head import Head
from app.tracing import ACTIVE, UNRECORDED, Recorder, http_name

_UNTRACED = ("/livez", "/readyz", "/v1/health", "/metrics", "/v1/metrics", "/v1/mesh/", "/v1/system/", "/v1/traces")
"""What would fill the traces with itself."""


def begin(recorder: Recorder, exchange: Exchange, scope: Scope, head: Head) -> None:
    """Begin the span where the request's trace is recorded; what happens from now on is below it."""
    span = recorder.accept(head.context.traceparent, head.parent_span)
    if span is not UNRECORDED and not scope["path"].startswith(_UNTRACED):
        exchange.span = span
        ACTIVE.set(span)


def end(exchange: Exchange, scope: Scope, request_id: str, route: str) -> None:
    """End it with what became of the request. ``route`` is the template of its path."""
    span = exchange.span
    method, span.name = http_name(scope["method"], route)
    span.attributes = {
        **span.attributes,
        "http.request.method": method,
        "url.path": scope["path"][:200],
        "url.scheme": scope["scheme"],
        "astromesh.request_id": request_id,
    }
    span.set("http.route", route if route != "other" else None)
    span.set("http.response.status_code", exchange.status or None)
    span.set("enduser.id", exchange.principal or None)
    span.set("session.id", CURRENT.get().session)
    _judge(exchange)
    span.end()


def _judge(exchange: Exchange) -> None:
    """A client that left is no failure, nor is an error of the client's own. A stream that breaks has the status 200."""
    if exchange.ended_by == "client_gone":
        exchange.span.status = "cancelled"
    elif exchange.failure and not 400 <= exchange.status < 500:
        exchange.span.fail(exchange.failure)
    elif exchange.status >= 500:
        exchange.span.fail(str(exchange.status))
