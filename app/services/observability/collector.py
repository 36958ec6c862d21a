"""The bridge to OpenTelemetry's SDK: our spans as its own, sent by its exporter. Only imported where spans are exported."""

import logging
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from app import __version__
from app.tracing import Span, Value

_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
_UNSET, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_SCOPE = InstrumentationScope("astromesh", __version__)


class _LastWords(logging.Handler):
    """Keeps what the exporter said last, instead of a line in the log for each batch that fails."""

    said = ""

    def emit(self, record: logging.LogRecord) -> None:
        if not (self.said and record.levelno == logging.ERROR and "max retries" in record.getMessage()):
            self.said = record.getMessage()


class Collector:
    """Sends spans to the collector at ``url``; headers, timeout, TLS and compression are those of OpenTelemetry's own variables, and so are
    the resource's attributes, which win over the node's."""

    def __init__(self, url: str, node: tuple[str, str]) -> None:
        """``node`` is this node's name and id."""
        own = {"service.name": "astromesh", "service.version": __version__, "service.instance.id": node[1], "astromesh.node": node[0]}
        self._resource = Resource.create(own).merge(OTELResourceDetector().detect())
        self._exporter = trace_exporter.OTLPSpanExporter(endpoint=url)
        self._words = _LastWords()
        logger = logging.getLogger(trace_exporter.__name__)
        logger.propagate = False
        logger.handlers = [self._words]

    def send(self, spans: Sequence[Span]) -> str:
        """Send spans, which may take as long as OTEL_EXPORTER_OTLP_TIMEOUT says. Returns why that failed, "" for success."""
        self._words.said = ""
        result = self._exporter.export([self._translated(span) for span in spans])
        return "" if result is SpanExportResult.SUCCESS else self._words.said or "the exporter does not say why"

    def close(self) -> None:
        """Give up what is being sent again and again."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _translated(self, span: Span) -> ReadableSpan:
        attributes = {name: _utf8(value) for name, value in (*span.attributes.items(), *(span.content or {}).items())}
        if span.status == "cancelled":  # not an error, and OpenTelemetry has no word for it
            attributes["astromesh.status"] = "cancelled"
        return ReadableSpan(
            str(_utf8(span.name)),
            _context(span.trace_id, span.span_id),
            _context(span.trace_id, span.parent_id, is_remote=span.kind == "server") if span.parent_id else None,
            self._resource,
            attributes,
            kind=_KINDS[span.kind],
            status=_ERROR if span.status == "error" else _UNSET,
            start_time=span.started_ns,
            end_time=span.started_ns + span.duration_ns,
            instrumentation_scope=_SCOPE,
        )


def _utf8(value: Value) -> Value:
    """Half of a surrogate pair, which a client or a model may have put into a name, would make the whole batch fail."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _context(trace_id: str, span_id: str, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, TraceFlags(TraceFlags.SAMPLED))
