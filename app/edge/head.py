"""What a request's head says to the node: ids, trace, deadline, hops. Node headers are believed only from a peer and dropped otherwise."""

import re
from asyncio import AbstractEventLoop
from dataclasses import dataclass

from starlette.types import Scope

from app.context import RequestContext, continue_trace, new_request_id
from app.credentials import covered
from app.edge.auth import Auth, Caller, is_signature
from app.edge.upgrade import is_upgrade, take_key
from app.errors import BadRequest
from app.session import check_session_id
from app.signing import Claim
from app.tracing import OFF, Recorder

MESH_PATHS = "/v1/mesh/"
MESSAGE_PATHS = frozenset(f"{MESH_PATHS}{kind}" for kind in ("join", "gossip", "sync", "probe"))
"""Where nodes alone have something to say; a person, too, may ask a node to leave."""
SIGNED = Caller("", may_be_peer=True)
TO_BE_CHECKED = Caller("", may_be_peer=False)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_NODE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_READ = frozenset(
    (b"x-request-id", b"traceparent", b"tracestate", b"authorization", b"content-length", b"transfer-encoding", b"x-session-id", b"origin")
)


@dataclass(frozen=True, slots=True)
class Head:
    """The parsed head: the request's context, the announced body length in bytes (None: unknown), and whether a body follows.
    ``to_be_checked``: a message of a node, whose signature covers the body too: who reads that checks it.
    ``parent_span`` is the caller's span in the trace, "" for none."""

    context: RequestContext
    content_length: int | None
    has_body: bool
    size: int
    to_be_checked: bool
    parent_span: str = ""


def request_id_of(scope: Scope) -> str:
    """The client's request id if it is a usable one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return new_request_id()


def read_head(scope: Scope, request_id: str, auth: Auth, deadline_s: float, loop: AbstractEventLoop, recorder: Recorder = OFF) -> Head:
    """Parse ``scope``'s headers in one pass and take out of them what this caller may not say. ``deadline_s`` is the longest allowed.
    ``recorder`` says what becomes of the trace.

    Raises Unauthorized, or BadRequest for node headers and session ids that are malformed.
    """
    found: dict[bytes, bytes] = {}
    node: dict[bytes, bytes] = {}
    size = len(scope["raw_path"]) + len(scope["query_string"])
    for name, value in scope["headers"]:
        size += len(name) + len(value)
        if name in _READ:
            if name in found and name == b"authorization":  # who reads which of the two would be anybody's guess
                raise BadRequest("The request has two Authorization headers; send one.")
            found[name] = value
        elif name.startswith((b"x-astromesh-", b"x-forwarded-")):
            node[name] = value
    if is_upgrade(scope) and (key := take_key(scope)) is not None:
        found.setdefault(b"authorization", key)
    caller = _caller(scope, found.get(b"authorization"), auth)
    if node and not caller.may_be_peer:
        scope["headers"] = [header for header in scope["headers"] if header[0] not in node]
        node = {}
    traceparent, parent_span = continue_trace(_text(found, b"traceparent"), recorder.samples_new, takes_part=recorder.settings.enabled)
    context = RequestContext(
        request_id=request_id,
        traceparent=traceparent,
        tracestate=_text(found, b"tracestate") or "",
        deadline=loop.time() + min(deadline_s, _number(node, b"x-astromesh-deadline-ms", deadline_s * 1000) / 1000),
        principal=_text(node, b"x-astromesh-principal") if b"x-astromesh-forwarded" in node else caller.principal,
        hops=_hops(node.get(b"x-astromesh-forwarded", b"")),
        session=check_session_id(found[b"x-session-id"].decode("latin-1")) if b"x-session-id" in found else None,
        agent_depth=int(_number(node, b"x-astromesh-agent-depth", 0)),
        store=_text(node, b"x-astromesh-store"),
        from_peer=b"x-astromesh-forwarded" in node,
    )
    length = int(found[b"content-length"]) if b"content-length" in found else None
    return Head(context, length, b"transfer-encoding" in found or bool(length), size, caller is TO_BE_CHECKED, parent_span)


def _caller(scope: Scope, authorization: bytes | None, auth: Auth) -> Caller:
    if authorization is None or not is_signature(authorization):
        if auth.checks_signatures and scope["path"] in MESSAGE_PATHS:
            return TO_BE_CHECKED  # and refused there, in words that speak of nodes
        return auth.caller(authorization, is_public(scope["path"]))
    if scope["method"] == "POST" and scope["path"].startswith(MESH_PATHS):
        return TO_BE_CHECKED
    query = scope["query_string"].decode("latin-1")
    target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
    auth.node(authorization, Claim(scope["method"], target, covered(scope["headers"])))
    return SIGNED


def is_public(path: str) -> bool:
    """Whether a path needs no API key: liveness, readiness, health, and channel webhooks (which are signed themselves)."""
    return path.rstrip("/") in {"/livez", "/readyz", "/v1/health"} or (
        path.startswith("/v1/channels/") and path.rstrip("/").endswith("/webhook")
    )


def _text(headers: dict[bytes, bytes], name: bytes) -> str:
    return value.decode("latin-1") if (value := headers.get(name)) else ""


def _number(headers: dict[bytes, bytes], name: bytes, default: float) -> float:
    value = headers.get(name)
    if value is None:
        return default
    if not value.isdigit() or len(value) > 12:
        raise BadRequest(f"The header {name.decode()} is {value[:40].decode('latin-1')!r}; it is a whole number.")
    return float(value)


def _hops(value: bytes) -> tuple[str, ...]:
    if not value:
        return ()
    ids = [part.strip() for part in value.decode("latin-1").split(",") if part.strip()]
    if len(ids) > 8 or not all(_NODE_ID.fullmatch(each) for each in ids):
        raise BadRequest(f"The header X-Astromesh-Forwarded is {value[:80].decode('latin-1')!r}; it lists up to 8 node ids.")
    return tuple(ids)
