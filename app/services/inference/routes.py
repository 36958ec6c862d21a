"""HTTP in, HTTP out for chat completions, embeddings, models and providers."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.body import JSONAnswer, read_json, validator
from app.sse import EventStream


class Completions(Protocol):
    """What the routes need of the service."""

    async def complete(self, request: Mapping[str, Any]) -> dict[str, Any]: ...
    def stream(self, request: Mapping[str, Any]) -> AsyncGenerator[bytes, None]: ...
    async def embed(self, request: Mapping[str, Any]) -> dict[str, Any]: ...
    def models(self) -> list[dict[str, Any]]: ...
    def providers(self) -> list[dict[str, Any]]: ...


def make_routes(service: Completions, schemas: Mapping[str, Any]) -> Sequence[BaseRoute]:
    chat, embedding = validator(schemas["chat_completion"]), validator(schemas["embeddings"])

    async def complete(request: Request) -> Any:
        body = await read_json(request, chat)
        if body.get("stream"):
            return EventStream(service.stream(body))
        return JSONAnswer(await service.complete(body))

    async def embed(request: Request) -> Response:
        found = await service.embed(await read_json(request, embedding))
        return await asyncio.to_thread(_vectors, found)

    async def models(request: Request) -> Response:
        return JSONAnswer({"object": "list", "data": service.models()})

    async def providers(request: Request) -> Response:
        return JSONAnswer({"providers": service.providers()})

    return [
        Route("/v1/chat/completions", complete, methods=["POST"]),
        Route("/v1/embeddings", embed, methods=["POST"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/providers", providers, methods=["GET"]),
    ]


def _vectors(found: Mapping[str, Any]) -> Response:
    """Embeddings, rendered one by one: all of them in one json.dumps would keep the event loop waiting for up to a second."""
    rows = b",".join(bytes(JSONAnswer(row).body) for row in found["data"])
    rest = bytes(JSONAnswer({key: value for key, value in found.items() if key != "data"}).body)
    return Response(rest.removesuffix(b"}") + b',"data":[' + rows + b"]}", media_type="application/json")
