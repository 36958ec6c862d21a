"""What every command is given: the environment, and for those that ask a node the node and the form of the answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import click

from app import __version__
from app.cli.failure import Failure
from app.cli.node import Node

DEFAULT_URL = "http://127.0.0.1:8000"
Command = Callable[..., Any]
_MISREAD = (AttributeError, LookupError, TypeError, ValueError)
"""What comes of showing an answer whose parts are not what they should be: a list, say, where a number is expected."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """The environment, and what was said before the command's name."""

    environ: Mapping[str, str]
    url: str | None = None
    key: str | None = None
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A command that asks ``node``; ``as_json``: the answer is for a program."""

    node: Node
    as_json: bool


_URL = click.option("--url", metavar="URL", help=f"The node to ask. [env: ASTROMESH_URL; default: {DEFAULT_URL}]")
_KEY = click.option("--api-key", "key", metavar="KEY", help="The key to present. [env: ASTROMESH_API_KEY or ASTROMESH_API_KEY_FILE]")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def node_options(command: Command) -> Command:
    """``--url``, ``--api-key`` and ``--json``, as they are."""
    return _URL(_KEY(_JSON(command)))


def asks_node(command: Command) -> Command:
    """A command whose first argument is an Asked. What was said before the command's name holds where nothing is said after it."""

    @node_options
    @click.pass_obj
    @wraps(command)
    def asking(said: Invocation, /, url: str | None, key: str | None, as_json: bool, **rest: Any) -> Any:
        said = replace(said, url=url or said.url, key=key or said.key)
        asked = Asked(node_of(said), as_json or said.as_json)
        try:
            return command(asked, **rest)
        except _MISREAD as error:
            told = f"{asked.node.url} answers what this command cannot read ({type(error).__name__}: {error})"
            raise Failure(f"{told}; it is of another version than {__version__}, or no Astromesh node.") from error

    return asking


def reads_files(command: Command) -> Command:
    """A command whose first arguments are the Invocation, and as ``as_json`` whether the answer is for a program."""

    @_JSON
    @click.pass_obj
    @wraps(command)
    def reading(said: Invocation, /, as_json: bool, **rest: Any) -> Any:
        return command(said, as_json=as_json or said.as_json, **rest)

    return reading


def node_of(said: Invocation) -> Node:
    """The node that options and environment name. Raises Failure, UsageError."""
    return Node(said.url or said.environ.get("ASTROMESH_URL", "").strip() or DEFAULT_URL, said.key or _key_of(said.environ))


def _key_of(environ: Mapping[str, str]) -> str:
    key, file = environ.get("ASTROMESH_API_KEY", "").strip(), environ.get("ASTROMESH_API_KEY_FILE", "")
    if key and file:
        raise Failure("ASTROMESH_API_KEY is set, and ASTROMESH_API_KEY_FILE too; set one of the two.")
    if not file:
        return key
    try:
        with open(file, encoding="utf-8") as opened:
            read = opened.read().strip()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise Failure(
            f"ASTROMESH_API_KEY_FILE names {file!r}, which gives no key: {reason}; check the path and its permissions."
        ) from error
    if not read:
        raise Failure(f"ASTROMESH_API_KEY_FILE names {file!r}, which is empty; write the key into it.")
    return read
