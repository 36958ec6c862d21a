"""uvicorn as this node uses it: our own HTTP protocol, no lifespan, no signal handling; a listener whose failure is a clear error."""

import asyncio
import contextlib
import logging
import os
import resource
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from app.config.profile import ApiSettings
from app.edge.protocol import limited
from app.errors import ConfigError, Problem

BACKLOG = 2048
RESERVED_FILES = 256
"""For what is not a client's connection: those to peers and providers, the databases, the log."""
TICK_S = 1.0
CLOSING_S = 1
"""How long, after the drain, a client may take to read the last of its answer."""
log = logging.getLogger("app.node")


class Server(uvicorn.Server):
    """Calls ``on_started`` once it accepts connections. The node owns the signals: uvicorn would close the listener at once."""

    def __init__(self, app: ASGIApp, api: ApiSettings, node_name: str, on_started: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            http=limited(replace(api, max_connections=room(api.max_connections)), node_name),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=CLOSING_S,
            backlog=BACKLOG,
        )
        super().__init__(config)
        self._on_started = on_started
        self._stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def main_loop(self) -> None:
        """Keep the Date header until told to stop. uvicorn looks ten times a second; that was three tenths of an idle node's CPU time."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._stopping.wait()

    def stop(self) -> None:
        """Take no more connections, and end once those that are open have had their answers."""
        self.should_exit = True
        self._stopping.set()

    def close(self) -> None:
        """End all that is left, where the node ends by a failure; the event loop must let go of the listener before it is closed."""
        for server in getattr(self, "servers", ()):
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def room(wanted: int) -> int:
    """How many of the ``wanted`` connections this process may have open: as many files as the system lets it, but for RESERVED_FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    log.warning("this process may have %d files open, too few for spec.api.max_connections (%d); raise `ulimit -n`", soft, wanted)
    return max(1, soft - RESERVED_FILES)


def listen(host: str, port: int, place: tuple[str, str], remedy: str) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError for ``place``, the file and the YAML path that named the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named, or asyncio leaves Nagle's algorithm on: 40 ms between the head and the body of an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        file, path = place
        raise ConfigError([Problem(file, f"cannot listen on {host}:{port}: {error.strerror or error}", path, remedy=remedy)]) from error
    return listener


def base_url(listener: socket.socket) -> str:
    """The URL at which this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def told_address(listener: socket.socket) -> str:
    """The URL, and where that is one of many, the address in truth: a node in a container that said 127.0.0.1 alone would seem shut off."""
    host, port = listener.getsockname()[:2]
    url = base_url(listener)
    return url if host not in ("0.0.0.0", "::") else f"{url} (at every address of this machine: {host} port {port})"  # noqa: S104


def leave_url(url: str) -> None:
    """Write the URL where the container's health check looks for it; elsewhere nobody minds when that fails."""
    path = Path(tempfile.gettempdir()) / "astromesh.url"
    draft = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        draft.write_text(url)
        draft.replace(path)
