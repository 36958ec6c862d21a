"""`traces`: what became of a question, over all nodes that worked on it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import click

from app.cli.invocation import Asked, asks_node
from app.cli.output import note, note_missing, show, show_json
from app.cli.text import WIDTH, cell, cut, duration, table

_NODE, _TIME = 14, 9
_DEEPEST = 200


@click.group()
def traces() -> None:
    """What became of questions, hop by hop."""


@traces.command("list")
@click.option("--agent", metavar="NAME", help="Only questions to this agent.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="How many, the latest first.")
@asks_node
def listed(asked: Asked, agent: str | None, limit: int) -> None:
    """The latest traces that passed the node."""
    reply = asked.node.get("/v1/traces", agent=agent, limit=limit)
    rows = reply.rows("traces")
    if asked.as_json:
        show_json(reply.body)
        return
    if not rows:
        note("There is no trace" + (f" of the agent {agent!r}" if agent else "") + " at this node yet.")
        return
    head = ("TRACE", "WHAT", "STARTED", "TOOK", "STATUS")
    show(table(head, [(row.get("trace_id"), _what(row), _moment(row), _took(row), row.get("status")) for row in rows], whole=1))


def _what(row: Mapping[str, Any]) -> Any:
    return row.get("agent") or row.get("name")


@traces.command("show")
@click.argument("trace_id")
@asks_node
def show_one(asked: Asked, trace_id: str) -> None:
    """One trace as a tree, with the time that each part took."""
    reply = asked.node.get(f"/v1/traces/{quote(trace_id, safe='')}")
    if asked.as_json:
        show_json(reply.body)
        return
    body = reply.body
    took = _took(body)
    show(f"trace {cell(body.get('trace_id'))}  {cell(_what(body))}  {cell(body.get('status'))}" + (f"  {took}" if took else ""))
    for span in tree(reply.rows("spans")):
        show(span.line())
    note_missing(reply)


@dataclass(frozen=True, slots=True)
class Shown:
    """A span as a line of the tree: ``stem`` is what leads to it from above."""

    stem: str
    span: Mapping[str, Any]

    def line(self) -> str:
        status = self.span.get("status")
        wrong = "" if status in (None, "ok") else f"  {cell(self.span.get('error') or status)}"
        width = WIDTH - _NODE - _TIME - 4 - min(len(wrong), 22)
        name = cut(self.stem + cell(self.span.get("name")), width)
        node = cut(cell(self.span.get("node") or ""), _NODE)
        return f"{name:<{width}}  {node:<{_NODE}}  {_took(self.span):>{_TIME}}{cut(wrong, 22)}".rstrip()


def tree(spans: Sequence[Mapping[str, Any]], above: str = "", depth: int = 0) -> Iterator[Shown]:
    """The spans with their children, in order; ``above`` are the lines that go on past them."""
    for place, span in enumerate(spans):
        last = place == len(spans) - 1
        yield Shown(above + ("" if not depth else "└─ " if last else "├─ "), span)
        children = span.get("children")
        inner = [child for child in children if isinstance(child, Mapping)] if isinstance(children, list) else []
        if depth < _DEEPEST:
            yield from tree(inner, above + ("" if not depth else "   " if last else "│  "), depth + 1)


def _took(row: Mapping[str, Any]) -> str:
    took = row.get("duration_ms")
    return duration(took / 1000) if isinstance(took, int | float) else ""


def _moment(row: Mapping[str, Any]) -> str:
    """When it began, in the person's own time: nodes send seconds since 1970, or ISO 8601."""
    at = row.get("started_at")
    try:
        moment = datetime.fromtimestamp(at, UTC) if isinstance(at, int | float) else datetime.fromisoformat(str(at))
    except (ValueError, OverflowError, OSError):
        return cell(at)
    return moment.astimezone().strftime("%H:%M:%S")
