"""`tools`: list the builtin tools, and try one."""

import json
from collections.abc import Iterable
from typing import Any

import click

from app.cli.failure import Failure
from app.cli.invocation import Asked, asks_node
from app.cli.output import note_missing, show, show_json
from app.cli.text import cell, explained, printable


@click.group()
def tools() -> None:
    """The tools that agents may use."""


@tools.command("list")
@asks_node
def listed(asked: Asked) -> None:
    """Each builtin tool with what it does, or why it is off."""
    reply = asked.node.get("/v1/tools")
    rows = reply.rows("tools")
    if asked.as_json:
        show_json(reply.body)
        return
    told = [(row.get("name"), "off" if row.get("available") is False else "on", _told(row)) for row in rows]
    show(explained(("NAME", "STATE", "DESCRIPTION"), told))
    note_missing(reply)


def _told(row: Any) -> str:
    schema = row.get("parameters")
    names = schema.get("properties") if isinstance(schema, dict) else None
    arguments = f" ({', '.join(names)})" if names else ""
    return f"{row.get('description')}{arguments}" + (f" Off: {row['reason']}." if row.get("reason") else "")


@tools.command()
@click.argument("name")
@click.argument("arguments", nargs=-1)
@asks_node
def test(asked: Asked, name: str, arguments: tuple[str, ...]) -> int:
    """Call a tool as an agent would: `tools test calculator expression=17*23`.

    ARGUMENTS are NAME=VALUE each, where VALUE is JSON if it can be read so and text otherwise; or one JSON object.
    """
    reply = asked.node.post("/v1/tools/execute", {"tool_name": name, "arguments": _arguments(arguments)})
    failed = reply.body.get("status") != "ok"
    if asked.as_json:
        show_json(reply.body)
        return 1 if failed else 0
    if failed:
        raise Failure(f"{name} could not do it: {cell(reply.body.get('error'))}")
    result = reply.body.get("result")
    show(printable(result if isinstance(result, str) else json.dumps(result, indent=2, ensure_ascii=False)))
    return 0


def _arguments(given: Iterable[str]) -> dict[str, Any]:
    parts = list(given)
    if len(parts) == 1 and parts[0].lstrip().startswith("{"):
        return _object(parts[0])
    arguments: dict[str, Any] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not (equals and name):
            raise click.UsageError(f"{part!r} is no argument of a tool; write NAME=VALUE, or one JSON object.")
        arguments[name] = _value(value)
    return arguments


def _object(text: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"The arguments are no JSON: {error}.") from None
    assert isinstance(parsed, dict)
    return parsed


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
