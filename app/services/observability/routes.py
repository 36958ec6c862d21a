"""Observability over HTTP: the page that Prometheus reads."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.services.observability.exposition import expose


def routes(registry: CollectorRegistry) -> Sequence[BaseRoute]:
    async def metrics(request: Request) -> Response:
        text, content_type = expose(registry, ",".join(request.headers.getlist("accept")))
        return Response(text, headers={"content-type": content_type})

    return [Route("/metrics", metrics, methods=["GET"])]
