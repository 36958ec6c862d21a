"""`python -m app`: read the environment, load the configuration, run the node.

Exit 78: bad configuration; 64: arguments, of which there are none; 0: drained; 1: a failure.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from app import __version__, log
from app.config import Configuration, load
from app.errors import ConfigError, NodeError
from app.node import Node

EX_USAGE = 64
EX_CONFIG = 78
_USAGE = """\
usage: python -m app [--help | --version]      (in the image and in a checkout: entrypoint.sh)

Runs an Astromesh node. It takes no arguments: what it does is read from the environment.
  ASTROMESH_ROLE            full (the default), gateway, worker or inference
  ASTROMESH_MESH_ENABLED    true takes the profile mesh-<role>
  ASTROMESH_PROFILE         a profile by path or name; wins over the two above
  ASTROMESH_CONFIG_DIR, ASTROMESH_DATA_DIR, ASTROMESH_HOST, ASTROMESH_PORT, ASTROMESH_API_KEYS, ...
docs/configuration.md describes them all.
"""


def main(arguments: Sequence[str] = ()) -> int:
    if arguments:
        return _told(arguments)
    try:
        configuration = load(os.environ)
        log.set_up(configuration.settings.log_level, configuration.settings.log_format)
        for note in configuration.notes:
            logging.getLogger("app").debug("%s", note)
        asyncio.Runner(loop_factory=_loop_factory()).run(_serve(configuration))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EX_CONFIG
    except NodeError as error:  # a data directory, say, that cannot be used: the message has the remedy
        logging.getLogger("app").critical("the node cannot start: %s", error.message)
        return 1
    except asyncio.CancelledError:
        return 1
    except Exception:
        logging.getLogger("app").exception("the node failed and stops")
        return 1
    return 0


def _told(arguments: Sequence[str]) -> int:
    """Tell what was asked for, or that there is no such argument: a node that started all the same would not be the one that was meant."""
    match list(arguments):
        case ["--help" | "-h"]:
            text, code = _USAGE, 0
        case ["--version"]:
            text, code = f"astromesh-node {__version__}\n", 0
        case [first, *_]:
            text, code = f"unknown argument {first!r}\n{_USAGE}", EX_USAGE
    stream = sys.stderr if code else sys.stdout
    stream.write(text)
    stream.flush()  # nothing else does: the process ends without the interpreter's clean-up
    return code


async def _serve(configuration: Configuration) -> None:
    """Run the node; the first SIGTERM or SIGINT begins its drain, a second one cancels it, which ends everything at once. SIGHUP has its
    agent files read anew."""
    stopping = asyncio.Event()
    running = asyncio.current_task()
    node = Node(configuration)

    def stop() -> None:
        if stopping.is_set() and running is not None:
            running.cancel()
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, node.reread.set)
    await node.run(stopping)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    code = main(sys.argv[1:])
    logging.shutdown()
    # Neither the loop nor the interpreter is closed in order: both would wait for threads, and a look-up of a name whose server is
    # silent takes longer than Docker waits for a node to stop.
    os._exit(code)
