"""Observability over HTTP: the page that Prometheus reads, the same as JSON, and traces."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.body import JSONAnswer
from app.query import whole_number
from app.services.observability.exposition import expose
from app.services.observability.summary import summary
from app.services.observability.traces import Traces

DEFAULT_LIMIT, MAX_LIMIT = 50, 500


def routes(registry: CollectorRegistry, traces: Traces) -> Sequence[BaseRoute]:
    async def metrics(request: Request) -> Response:
        text, content_type = expose(registry, ",".join(request.headers.getlist("accept")))
        return Response(text, headers={"content-type": content_type})

    async def as_json(request: Request) -> Response:
        return JSONAnswer(summary(registry))

    async def listed(request: Request) -> Response:
        rows = traces.rows(request.query_params.get("agent") or None, whole_number(request, "limit", MAX_LIMIT) or DEFAULT_LIMIT)
        return JSONAnswer({"traces": rows, "count": len(rows)})

    async def one(request: Request) -> Response:
        trace, missing = await traces.find(request.path_params["trace_id"].lower())
        return JSONAnswer(trace, headers={"X-Astromesh-Partial": ", ".join(missing)} if missing else None)

    return [
        Route("/metrics", metrics, methods=["GET"]),
        Route("/v1/metrics", as_json, methods=["GET"]),
        Route("/v1/traces", listed, methods=["GET"]),
        Route("/v1/traces/{trace_id}", one, methods=["GET"]),
    ]
