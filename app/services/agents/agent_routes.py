"""Agents as things over HTTP: list, look at, make, change, delete, and read their files anew."""

import json
from collections.abc import Sequence
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.body import JSONAnswer, read_json, validator
from app.services.agents.editor import Editor
from app.services.agents.library import Library


class AgentRoutes:
    """The handlers. Of a definition only that it is an object is checked here: what is wrong in it is told in an agent file's words."""

    def __init__(self, library: Library, editor: Editor) -> None:
        self._library, self._editor = library, editor
        self._schema = validator(json.loads(files(__package__).joinpath("schema.json").read_bytes())["requests"]["definition"])

    def all(self) -> Sequence[BaseRoute]:
        return [
            Route("/v1/agents", self.all_of_them, methods=["GET", "POST"]),
            Route("/v1/agents/reload", self.reload, methods=["POST"]),
            Route("/v1/agents/{name}", self.one, methods=["GET", "PUT", "DELETE"]),
        ]

    async def all_of_them(self, request: Request) -> Response:
        if request.method == "POST":
            made = await self._editor.make(await read_json(request, self._schema))
            return JSONAnswer(made, status_code=201, headers={"Location": f"/v1/agents/{made['name']}"})
        rows = self._library.rows()
        return JSONAnswer({"agents": rows, "count": len(rows)})

    async def reload(self, request: Request) -> Response:
        return JSONAnswer(await self._editor.reload())

    async def one(self, request: Request) -> Response:
        name = request.path_params["name"]
        if request.method == "DELETE":
            await self._editor.delete(name)
            return JSONAnswer({"name": name, "deleted": True})
        if request.method == "PUT":
            told, new = await self._editor.put(name, await read_json(request, self._schema))
            return JSONAnswer(told, status_code=201 if new else 200)
        return JSONAnswer(await self._editor.describe(name))
