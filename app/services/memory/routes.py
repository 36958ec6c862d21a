"""Memory over HTTP: histories are read, grown by turns, and deleted. A turn with an id of its own is safe to send again (PUT)."""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.body import JSONAnswer, read_json, validator
from app.context import current
from app.errors import BadRequest, SessionNotFound
from app.services.memory.conversation import Conversation, History, check_turn_id, conversation, new_turn_id


class Histories(Protocol):
    """What the routes need of the service."""

    async def history(self, of: Conversation, max_turns: int | None) -> History: ...
    async def append(self, to: Conversation, turn_id: str, messages: list[dict[str, Any]]) -> bool: ...
    async def clear(self, of: Conversation) -> int: ...


def routes(memory: Histories) -> Sequence[BaseRoute]:
    turn_schema = validator(json.loads(files(__package__).joinpath("schema.json").read_bytes())["requests"]["turn"])

    async def read(request: Request) -> Response:
        of = _conversation(request)
        history = await memory.history(of, _max_turns(request))
        if not history.turns:
            raise SessionNotFound(f"There is no history of session {of.session!r} with agent {of.agent!r} here.", param="session_id")
        turns = [{"turn_id": t.turn_id, "created_at": t.created_at, "messages": json.loads(t.messages)} for t in history.turns]
        flat = [message for turn in turns for message in turn["messages"]]
        more = {"truncated": True} if history.truncated else {}
        return JSONAnswer({"agent": of.agent, "session_id": of.session, "turns": turns, "messages": flat, **more})

    async def add(request: Request) -> Response:
        of = _conversation(request)
        turn_id = check_turn_id(request.path_params.get("turn_id") or new_turn_id())
        body = await read_json(request, turn_schema)
        added = await memory.append(of, turn_id, body["messages"])
        return JSONAnswer({"turn_id": turn_id, "session_id": of.session, "agent": of.agent}, 201 if added else 200)

    async def clear(request: Request) -> Response:
        of = _conversation(request)
        return JSONAnswer({"agent": of.agent, "session_id": of.session, "deleted": await memory.clear(of)})

    async def history(request: Request) -> Response:
        return await {"GET": read, "HEAD": read, "POST": add, "DELETE": clear}[request.method](request)

    path = "/v1/memory/{agent}/history/{session}"
    return [
        Route(path, history, methods=["GET", "POST", "DELETE"]),
        Route(path + "/turns/{turn_id}", add, methods=["PUT"]),
    ]


def _conversation(request: Request) -> Conversation:
    return conversation(request.path_params["agent"], current().principal, request.path_params["session"])


def _max_turns(request: Request) -> int | None:
    given = request.query_params.get("max_turns")
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 10 and int(given) > 0):
        raise BadRequest(f"max_turns is {given[:40]!r}; give a whole number above 0, or leave it out.", param="max_turns")
    return int(given)
