"""`new`: begin an agent, a tool or a profile of one's own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import yaml

from app.cli.draft import Draft
from app.cli.failure import Failure
from app.cli.invocation import Invocation, reads_files
from app.cli.output import note, show, show_json
from app.cli.text import here
from app.cli.written import SHIPPED, template, write
from app.config.address import check_url
from app.config.files import examine_path
from app.config.settings import parse
from app.config.yaml import parse as parse_yaml
from app.errors import ConfigError

_AGENT = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TOOL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PORT = 9000


@click.group()
def new() -> None:
    """Begin an agent, a tool or a profile of your own."""


_OUTPUT = click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="The configuration folder. [default: ASTROMESH_CONFIG_DIR, or the node's own]",
)
_FORCE = click.option("--force", is_flag=True, help="Overwrite what is there.")


@new.command()
@click.argument("name")
@click.option("--description", default="Answers questions.", show_default=True, help="What the agent is for; its prompt says it too.")
@_OUTPUT
@_FORCE
@reads_files
def agent(said: Invocation, as_json: bool, name: str, description: str, output: Path | None, force: bool) -> None:
    """Write agents/NAME.agent.yaml: an agent with two tools and memory, ready to run."""
    _named(name, _AGENT, "lower-case letters, digits and single hyphens")
    file = _folder(said, output) / "agents" / f"{name}.agent.yaml"
    shown = name.replace("-", " ").capitalize()
    write({file: template("agent.yaml", name=name, display_name=_quoted(shown), description=_quoted(description))}, force=force)
    _tell({"agent": name, "written": [str(file)]}, as_json)
    if not as_json:
        note(f'Then: astromeshctl agents reload (or start the node anew), and: astromeshctl run {name} "What can you do?"')


@new.command()
@click.argument("name")
@click.option("--like", "base", metavar="PROFILE", default="worker", show_default=True, help="The profile to begin with.")
@_OUTPUT
@_FORCE
@reads_files
def profile(said: Invocation, as_json: bool, name: str, base: str, output: Path | None, force: bool) -> None:
    """Write profiles/NAME.yaml, a copy of another profile to change."""
    _named(name, _PROFILE, "letters, digits and ._-, a letter or digit first")
    folder = _folder(said, output) / "profiles"
    draft = Draft(_profile_text(_folder(said, None) / "profiles", base), f"{base}.yaml")
    draft.set(("metadata", "name"), name)
    write({folder / f"{name}.yaml": draft.text}, force=force)
    _tell({"profile": name, "written": [str(folder / f"{name}.yaml")]}, as_json)
    if not as_json:
        note(f"Change it, check it by `astromeshctl config validate`, and start a node with ASTROMESH_PROFILE={name}.")


def _profile_text(folder: Path, base: str) -> str:
    """The profile of that name in the folder, or that ships with the node."""
    found = {path.stem: path for place in (SHIPPED / "profiles", folder) for path in sorted(place.glob("*.yaml"))}
    if base not in found:
        raise Failure(f"There is no profile {base!r} to begin with; there is {', '.join(sorted(found)) or 'none'}.")
    try:
        return found[base].read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise Failure(f"{found[base]} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}.") from error


@dataclass(frozen=True, slots=True)
class WebhookTool:
    """A tool that agents call over HTTP, as an entry of an agent's file has it."""

    name: str
    description: str
    url: str

    def entry(self) -> list[str]:
        return [
            f"- name: {self.name}",
            "  type: webhook",
            f"  description: {_quoted(self.description)}",
            f"  url: {_quoted(self.url)}",
            "  parameters:",
            "    text: {type: string, required: true, description: The text to work on}",
        ]

    def program(self, file: Path) -> str:
        port = urlsplit(self.url).port or _PORT
        return template("tool.py.txt", name=self.name, file=file.name, port=str(port))


@new.command()
@click.argument("name")
@click.option("--agent", "agent_name", metavar="AGENT", help="The agent whose file gets the tool; without it the entry is only shown.")
@click.option("--url", "tool_url", metavar="URL", default=f"http://127.0.0.1:{_PORT}", show_default=True, help="Where nodes call it.")
@click.option("--description", default="Counts the words and letters of a text.", show_default=True, help="What the model is told it does.")
@_OUTPUT
@_FORCE
@reads_files
def tool(said: Invocation, as_json: bool, output: Path | None, force: bool, **told: Any) -> None:
    """Write tools/NAME.py, a small web server that is a tool, and enter it in an agent's file.

    It needs nothing but Python. Change its function `answer`, and the entry's `parameters` with it.
    """
    made, folder = _tool(**told), _folder(said, output)
    program = folder / "tools" / f"{made.name}.py"
    texts = {program: made.program(program)}
    file = _agent_file(folder, told["agent_name"]) if told["agent_name"] else None
    changed = _with_tool(file, made) if file else ""
    write(texts, force=force)
    if file:
        write({file: changed}, force=True)
    written = [str(path) for path in (program, file) if path]
    _tell({"tool": made.name, "written": written, "entry": "\n".join(made.entry())}, as_json)
    if as_json:
        return
    if not file:
        note("Put this below `tools:` in the agent's file:")
        show("\n".join(f"    {line}" for line in made.entry()))
    note(f"Run it: python3 {here(program)}")
    note(f"Then: astromeshctl agents reload (or start the node anew). Nodes call it at {made.url}.")


def _tool(name: str, tool_url: str, description: str, **_: Any) -> WebhookTool:
    _named(name, _TOOL, "up to 64 letters, digits, _ and -")
    try:
        check_url(tool_url)
    except ValueError as error:
        raise click.UsageError(f"--url is {tool_url!r}, which {error}; write one like http://127.0.0.1:9000.") from None
    return WebhookTool(name, description, tool_url)


def _agent_file(folder: Path, name: str) -> Path:
    """The file that has the agent of this name."""
    found = dict[str, Path]()
    for path in sorted((folder / "agents").glob("*.agent.yaml")):
        try:
            document = parse_yaml(path.read_text("utf-8"), str(path))
        except (OSError, UnicodeError, ConfigError):
            continue  # `config validate` tells of it
        metadata = document.data.get("metadata")
        if isinstance(metadata, Mapping):
            found.setdefault(str(metadata.get("name")), path)
    if name not in found:
        raise Failure(f"There is no agent {name!r} in {folder / 'agents'}; there is {', '.join(found) or 'none'}.")
    return found[name]


def _with_tool(file: Path, made: WebhookTool) -> str:
    """The agent's file with the tool in it. Raises Failure where the file is wrong, or has a tool of that name."""
    for each in examine_path(file, {}):
        if shape := [problem for problem in each.problems if "${" not in problem.message]:
            raise Failure(f"the file is broken, so nothing was written:\n{shape[0]}")
    draft = Draft(file.read_text("utf-8"), str(file))
    tools = (yaml.safe_load(draft.text)["spec"] or {}).get("tools") or []
    if any(each.get("name") == made.name for each in tools):
        raise Failure(f"{file} has a tool {made.name!r} already, so nothing was written; take another name.")
    if draft.has(("spec", "tools")):
        draft.insert(("spec", "tools"), made.entry())
    else:
        draft.insert(("spec",), ["tools:", *(f"  {line}" for line in made.entry())])
    return draft.text


def _folder(said: Invocation, output: Path | None) -> Path:
    return output or parse(said.environ)[0].config_dir


def _named(name: str, pattern: re.Pattern[str], what: str) -> None:
    if not pattern.fullmatch(name):
        raise click.UsageError(f"{name!r} cannot be the name; write {what}.")


def _quoted(text: str) -> str:
    """Text as a YAML value on one line."""
    return str(yaml.safe_dump(" ".join(text.split()), default_style='"', width=10_000, allow_unicode=True)).strip()


def _tell(told: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(told)
        return
    for path in told["written"]:
        show(f"wrote {here(path)}")
