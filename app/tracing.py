"""Spans: what a request does, where, and for how long, as a tree over in-process calls and nodes (W3C Trace Context).

The active span is a context variable: a span that begins inside another is its child, and its id goes out as traceparent. Names and
attributes are OpenTelemetry's. What was asked and answered is kept only where the node is told to (``content``).
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from app.context import CURRENT, RequestContext, new_span_id
from app.genai import as_text

Value = str | int | float | bool | tuple[str, ...]
Kind = Literal["internal", "server", "client"]
Status = Literal["ok", "error", "cancelled"]
MAX_SPANS = 1000
"""Spans kept of one trace: a client that sends the same trace id for ever must not fill the ring with it."""
MAX_CONTENT_CHARS = 16 * 1024
"""Characters kept of one message list, arguments or result."""
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_SPAN_BYTES = 1000
_ATTRIBUTE_BYTES = 150
"""What a span and each of its attributes weigh in memory, measured and rounded up."""


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """``spec.observability.traces``. ``sample_ratio`` and ``max_per_second`` decide on traces that begin here; on those that come in others
    have decided. Of thousands a second nobody could look at one before it is gone, and recording one costs a fourth of forwarding it."""

    enabled: bool = True
    sample_ratio: float = 1.0
    max_per_second: float = 100.0
    max_traces: int = 2_000
    max_bytes: int = 8 * 1024 * 1024


class Span:
    """One piece of work. As a context manager it is active inside the block, and ends with it; an exception decides its status."""

    __slots__ = (
        "_recorder",
        "_token",
        "attributes",
        "content",
        "duration_ns",
        "kind",
        "name",
        "parent_id",
        "principal",
        "span_id",
        "started_ns",
        "status",
        "trace_id",
        "weight",
    )

    def __init__(self, recorder: "Recorder", ids: tuple[str, str, str], name: str, kind: Kind, attributes: dict[str, Value]) -> None:
        """``ids`` are those of the trace, the span and its parent ("" for none). ``attributes`` becomes the span's own."""
        self._recorder = recorder
        self.trace_id, self.span_id, self.parent_id = ids
        self.name, self.kind, self.attributes = name, kind, attributes
        self.status: Status = "ok"
        self.principal = ""
        self.content: dict[str, str] | None = None
        self.started_ns = time.time_ns()
        self.duration_ns = time.perf_counter_ns()  # of the clock, until the end
        self._token: Token[Span | None] | None = None

    def __enter__(self) -> Self:
        self._token = ACTIVE.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.fail(error)
        self.end()
        token, self._token = self._token, None  # kept, it would keep the whole context of its task
        try:
            ACTIVE.reset(token)  # type: ignore[arg-type]
        except ValueError:  # another task closes the generator in which it began
            ACTIVE.set(None)

    def set(self, name: str, value: Value | None) -> None:
        """Note an attribute; None is none."""
        if value is not None:
            self.attributes[name] = value

    def tell(self, name: str, value: Any) -> None:
        """Note what was said, as JSON, where the node records content; whose it is is noted with it."""
        if self._recorder.content:
            self.content = {**(self.content or {}), name: as_text(value)[:MAX_CONTENT_CHARS]}
            context = CURRENT.get(None)
            self.principal = context.principal if context else ""

    def fail(self, why: BaseException | str) -> None:
        """The work failed, or was cancelled. Of an error only its code or class is noted: its message may repeat what was asked."""
        if isinstance(why, asyncio.CancelledError | GeneratorExit):
            self.status = "cancelled"
            return
        self.status = "error"
        self.attributes["error.type"] = why if isinstance(why, str) else _error_type(why)
        if isinstance(why, BaseException):
            self.tell("error.message", str(why))

    def end(self) -> None:
        self.duration_ns = time.perf_counter_ns() - self.duration_ns
        self._recorder.keep(self)

    def child(self, name: str, kind: Kind, attributes: dict[str, Value]) -> "Span":
        return Span(self._recorder, (self.trace_id, new_span_id(), self.span_id), name, kind, attributes)

    @property
    def keeps_content(self) -> bool:
        return self._recorder.content

    def weigh(self) -> int:
        """About how many bytes of memory it takes."""
        weight = _SPAN_BYTES + _ATTRIBUTE_BYTES * len(self.attributes)
        self.weight = weight + 4 * sum(map(len, self.content.values())) if self.content else weight
        return self.weight


class _Unrecorded(Span):
    """Stands for all work that no span is recorded of: in a trace that is not sampled, or of no request."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return

    def set(self, name: str, value: Value | None) -> None:
        return

    def tell(self, name: str, value: Any) -> None:
        return

    def fail(self, why: BaseException | str) -> None:
        return

    def end(self) -> None:
        return


class Recorder:
    """Keeps the spans of the latest traces, within bounds; the oldest trace goes first, whole. ``export`` is told of every span."""

    def __init__(self, settings: TraceSettings = TraceSettings(), *, content: bool = False) -> None:
        self.settings, self.content = settings, content
        self.node = ""
        self.export: Callable[[Span], None] | None = None
        self._traces: OrderedDict[str, list[Span]] = OrderedDict()
        self._weight = 0
        self._due = 0.0  # monotonic seconds: when the next new trace would be recorded if they came evenly

    def samples_new(self) -> bool:
        """Whether a trace that begins here is recorded by the nodes that take part in it; this one may be none of them."""
        now = time.monotonic()
        if self._due > now + 1:  # a second's worth may come at once
            return False
        if not self.settings.enabled:
            return True
        if self.settings.sample_ratio < 1 and random.random() >= self.settings.sample_ratio:
            return False
        self._due = max(self._due, now) + 1 / self.settings.max_per_second
        return True

    def accept(self, traceparent: str, parent_id: str, name: str = "", kind: Kind = "server") -> Span:
        """The span of a request, or of work that goes on after one, whose own ``traceparent`` this is. ``parent_id`` is that of the span
        above, "" for none."""
        if not self.accepts(traceparent):
            return UNRECORDED
        return Span(self, (traceparent[3:35], traceparent[36:52], parent_id), name, kind, {})

    def accepts(self, traceparent: str) -> bool:
        """Whether the spans of that trace are recorded here."""
        return traceparent[54] in "13579bdf" and self.settings.enabled  # the lowest bit of the flags: sampled

    def keep(self, span: Span) -> None:
        """Take in a span that has ended."""
        trace = self._traces.get(span.trace_id)
        if trace is None:
            trace = self._traces[span.trace_id] = []
        if len(trace) < MAX_SPANS:
            trace.append(span)
            self._weight += span.weigh()
            if self._weight > self.settings.max_bytes or len(self._traces) > self.settings.max_traces:
                self._make_room()
        if self.export is not None:
            self.export(span)

    def _make_room(self) -> None:
        while self._traces and (self._weight > self.settings.max_bytes or len(self._traces) > self.settings.max_traces):
            _, oldest = self._traces.popitem(last=False)
            self._weight -= sum(span.weight for span in oldest)

    def spans(self, trace_id: str) -> Sequence[Span]:
        """The spans of a trace that have ended here, in the order in which they did."""
        return tuple(self._traces.get(trace_id, ()))

    def latest(self) -> Iterator[Sequence[Span]]:
        """The spans of each trace, the latest trace first."""
        return reversed(self._traces.values())

    @property
    def weight(self) -> int:
        return self._weight

    @property
    def count(self) -> int:
        """How many traces are kept."""
        return len(self._traces)


ACTIVE: ContextVar[Span | None] = ContextVar("astromesh_span", default=None)
OFF = Recorder(TraceSettings(enabled=False))
UNRECORDED = _Unrecorded(OFF, ("", "", ""), "", "internal", {})


def span(name: str, attributes: Mapping[str, Value | None] | None = None, kind: Kind = "internal") -> Span:
    """A span below the active one; attributes that are None are left out."""
    parent = ACTIVE.get()
    if parent is None:
        return UNRECORDED
    return parent.child(name, kind, {key: value for key, value in attributes.items() if value is not None} if attributes else {})


def active() -> Span:
    """The span of the work that is being done, for a remark on it."""
    return ACTIVE.get() or UNRECORDED


def http_name(method: str, route: str) -> tuple[str, str]:
    """The method of an HTTP span and its name, both of which there are few; ``route`` is the template of the path, "other" for none."""
    method = method if method in _METHODS else "_OTHER"
    told = "HTTP" if method == "_OTHER" else method
    return method, told if route == "other" else f"{told} {route}"


def outgoing(context: RequestContext) -> str:
    """The traceparent that a request to another node carries: the request's, with the active span as the parent of what happens there."""
    here = ACTIVE.get()
    given = context.traceparent
    if here is None or not given.startswith(here.trace_id, 3):
        return given
    return given[:36] + here.span_id + given[52:]


def _error_type(error: BaseException) -> str:
    """What sort of error it is: its code where it has one, else its class."""
    code = getattr(error, "code", "")
    if isinstance(code, str) and code:
        return code
    return "timeout" if isinstance(error, TimeoutError) else type(error).__name__
