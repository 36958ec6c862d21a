"""A server with OpenAI's API for embeddings: `python -m bench.embedding PORT`. Its one model is all-MiniLM-L6-v2."""

import asyncio
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.minilm import NAME, MiniLM


def application(model: MiniLM) -> Starlette:
    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": NAME, "object": "model", "created": 0, "owned_by": "bench"}]})

    async def embeddings(request: Request) -> JSONResponse:
        asked = (await request.json())["input"]
        rows = await asyncio.to_thread(model.embed, [asked] if isinstance(asked, str) else asked)
        data = [{"object": "embedding", "index": number, "embedding": row.tolist()} for number, row in enumerate(rows)]
        return JSONResponse({"object": "list", "model": NAME, "data": data, "usage": {"prompt_tokens": 0, "total_tokens": 0}})

    return Starlette(routes=[Route("/v1/models", models), Route("/v1/embeddings", embeddings, methods=["POST"])])


if __name__ == "__main__":
    uvicorn.run(application(MiniLM()), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
