"""The root of the command: its subcommands by name. Each is imported when it is used, so that none waits for what another needs."""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

import click

from app import __version__
from app.cli.invocation import Invocation, node_options

COMMANDS: Mapping[str, str] = {
    "init": "app.cli.init:init",
    "new": "app.cli.new:new",
    "config": "app.cli.config:config",
    "status": "app.cli.system:status",
    "doctor": "app.cli.system:doctor",
    "services": "app.cli.system:services",
    "run": "app.cli.run:run",
    "chat": "app.cli.run:chat",
    "agents": "app.cli.agents:agents",
    "tools": "app.cli.tools:tools",
    "providers": "app.cli.providers:providers",
    "rag": "app.cli.rag:rag",
    "peers": "app.cli.peers:peers",
    "mesh": "app.cli.mesh:mesh",
    "traces": "app.cli.traces:traces",
    "metrics": "app.cli.metrics:metrics",
}


class Commands(click.Group):
    """The commands of COMMANDS, in that order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@node_options
@click.version_option(__version__, message="astromeshctl %(version)s")
@click.pass_context
def root(context: click.Context, /, url: str | None, key: str | None, **said: Any) -> None:
    """See and steer Astromesh nodes.

    Commands that ask a node take --url, --api-key and --json, here or after their name. What can be asked of one node can be asked of
    any: it answers itself, or gets the answer from the node that can.
    """
    assert isinstance(context.obj, Invocation)
    context.obj = replace(context.obj, url=url, key=key, as_json=bool(said["as_json"]))
