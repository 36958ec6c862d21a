"""What a person is told when something cannot be done: what is wrong and the remedy, on stderr; never a traceback."""

from typing import IO, Any, ClassVar

import click

from app.cli.text import printable

EX_CONFIG = 78


class Failure(click.ClickException):
    """The command could not do what it was asked; the message ends in the remedy."""

    exit_code: ClassVar[int] = 1

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"{click.style('Error:', fg='red')} {printable(self.format_message())}", err=True)


class Refused(Failure):
    """The node's own answer that it does not do it; ``status`` and ``code`` are the answer's."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class BadConfiguration(Failure):
    """Configuration that no node could start with."""

    exit_code: ClassVar[int] = EX_CONFIG
