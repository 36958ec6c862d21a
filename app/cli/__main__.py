"""`python -m app.cli`: the command astromeshctl. Only this module reads the environment and ends the process.

Exit 0: done; 1: it could not be done; 2: wrong usage; 78: bad configuration; 130: interrupted.
"""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

import click

from app.cli.invocation import Invocation
from app.cli.root import root

INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows another one instead of a traceback
    try:
        code = root.main(list(arguments), "astromeshctl", standalone_mode=False, obj=Invocation(os.environ))
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
