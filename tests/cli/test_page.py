"""docs/astromeshctl.md has every command with an example, and the README's way to an own tool is made of commands that there are."""

import re
from collections.abc import Iterator

import click

from app.cli.root import root
from tests.nodes import ROOT

PAGE = (ROOT / "docs" / "astromeshctl.md").read_text()


def commands(command: click.Command, path: str = "") -> Iterator[str]:
    """Every command that does something, by the words that call it."""
    if not isinstance(command, click.Group):
        yield path.strip()
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from commands(inner, f"{path} {name}")


def test_every_command_has_an_example_on_the_page() -> None:
    known = set(commands(root))
    assert len(known) == 32
    assert not [path for path in known if f"`{path}`" not in PAGE and f"astromeshctl {path}" not in PAGE and f"`{path} " not in PAGE]


def test_what_page_and_readme_call_are_commands() -> None:
    known = set(commands(root))
    for text in (PAGE, (ROOT / "README.md").read_text()):
        for line in re.findall(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*astromeshctl ([a-z].*)$", text, re.MULTILINE):
            words = line.split()
            assert words[0] in known or " ".join(words[:2]) in known, line
