"""`peers`: the nodes that this one knows and asks."""

import click

from app.cli.invocation import Asked, asks_node
from app.cli.output import note, show, show_json
from app.cli.text import table


@click.group()
def peers() -> None:
    """The nodes that a node forwards to."""


@peers.command("list")
@asks_node
def listed(asked: Asked) -> None:
    """Each peer with its state, as the asked node sees it."""
    rows = asked.node.get("/v1/system/status").rows("peers")
    if asked.as_json:
        show_json({"peers": rows})
        return
    if not rows:
        note("This node has no peers: neither its profile (spec.peers) nor a mesh names any.")
        return
    head = ("NAME", "STATE", "IN FLIGHT", "URL", "SERVICES")
    show(table(head, [[row.get(name) for name in ("name", "state", "in_flight", "url", "services")] for row in rows]))
    for row in rows:
        if row.get("reason"):
            note(f"{row.get('name')}: {row['reason']}")
