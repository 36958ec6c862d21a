"""`agents`: list them, and have their files read anew."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from app.cli.invocation import Asked, asks_node
from app.cli.output import note, note_missing, show, show_json
from app.cli.text import cell, count, table


@click.group()
def agents() -> None:
    """The agents of all nodes."""


@agents.command("list")
@asks_node
def listed(asked: Asked) -> None:
    """Each agent with its state, wherever it runs."""
    reply = asked.node.get("/v1/agents")
    rows = reply.rows("agents")
    if asked.as_json:
        show_json(reply.body)
        return
    if not rows:
        note("There is no agent yet; `astromeshctl new agent NAME` writes one.")
        return
    names = ("name", "status", "pattern", "model", "nodes", "description")
    show(table([name.upper() for name in names], [[row.get(name) for name in names] for row in rows], whole=2))
    for row in rows:
        note_wrong(row)
    note_missing(reply)


def note_wrong(row: Mapping[str, Any]) -> None:
    """Why an agent does not run, or not as its file says."""
    reasons = [row[name] for name in ("reason", "stale") if row.get(name)]
    for reason in [*reasons, *(row.get("errors") or ()), *(row.get("warnings") or ())]:
        note(f"{cell(row.get('name'))}: {cell(reason)}")


@agents.command()
@asks_node
def reload(asked: Asked) -> int:
    """Read the agent files anew, without dropping runs.

    Every node that has agents does, whichever is asked. Exit 1 when a file is broken.
    """
    reply = asked.node.post("/v1/agents/reload", {})
    body = reply.body
    broken = _rows(body.get("broken"))
    if asked.as_json:
        show_json(body)
        return 1 if broken else 0
    loaded: Any = body.get("loaded") or []
    show(f"{count(len(loaded), 'agent')} loaded: {cell(loaded)}")
    for row in [*broken, *_rows(body.get("unavailable"))]:
        note_wrong(row)
    note_missing(reply, "read anew")
    if broken:
        note(f"{count(len(broken), 'file')} broken; an agent that was loaded before stays as it was.")
    return 1 if broken else 0


def _rows(value: Any) -> Sequence[Mapping[str, Any]]:
    given = value if isinstance(value, list) else []
    return [row if isinstance(row, Mapping) else {"name": row} for row in given]
