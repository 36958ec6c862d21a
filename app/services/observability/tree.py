"""Traces as they are shown: rows of a list, and one trace as a tree of the spans of all nodes that took part in it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from app.tracing import Span

Row = dict[str, Any]
MAX_DEPTH = 100
"""Spans below one another in an answer; what is deeper, which only a client that sends odd ids brings about, stands beside the tree."""
AGENT = "gen_ai.agent.name"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GRAVITY = ("ok", "cancelled", "error")


def row(span: Span, node: str, principal: str) -> Row:
    """One span for JSON, without its children. What was said is shown to the ``principal`` who said it alone."""
    shown: Row = {
        "span_id": span.span_id,
        "parent_id": span.parent_id or None,
        "name": span.name,
        "kind": span.kind,
        "node": node,
        "started_at": (_EPOCH + timedelta(microseconds=span.started_ns // 1000)).isoformat(timespec="microseconds"),
        "duration_ms": round(span.duration_ns / 1e6, 3),
        "status": span.status,
        "error": span.attributes.get("error.type"),
        "attributes": {name: list(value) if isinstance(value, tuple) else value for name, value in span.attributes.items()},
    }
    if span.content and span.principal == principal:
        shown["content"] = dict(span.content)
    return shown


def summary(trace_id: str, spans: Sequence[Row]) -> Row:
    """A trace in a list. Its agent is the one that was asked; its status and time are those of the whole."""
    ordered = sorted(spans, key=lambda span: str(span["started_at"]))
    ids = {span["span_id"] for span in ordered}
    first = next((span for span in ordered if span["parent_id"] not in ids), ordered[0])
    begun = min(_time(span) for span in ordered)
    ended = max(_time(span) + timedelta(milliseconds=span["duration_ms"]) for span in ordered)
    return {
        "trace_id": trace_id,
        "agent": next((agent for span in ordered if (agent := span["attributes"].get(AGENT))), None),
        "name": first["name"],
        "started_at": begun.isoformat(timespec="microseconds"),
        "duration_ms": round((ended - begun) / timedelta(milliseconds=1), 3),
        "status": max((span["status"] for span in (first, *_first_run(ordered))), key=_GRAVITY.index),
    }


def tree(spans: Iterable[Row]) -> list[Row]:
    """The spans below one another, each with its ``children``, in the order of their beginning; one whose parent nobody has is on top."""
    known = {span["span_id"]: {**span, "children": []} for span in sorted(spans, key=lambda span: str(span["started_at"]))}
    below: defaultdict[str | None, list[Row]] = defaultdict(list)
    for span in known.values():
        below[span["parent_id"] if span["parent_id"] in known else None].append(span)
    top, placed = list[Row](), set[str]()
    for root in (*below[None], *known.values()):  # the latter for spans that are below one another in a circle
        if root["span_id"] not in placed:
            top.append(root)
            _hang(root, below, top, placed)
    return top


def _hang(root: Row, below: Mapping[str | None, Sequence[Row]], top: list[Row], placed: set[str]) -> None:
    """Put what is below ``root`` there, level by level."""
    placed.add(root["span_id"])
    waiting = [(root, 1)]
    while waiting:
        span, depth = waiting.pop()
        for child in [each for each in below.get(span["span_id"], ()) if each["span_id"] not in placed]:
            placed.add(child["span_id"])
            (span["children"] if depth < MAX_DEPTH else top).append(child)
            waiting.append((child, depth % MAX_DEPTH + 1))


def flat(spans: Any) -> Iterator[Row]:
    """The spans of another node's tree, one by one, those of the right shape. Raises nothing, whatever that node sent."""
    waiting = list(spans) if isinstance(spans, list) else []
    while waiting:
        span = waiting.pop()
        if not isinstance(span, dict):
            continue
        children = span.pop("children", None)
        waiting += children if isinstance(children, list) else []
        if _is_row(span):
            yield span


def _is_row(span: Row) -> bool:
    texts = all(isinstance(span.get(name), str) for name in ("span_id", "name", "kind", "node", "started_at"))
    rest = isinstance(span.get("duration_ms"), int | float) and isinstance(span.get("attributes"), dict)
    if not (texts and rest and span.get("status") in _GRAVITY and isinstance(span.get("parent_id"), str | None)):
        return False
    try:
        return _time(span).tzinfo is not None
    except ValueError:
        return False


def _time(span: Row) -> datetime:
    return datetime.fromisoformat(span["started_at"])


def _first_run(ordered: Sequence[Row]) -> list[Row]:
    """The run of the agent that was asked: a stream that broke was answered with status 200."""
    runs = (span for span in ordered if span["attributes"].get("gen_ai.operation.name") == "invoke_agent")
    return [first] if (first := next(runs, None)) else []
