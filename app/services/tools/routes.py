"""Tools over HTTP: list them and execute one. A tool that fails is an answer (200, status "error"), not an error of the node."""

import json
from collections.abc import Sequence
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.body import JSONAnswer, read_json, validator
from app.services.tools.registry import Registry


def routes(registry: Registry) -> Sequence[BaseRoute]:
    execute_schema = validator(json.loads(files(__package__).joinpath("schema.json").read_bytes())["requests"]["execute"])

    async def listed(request: Request) -> Response:
        tools = registry.describe()
        return JSONAnswer({"tools": tools, "count": len(tools)})

    async def execute(request: Request) -> Response:
        body = await read_json(request, execute_schema)
        outcome = await registry.execute(body["tool_name"], body.get("arguments", {}))
        return JSONAnswer(outcome.as_json())

    return [
        Route("/v1/tools", listed, methods=["GET"]),
        Route("/v1/tools/builtin", listed, methods=["GET"]),
        Route("/v1/tools/execute", execute, methods=["POST"]),
    ]
