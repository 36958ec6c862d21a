"""`python -m app`: read the environment, load the configuration, run the node. Exit 78: bad configuration; 0: drained; 1: a failure."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable

from app import log
from app.config import Configuration, load
from app.errors import ConfigError, NodeError
from app.node import Node

EX_CONFIG = 78


def main() -> int:
    try:
        configuration = load(os.environ)
        log.set_up(configuration.settings.log_level, configuration.settings.log_format)
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


async def _serve(configuration: Configuration) -> None:
    """Run the node; the first SIGTERM or SIGINT begins its drain, a second one cancels it, which ends everything at once."""
    stopping = asyncio.Event()
    node = asyncio.current_task()

    def stop() -> None:
        if stopping.is_set() and node is not None:
            node.cancel()
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await Node(configuration).run(stopping)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # Neither the loop nor the interpreter is closed in order: both would wait for threads, and a look-up of a name whose server is
    # silent takes longer than Docker waits for a node to stop.
    os._exit(code)
