"""Paths that belong to no single service, and requests whose body decides where they go.

A chat completion names a model, which may be an agent; a run names its session, or is given one here, before placement; knowledge is where
its collection is kept. The body is read within the edge's limit and replayed byte for byte to whoever answers.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import paths
from app.body import JSONAnswer, parse_json, require_json
from app.context import CURRENT, current
from app.errors import BadRequest, InvalidBody, MethodNotAllowed, ModelNotFound, NotBegun, NotFound
from app.gather import LISTINGS, Gatherer
from app.placement import Placement
from app.roster import Roster
from app.session import NO_STORE, check_session_id, new_session_id
from app.tracing import active

AGENT_PREFIX = "agent/"
DEFAULT_MODEL = "default"
MAX_HELD_BYTES = 256 * 1024 * 1024
"""Bodies that are kept for replay, together; beyond it only small ones are taken."""
SMALL_BYTES = 64 * 1024
_NAMED_IN_BODY = {"/v1/rag/query": "collection", "/v1/rag/ingest": "collection", "/v1/rag/collections": "name"}
"""Where a body names the collection that it is about."""
_RUN = re.compile(r"/v1/agents/([^/]+)/run")


class Front:
    """Dispatches every path that is not the node's own."""

    def __init__(self, placement: Placement, gatherer: Gatherer, roster: Roster) -> None:
        self._placement = placement
        self._gatherer = gatherer
        self._roster = roster
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].rstrip("/") or "/"
        if scope["method"] in ("GET", "HEAD") and (path in LISTINGS or path.startswith("/v1/models/")):
            await (await self._listed(path))(scope, receive, send)
        elif path in ("/v1/chat/completions", "/v1/embeddings") and scope["method"] == "POST":
            await self._by_model(scope, receive, send)
        elif scope["method"] == "POST" and path in _NAMED_IN_BODY:
            await self._by_collection(_NAMED_IN_BODY[path], scope, receive, send)
        elif scope["method"] == "POST" and (run := _RUN.fullmatch(path)):
            await self._run(run[1], scope, receive, send)
        elif path.startswith("/v1/agents") and scope["method"] in ("POST", "PUT", "DELETE"):
            await self._change(path, scope, receive, send)
        else:
            await self._place(path, scope)(scope, receive, send)

    def _place(self, path: str, scope: Scope) -> ASGIApp:
        found = paths.owner(path)
        if found is not None:
            return self._placement.locate(*found)
        allowed = "POST" if path == "/v1/chat/completions" else "GET, HEAD" if (path + "/").startswith("/v1/models/") else ""
        if allowed:
            raise MethodNotAllowed(f"{scope['method']} is not for {path}; it takes {allowed}.", headers={"Allow": allowed})
        raise NotFound(f"There is nothing at {scope['path'][:200]}; GET /v1/system/status tells what this node serves.")

    async def _listed(self, path: str) -> JSONAnswer:
        if path in LISTINGS:
            return await self._gatherer.answer(LISTINGS[path])
        wanted = path.removeprefix("/v1/models/")
        rows, _ = await self._gatherer.rows(LISTINGS["/v1/models"])
        for row in rows:
            if row["id"] == wanted:
                return JSONAnswer(row)
        raise ModelNotFound(f"There is no model {wanted!r}; there is {', '.join(str(row['id']) for row in rows) or 'none'}.", param="model")

    async def _by_model(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw, body = await self._json_body(scope, receive)
        try:
            await self._to_model(body, (scope, _replay(raw, receive), send))
        finally:
            self._held -= len(raw)

    async def _to_model(self, body: Mapping[str, Any], request: tuple[Scope, Receive, Send]) -> None:
        model = DEFAULT_MODEL if body.get("model") is None else body["model"]
        if not isinstance(model, str) or not model:
            raise InvalidBody(f"$.model: is {json.dumps(model)[:80]}; name one of the models that GET /v1/models lists.", param="$.model")
        session = _session(body)
        if model.startswith(AGENT_PREFIX):
            await self._agent(model.removeprefix(AGENT_PREFIX), session, request)
        else:
            await self._placement.locate("inference", model)(*request)

    async def _by_collection(self, field: str, scope: Scope, receive: Receive, send: Send) -> None:
        """To whoever keeps the collection that the query, or the body in ``field``, names. A form is too large to look into: who gets it
        passes on what it holds."""
        named = parse_qs(scope["query_string"].decode("latin-1")).get("collection")
        if named or _content_type(scope).startswith("multipart/"):
            await self._placement.locate("rag", named[-1] if named else None)(scope, receive, send)
            return
        raw, body = await self._json_body(scope, receive)
        try:
            collection = body.get(field)
            app = self._placement.locate("rag", collection if isinstance(collection, str) else None)
            await app(scope, _replay(raw, receive), send)
        finally:
            self._held -= len(raw)

    async def _run(self, agent: str, scope: Scope, receive: Receive, send: Send) -> None:
        raw, body = await self._json_body(scope, receive)
        try:
            session = _session(body) or new_session_id(self._store(agent, scope))
            await self._agent(agent, session, (scope, _replay(raw, receive), send))
        finally:
            self._held -= len(raw)

    def _store(self, agent: str, scope: Scope) -> str:
        """Where a new session begins. A run with an Idempotency-Key is recorded there, so that its repetition has to come there, too."""
        key = next((value for name, value in scope["headers"] if name == b"idempotency-key"), None)
        if key is None:
            return self._placement.store_for_new_session()
        return self._placement.store_for_key(f"{current().principal}\0{agent}\0{key.decode('latin-1')}")

    async def _change(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Have agents made, changed, deleted or read anew."""
        if path == "/v1/agents/reload" and scope["method"] == "POST":
            await (await self._roster.reload())(scope, receive, send)
        elif path != "/v1/agents" or scope["method"] != "POST":
            await self._roster.change(self._place(path, scope), (scope, receive, send))
        else:
            raw, body = await self._json_body(scope, receive)
            metadata = body.get("metadata")
            name = metadata.get("name") if isinstance(metadata, Mapping) else None
            try:
                await self._roster.make(name if isinstance(name, str) else None, (scope, _replay(raw, receive), send))
            finally:
                self._held -= len(raw)

    async def _agent(self, agent: str, session: str | None, request: tuple[Scope, Receive, Send]) -> None:
        """Run an agent where its conversation is kept; without a session, anywhere."""
        active().set("gen_ai.agent.name", agent[:100])
        if session is not None:
            store = await self._placement.home(agent, session)
            CURRENT.set(replace(current(), session=session, store="" if store == NO_STORE else store))
        await self._placement.locate("agents", agent)(*request)

    async def _json_body(self, scope: Scope, receive: Receive) -> tuple[bytes, Mapping[str, Any]]:
        """The request's body, raw and parsed; its length is in ``_held`` until the caller takes it out."""
        require_json(_content_type(scope))
        parts, size, more = list[bytes](), 0, True
        try:
            while more:
                message = await receive()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                self._held += len(parts[-1])
                if self._held > MAX_HELD_BYTES and size > SMALL_BYTES:
                    raise NotBegun(f"This node holds {MAX_HELD_BYTES} bytes of requests already; ask again shortly.")
                more = message.get("more_body", False)
            raw = b"".join(parts)
            body = parse_json(raw)
            if not isinstance(body, Mapping):
                raise InvalidBody("$: the body is not a JSON object; send one.", param="$")
        except BaseException:
            self._held -= size
            raise
        return raw, body


def _content_type(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"content-type"), "")


def _session(body: Mapping[str, Any]) -> str | None:
    """The session that the body or the request's header names. Raises BadRequest where they name two: which of the conversations is meant
    nobody can tell, and a guess would put the turn into the wrong one."""
    named, header = body.get("session_id"), current().session
    if not isinstance(named, str):
        return header
    if header not in (None, check_session_id(named)):
        told = f"The body's session_id is {named!r} and the header X-Session-Id {header!r}"
        raise BadRequest(f"{told}; send one of the two, or the same in both.", param="session_id")
    return named


def _replay(raw: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
