"""`config`: look at configuration without running a node, and print what a node would run with."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from app.cli.failure import EX_CONFIG, BadConfiguration
from app.cli.invocation import Invocation, reads_files
from app.cli.output import note, show, show_json
from app.cli.text import cell, count, here, table
from app.config.files import examine_all, examine_path
from app.config.origins import settings
from app.errors import ConfigError, Examined


@click.group()
def config() -> None:
    """Check configuration, and see what it comes to."""


@config.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@reads_files
def validate(said: Invocation, as_json: bool, paths: Sequence[Path]) -> int:
    """Check configuration and tell all mistakes at once. Exit 78 when there is one.

    Without PATHS: the environment, the profile that it chooses, and every file in the configuration folder (ASTROMESH_CONFIG_DIR). A path
    is a file of any kind, or a folder such as `astromeshctl init` writes.
    """
    found = [each for path in paths for each in examine_path(path, said.environ)] if paths else examine_all(said.environ)
    wrong = any(each.problems for each in found)
    if as_json:
        show_json({"valid": not wrong, "files": [_as_json(each) for each in found]})
        return EX_CONFIG if wrong else 0
    show(table(("STATUS", "KIND", "FILE"), [(_status(each), each.kind, here(each.file)) for each in found]))
    sys.stdout.flush()
    for each in found:
        _tell(each)
    errors, warnings = (sum(len(getattr(each, kind)) for each in found) for kind in ("problems", "warnings"))
    show(f"{count(errors, 'error')}, {count(warnings, 'warning')} in {count(len(found), 'place')}")
    return EX_CONFIG if wrong else 0


@config.command("print")
@reads_files
def print_settings(said: Invocation, as_json: bool) -> None:
    """Print every setting that a node would have in this environment, and where it comes from. Secrets are masked."""
    try:
        found = settings(said.environ)
    except ConfigError as error:
        raise BadConfiguration(f"this configuration starts no node:\n{error.message}") from error
    if as_json:
        show_json({"settings": [asdict(each) for each in found]})
        return
    show(table(("SETTING", "VALUE", "FROM"), [(each.name, each.value, each.source) for each in found], whole=1))


def _status(found: Examined) -> str:
    return "error" if found.problems else "warning" if found.warnings else "ok"


def _as_json(found: Examined) -> dict[str, Any]:
    shown = asdict(found)
    return {"file": found.file, "kind": found.kind or None, "status": _status(found)} | {
        name: shown[name] for name in ("problems", "warnings")
    }


def _tell(found: Examined) -> None:
    for problem in found.problems:
        note(f"error: {problem}")
    for warning in found.warnings:
        note(f"warning: {here(found.file)}: {cell(warning)}")
