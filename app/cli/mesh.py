"""`mesh`: the members as one node sees them, once or drawn anew every second, and a node's leaving."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from app.cli.failure import Failure
from app.cli.invocation import Asked, asks_node
from app.cli.output import note, show, show_json
from app.cli.text import count, fields, printable, table

_CLEAR = "\x1b[H\x1b[2J"
_EVERY_S = 1.0
_HEAD = ("NAME", "STATUS", "URL", "CPU", "REQ", "SEEN", "SERVICES")
_LEGEND = "* leads; SEEN: since its last sign of life"


@click.group()
def mesh() -> None:
    """The nodes that find each other by gossip."""


@mesh.command()
@asks_node
def status(asked: Asked) -> None:
    """The mesh in short, as the node sees it."""
    reply = asked.node.get("/v1/mesh/state")
    rows, own = reply.rows("nodes"), asked.node.get("/v1/system/status").part("mesh")
    if asked.as_json:
        show_json(own)
        return
    states = [_state(row) for row in rows]
    leader = next((row for row in rows if row.get("leader")), {})
    members = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    told = [("node", f"{own.get('node_name')} ({str(own.get('node_id'))[:6]})"), ("url", own.get("url")), ("status", own.get("status"))]
    told += [("members", members), ("leader", f"{leader.get('name')} ({leader.get('url')})" if leader else "none")]
    show(fields([*told, ("version", f"{reply.body.get('version')} (grows with every change of this view)")]))


@mesh.command()
@asks_node
def nodes(asked: Asked) -> None:
    """All members, as the node sees them."""
    reply = asked.node.get("/v1/mesh/state")
    rows = reply.rows("nodes")
    if asked.as_json:
        show_json(reply.body)
        return
    show(members(rows, time.time()))


@mesh.command()
@asks_node
def watch(asked: Asked) -> None:
    """All members, drawn anew every second until Ctrl-C; without a terminal, once.

    With --json, one line of JSON each second.
    """
    on_terminal = sys.stdout.isatty()
    shown = False
    try:
        while True:
            shown = _draw(asked, on_terminal=on_terminal, again=shown)
            if not (on_terminal or asked.as_json):
                return
            time.sleep(_EVERY_S)
    except KeyboardInterrupt:
        return


def _draw(asked: Asked, *, on_terminal: bool, again: bool) -> bool:
    """Show the members now. A node that is away for a while, once it was there, is waited for; raises Failure before that."""
    try:
        reply = asked.node.get("/v1/mesh/state")
        drawn = json.dumps(reply.body) if asked.as_json else members(reply.rows("nodes"), time.time())
    except Failure as failure:
        if not again or not on_terminal or asked.as_json:
            raise
        drawn = printable(failure.message)
    show((_CLEAR if on_terminal and not asked.as_json else "") + drawn)
    return True


@mesh.command()
@click.option("--yes", is_flag=True, help="Do not ask first.")
@asks_node
def leave(asked: Asked, yes: bool) -> None:
    """Take the asked node out of the mesh, until it starts anew."""
    own = asked.node.get("/v1/system/status").part("mesh")
    if not own.get("enabled"):
        raise Failure(f"The mesh is off on {asked.node.url}, so there is nothing to leave.")
    name = own.get("node_name")
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("There is no terminal to ask at; say --yes.")
        click.confirm(f"{name} ({asked.node.url}) gets no work from others until it starts anew. Leave?", abort=True, err=True)
    body = asked.node.post("/v1/mesh/leave", {"node_id": "self"}).body
    if asked.as_json:
        show_json(body)
        return
    note(f"{name} has left the mesh until it starts anew.")


def members(rows: Sequence[Mapping[str, Any]], now: float) -> str:
    """The members as a table. ``now`` is seconds since 1970."""
    states = [_state(row) for row in rows]
    told = [_member(row, state, now) for row, state in zip(rows, states, strict=True)]
    alive = sum(row.get("status") == "alive" for row in rows)
    return f"{table(_HEAD, told, whole=3)}\n{alive} of {count(len(rows), 'member')} alive; {_LEGEND}"


def _member(row: Mapping[str, Any], state: str, now: float) -> Sequence[Any]:
    load = row.get("load")
    load = load if isinstance(load, Mapping) else {}
    seen = max(0.0, now - float(row.get("last_heartbeat") or now))
    name = f"{row.get('name')}{' *' if row.get('leader') else ''}"
    return (
        name,
        state,
        row.get("url"),
        f"{load.get('cpu_percent', '?')} %",
        load.get("active_requests"),
        f"{seen:.0f} s",
        row.get("services"),
    )


def _state(row: Mapping[str, Any]) -> str:
    """The member's status; of one that is alive also that it is going, or that this node cannot reach it."""
    status = str(row.get("status"))
    if status == "alive" and row.get("draining"):
        return "draining"
    return "no way" if status == "alive" and row.get("reachable") is False else status
