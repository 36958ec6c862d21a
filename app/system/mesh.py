"""The mesh over HTTP: what nodes say to each other, and what people see of it. Where the mesh is off, 503 says so."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.body import JSONAnswer, parse_json, require_json
from app.context import current
from app.edge.auth import Auth, is_signature
from app.errors import BadRequest, BodyTooLarge, Forbidden, InvalidBody, NodeError, ServiceUnavailable, Unauthorized
from app.membership import Membership
from app.mesh.address import is_loopback
from app.mesh.messages import Message, Refusal
from app.mesh.wire import MAX_BYTES, decode, encode
from app.signing import ANSWER, Claim

KINDS = ("join", "gossip", "sync", "probe", "leave")
_NOTED = 1_000
log = logging.getLogger("app.mesh")


class MeshRoutes:
    """``membership`` is None where the mesh is off; ``auth`` checks the signatures of nodes."""

    def __init__(self, membership: Membership | None, auth: Auth) -> None:
        self._membership, self._auth = membership, auth
        self._noted = dict[tuple[str, str], None]()

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/mesh/state", self._state),
            *(Route(f"/v1/mesh/{kind}", self._take, methods=["POST"]) for kind in KINDS),
        ]

    def _mesh(self) -> Membership:
        if self._membership is None:
            raise ServiceUnavailable(
                "The mesh is off on this node; ASTROMESH_MESH_ENABLED=true, or a profile with spec.mesh.enabled, turns it on."
            )
        return self._membership

    async def _state(self, request: Request) -> JSONAnswer:
        return JSONAnswer(self._mesh().report.state())

    async def _take(self, request: Request) -> Response:
        """One message of another node; on leave also a person's request that this node leave."""
        mesh, kind = self._mesh(), request.url.path.rsplit("/", 1)[1]
        came_from = request.client.host if request.client else ""
        authorization = request.headers.get("authorization", "")
        try:
            require_json(request.headers.get("content-type", ""))
            body = await _read(request)
            if kind == "leave" and not is_signature(authorization.encode("latin-1")) and (asked := _asked(body)) is not None:
                return await self._leave(mesh, asked, came_from)
            message = self._checked(request, authorization, body, kind)
        except NodeError as error:
            self._refused(mesh, came_from, error.code, error.message)
            raise
        try:
            answer = await mesh.receive(message, came_from)
        except TimeoutError as error:
            raise ServiceUnavailable("The node that was to be asked did not answer in time.") from error
        return self._answer(mesh, answer, authorization, came_from)

    def _checked(self, request: Request, authorization: str, body: bytes, kind: str) -> Message:
        """The message, of a node that may send it. Raises Unauthorized, or Refused for what is malformed."""
        sender = None
        if self._auth.checks_signatures or is_signature(authorization.encode("latin-1")):
            if not is_signature(authorization.encode("latin-1")):
                raise Unauthorized("This node takes only signed messages; set the same ASTROMESH_MESH_KEY on both nodes.")
            sender = self._auth.node(authorization.encode("latin-1"), Claim("POST", request.scope["raw_path"].decode("latin-1"), {}, body))
        message = decode(body)
        if message.kind != kind:
            raise BadRequest(f"A message of kind {message.kind} was sent to /v1/mesh/{kind}; send it to /v1/mesh/{message.kind}.")
        if sender not in (None, message.header.sender):
            raise Unauthorized(f"The message is of node {message.header.sender}, and signed by node {sender}.")
        return message

    def _answer(self, mesh: Membership, answer: Message, authorization: str, came_from: str) -> Response:
        data, status = encode(answer), 200
        if isinstance(answer.body, Refusal):
            status = answer.body.status
            error = {"message": answer.body.reason, "type": "invalid_request_error", "code": answer.body.code, "param": None}
            data = data[:-1] + b',"error":' + json.dumps(error).encode() + b"}"
            self._refused(mesh, came_from, answer.body.code, answer.body.reason)
        headers = {ANSWER: self._auth.answer(authorization, data)} if self._auth.checks_signatures else None
        return Response(data, status, headers, "application/json")

    async def _leave(self, mesh: Membership, asked: Mapping[str, Any], came_from: str) -> JSONAnswer:
        if not (self._auth.is_operator(current().principal) or (not self._auth.enabled and is_loopback(came_from))):
            raise Forbidden(f"Only who operates this node may have it leave: {self._auth.operators}.")
        if asked.get("node_id") not in ("self", mesh.node_id):
            raise InvalidBody(
                f'$.node_id: is {json.dumps(asked.get("node_id"))[:80]}; send {{"node_id": "self"}} to the node that is to leave.',
                param="$.node_id",
            )
        await mesh.leave()
        return JSONAnswer({"node_id": mesh.node_id, "status": "left", "message": "This node has left the mesh until it starts anew."})

    def _refused(self, mesh: Membership, came_from: str, code: str, message: str) -> None:
        """Count it, and log it once per source and reason. Challenges are the ordinary way to meet."""
        if code == "node_challenge":
            return
        mesh.metrics.refused.labels(code).inc()
        if (came_from, code) not in self._noted:
            if len(self._noted) >= _NOTED:
                del self._noted[next(iter(self._noted))]
            self._noted[came_from, code] = None
            log.warning("a message from %s was refused (%s): %s", came_from, code, message)


async def _read(request: Request) -> bytes:
    parts, size = list[bytes](), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BYTES:
            raise BodyTooLarge(f"The message is over {MAX_BYTES} bytes, the most that a node takes.")
        parts.append(chunk)
    return b"".join(parts)


def _asked(body: bytes) -> Mapping[str, Any] | None:
    """A person's request to leave; None for a message of a node."""
    asked = parse_json(body)
    return asked if isinstance(asked, Mapping) and "v" not in asked else None
