"""Memory over HTTP: histories are read, grown by turns, and deleted. A turn with an id of its own is safe to send again (PUT)."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.body import JSONAnswer, read_json, validator
from app.context import current
from app.errors import BadRequest, SessionNotFound
from app.query import number, whole_number
from app.services.memory.conversation import (
    Conversation,
    History,
    NewTurn,
    Part,
    Summary,
    check_agent,
    check_turn_id,
    conversation,
    new_turn_id,
)
from app.services.memory.runs import Run, RunKey
from app.services.memory.semantic import DEFAULT_RESULTS, MAX_RESULTS, Found, Wanted
from app.session import check_session_id

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Histories(Protocol):
    """What the routes need of the service."""

    async def history(self, of: Conversation, part: Part) -> History: ...
    async def append(self, to: Conversation, turn: NewTurn) -> bool: ...
    async def summarise(self, of: Conversation, summary: Summary) -> bool: ...
    async def clear(self, of: Conversation) -> int: ...
    async def recollect(self, agent: str, wanted: Wanted) -> Found: ...
    async def forget(self, agent: str) -> bool: ...

    @property
    def run_lease_s(self) -> float: ...
    async def claim_run(self, of: RunKey, session: str, token: str, fingerprint: str) -> Run: ...
    async def finish_run(self, of: RunKey, token: str, answer: bytes) -> None: ...
    async def release_run(self, of: RunKey, token: str) -> None: ...


def routes(memory: Histories) -> Sequence[BaseRoute]:
    requests = json.loads(files(__package__).joinpath("schema.json").read_bytes())["requests"]
    return [*_of_histories(memory, requests), *_of_runs(memory, requests), _of_meanings(memory)]


def _of_histories(memory: Histories, requests: Mapping[str, Any]) -> Sequence[BaseRoute]:
    turn_schema, summary_schema = validator(requests["turn"]), validator(requests["summary"])

    async def read(request: Request) -> Response:
        of = _conversation(request)
        history = await memory.history(of, Part(whole_number(request, "max_turns"), whole_number(request, "max_bytes")))
        if not history.turns:
            raise SessionNotFound(f"There is no history of session {of.session!r} with agent {of.agent!r} here.", param="session_id")
        turns = [{"turn_id": t.turn_id, "created_at": t.created_at, "messages": json.loads(t.messages)} for t in history.turns]
        flat = [message for turn in turns for message in turn["messages"]]
        more: dict[str, Any] = {"truncated": True} if history.truncated else {}
        if history.summary:
            more["summary"] = {"turn_id": history.summary.turn_id, "text": history.summary.text}
        return JSONAnswer({"agent": of.agent, "session_id": of.session, "turns": turns, "messages": flat, **more})

    async def add(request: Request) -> Response:
        of = _conversation(request)
        turn_id = check_turn_id(request.path_params.get("turn_id") or new_turn_id())
        body = await read_json(request, turn_schema)
        added = await memory.append(of, NewTurn(turn_id, body["messages"], body.get("ttl_s"), body.get("semantic", False)))
        return JSONAnswer({"turn_id": turn_id, "session_id": of.session, "agent": of.agent}, 201 if added else 200)

    async def summarise(request: Request) -> Response:
        of, body = _conversation(request), await read_json(request, summary_schema)
        kept = await memory.summarise(of, Summary(check_turn_id(body["turn_id"]), body["text"]))
        return JSONAnswer({"agent": of.agent, "session_id": of.session, "kept": kept})

    async def clear(request: Request) -> Response:
        of = _conversation(request)
        return JSONAnswer({"agent": of.agent, "session_id": of.session, "deleted": await memory.clear(of)})

    async def history(request: Request) -> Response:
        return await {"GET": read, "HEAD": read, "POST": add, "DELETE": clear}[request.method](request)

    path = "/v1/memory/{agent}/history/{session}"
    return [
        Route(path, history, methods=["GET", "POST", "DELETE"]),
        Route(path + "/turns/{turn_id}", add, methods=["PUT"]),
        Route(path + "/summary", summarise, methods=["PUT"]),
    ]


def _of_meanings(memory: Histories) -> BaseRoute:
    async def semantic(request: Request) -> Response:
        agent = check_agent(request.path_params["agent"])
        if request.method == "DELETE":
            return JSONAnswer({"agent": agent, "forgotten": await memory.forget(agent)})
        found = await memory.recollect(agent, _wanted(request))
        return JSONAnswer({"agent": agent, "results": list(found.rows)} | ({"note": found.note} if found.note else {}))

    return Route("/v1/memory/{agent}/semantic", semantic, methods=["GET", "DELETE"])


def _wanted(request: Request) -> Wanted:
    query, session = request.query_params.get("query", ""), request.query_params.get("session_id")
    if not query.strip():
        raise BadRequest("The request has no query; send ?query= with what to look for.", param="query")
    most = whole_number(request, "max_results", MAX_RESULTS) or DEFAULT_RESULTS
    threshold = number(request, "similarity_threshold", -1.0, 1.0)
    return Wanted(query, most, threshold, check_session_id(session) if session is not None else None)


def _of_runs(memory: Histories, requests: Mapping[str, Any]) -> Sequence[BaseRoute]:
    run_schema = validator(requests["run"])

    async def run(request: Request) -> Response:
        of, session = _run_key(request), check_session_id(request.path_params["session"])
        body = await read_json(request, run_schema)
        token = body["token"]
        if body["state"] == "released":
            await memory.release_run(of, token)
        elif body["state"] == "done":
            answer = json.dumps(body.get("answer"), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
            await memory.finish_run(of, token, answer)
        else:
            claimed = await memory.claim_run(of, session, token, body["fingerprint"])
            return JSONAnswer(_told(claimed) | {"lease_s": memory.run_lease_s})
        return JSONAnswer({"state": body["state"]})

    return [Route("/v1/memory/{agent}/runs/{session}/{key}", run, methods=["PUT"])]


def _conversation(request: Request) -> Conversation:
    return conversation(request.path_params["agent"], current().principal, request.path_params["session"])


def _run_key(request: Request) -> RunKey:
    of, key = _conversation(request), request.path_params["key"]
    if not _DIGEST.fullmatch(key):
        raise BadRequest(f"The key {key[:80]!r} is no digest; take the SHA-256 of the Idempotency-Key, in hexadecimal.", param="key")
    return RunKey(of.agent, of.principal, key)


def _told(run: Run) -> dict[str, Any]:
    answer = {"answer": json.loads(run.answer) if run.answer else None} if run.state == "done" else {}
    return {"state": run.state, "attempt": run.attempt, "session_id": run.session, **answer}
