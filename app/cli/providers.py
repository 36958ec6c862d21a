"""`providers`: the model servers, of all nodes that have some."""

import click

from app.cli.invocation import Asked, asks_node
from app.cli.output import note, note_missing, show, show_json
from app.cli.text import table


@click.group()
def providers() -> None:
    """The model servers that are attached."""


@providers.command("list")
@asks_node
def listed(asked: Asked) -> None:
    """Each provider with its models, wherever it is attached."""
    reply = asked.node.get("/v1/providers")
    rows = reply.rows("providers")
    if asked.as_json:
        show_json(reply.body)
        return
    names = ("name", "type", "status", "nodes", "endpoint", "models")
    show(table([name.upper() for name in names], [[row.get(name) for name in names] for row in rows]))
    for row in rows:
        if row.get("reason"):
            note(f"{row.get('name')}: {row['reason']}")
    note_missing(reply)
