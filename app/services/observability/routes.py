"""Observability over HTTP: the page that Prometheus reads, and the same as JSON."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.body import JSONAnswer
from app.services.observability.exposition import expose
from app.services.observability.summary import summary


def routes(registry: CollectorRegistry) -> Sequence[BaseRoute]:
    async def metrics(request: Request) -> Response:
        text, content_type = expose(registry, ",".join(request.headers.getlist("accept")))
        return Response(text, headers={"content-type": content_type})

    async def as_json(request: Request) -> Response:
        return JSONAnswer(summary(registry))

    return [Route("/metrics", metrics, methods=["GET"]), Route("/v1/metrics", as_json, methods=["GET"])]
