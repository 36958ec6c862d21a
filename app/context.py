"""What one request carries through the node and across hops: ids, trace, deadline, principal, hops. Read by whoever serves it."""

import asyncio
import random
import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

DEFAULT_DEADLINE_S = 600.0
_TRACEPARENT = re.compile(r"^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request. ``deadline`` is loop time in seconds; ``hops`` are the ids of the nodes it has passed; "" is the anonymous principal.

    ``store`` is the one that a request for a conversation is sent to, once a node has found it; nobody looks for it again.
    """

    request_id: str
    traceparent: str
    deadline: float
    tracestate: str = ""
    principal: str = ""
    hops: tuple[str, ...] = ()
    session: str | None = None
    agent_depth: int = 0
    store: str = ""
    from_peer: bool = field(default=False, compare=False)

    def remaining_s(self) -> float:
        """Seconds until the deadline, on the running loop's clock; may be negative."""
        return self.deadline - asyncio.get_running_loop().time()

    @property
    def trace_id(self) -> str:
        return self.traceparent.split("-")[1]


CURRENT: ContextVar[RequestContext] = ContextVar("astromesh_request")


def new_request_id() -> str:
    return f"req_{random.getrandbits(96):024x}"


def continue_trace(traceparent: str | None, is_sampled: Callable[[], bool] = lambda: True, *, takes_part: bool = True) -> tuple[str, str]:
    """The request's own traceparent, and the id of its caller's span, "" for none: the caller's trace with a span id of our own (W3C Trace
    Context §3.2), or a new trace, of which ``is_sampled`` decides. A node that takes no part in traces passes on what it got: its own span
    id would be a link that the tree lacks."""
    match = _TRACEPARENT.match(traceparent) if traceparent else None
    if match is None:
        return f"00-{random.getrandbits(127) + 1:032x}-{new_span_id()}-{'01' if is_sampled() else '00'}", ""
    return f"00-{match[1]}-{new_span_id() if takes_part else match[2]}-{match[3]}", match[2]


def new_span_id() -> str:
    return f"{random.getrandbits(63) + 1:016x}"  # unique, not secret: no system call for it


def background(deadline_s: float = DEFAULT_DEADLINE_S, request_id: str | None = None) -> RequestContext:
    """A context for work that no client asked for: probes, start-up checks, tests."""
    return RequestContext(request_id or new_request_id(), continue_trace(None)[0], asyncio.get_running_loop().time() + deadline_s)


def current() -> RequestContext:
    """The context of the request being served, or a fresh background one."""
    try:
        return CURRENT.get()
    except LookupError:
        return background()
