"""What a command prints: its answer on stdout, and on stderr what is said about it."""

import json
from typing import Any

import click

from app.cli.node import Reply
from app.cli.text import printable


def show(text: str) -> None:
    click.echo(text)


def note(text: str) -> None:
    """A remark that is not part of the answer."""
    click.echo(printable(text), err=True)


def show_json(value: Any) -> None:
    """For programs: ASCII, so that it passes whole through any pipe."""
    click.echo(json.dumps(value, indent=2))


def note_missing(reply: Reply, what: str = "in this answer") -> None:
    """Say that the answer is not whole."""
    if reply.missing:
        note(f"Not {what}, for they did not answer: {reply.missing}.")
