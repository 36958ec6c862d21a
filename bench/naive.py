"""The rival that anybody writes in ten minutes: `python -m bench.naive PORT MODEL_URL`. One Starlette route, one shared aiohttp session; no
limits, no deadline, no keys, no ids, no retries, no metrics, no word of a client that left. Under uvicorn with the node's own options."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route


def build(model_url: str) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            app.state.session = session
            yield

    async def relay(request: Request) -> Response:
        body = await request.body()
        headers = {"content-type": request.headers["content-type"]}
        answer = await request.app.state.session.post(model_url + request.url.path, data=body, headers=headers)
        kind = answer.headers["content-type"]
        if kind.startswith("text/event-stream"):
            return StreamingResponse(answer.content.iter_any(), answer.status, media_type=kind, background=BackgroundTask(answer.release))
        return Response(await answer.read(), answer.status, media_type=kind)

    async def ready(request: Request) -> Response:
        return PlainTextResponse("ready")

    routes = [Route("/v1/chat/completions", relay, methods=["POST"]), Route("/readyz", ready)]
    return Starlette(routes=routes, lifespan=lifespan)


if __name__ == "__main__":
    uvicorn.run(
        build(sys.argv[2]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
    )
