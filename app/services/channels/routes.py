"""Channels over HTTP: the platforms' webhooks, answered once what they bring is kept, and what operators see and do."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from app.body import JSONAnswer, parse_json
from app.errors import Conflict, NotFound
from app.query import whole_number
from app.services.channels.channel import Channel
from app.services.channels.message import Delivery

BOXES = ("inbox", "outbox")
DEFAULT_ROWS, MAX_ROWS = 100, 1_000


class Correspondence(Protocol):
    """What the routes need of the service."""

    def channel(self, name: str) -> Channel: ...
    async def receive(self, name: str, delivery: Delivery) -> int: ...
    async def rows(self) -> list[dict[str, Any]]: ...
    async def letters(self, name: str, box: str, state: str | None, limit: int) -> list[dict[str, Any]]: ...
    async def retry(self, name: str, box: str, letter: str) -> str | None: ...


def routes(channels: Correspondence) -> Sequence[BaseRoute]:
    async def webhook(request: Request) -> Response:
        name = request.path_params["name"]
        channel = channels.channel(name)
        if request.method in ("GET", "HEAD"):
            return PlainTextResponse(channel.handshake(request.query_params))
        raw = await request.body()
        channel.verify(_headers(request), raw)
        delivery = channel.read(parse_json(raw))
        new = await channels.receive(name, delivery)
        return JSONAnswer({"received": len(delivery.messages), "new": new, "receipts": len(delivery.receipts)})

    async def listed(request: Request) -> Response:
        return JSONAnswer({"channels": await channels.rows()})

    async def letters(request: Request) -> Response:
        box = _box(request)
        found = await channels.letters(
            request.path_params["name"], box, request.query_params.get("state"), whole_number(request, "limit", MAX_ROWS) or DEFAULT_ROWS
        )
        return JSONAnswer({box: found, "count": len(found)})

    async def retry(request: Request) -> Response:
        name, box, letter = request.path_params["name"], _box(request), request.path_params["letter"]
        was = await channels.retry(name, box, letter)
        if was is None:
            raise NotFound(
                f"There is no {letter!r} in the {box} of {name}; GET /v1/channels/{name}/{box}?state=dead lists the dead letters."
            )
        if was != "dead":
            raise Conflict(f"{letter!r} is {was}; only dead letters are tried again.")
        return JSONAnswer({"id": letter, "state": "waiting" if box == "inbox" else "ready"})

    return [
        Route("/v1/channels", listed, methods=["GET"]),
        Route("/v1/channels/{name}/webhook", webhook, methods=["GET", "POST"]),
        Route("/v1/channels/{name}/{box}", letters, methods=["GET"]),
        Route("/v1/channels/{name}/{box}/{letter}/retry", retry, methods=["POST"]),
    ]


def _headers(request: Request) -> Mapping[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


def _box(request: Request) -> str:
    box: str = request.path_params["box"]
    if box not in BOXES:
        raise NotFound(f"There is no {box!r} in a channel; there is {', '.join(BOXES)} and webhook.")
    return box
