"""What many tests need: a service mounted alone, and any ASGI app on a real socket of loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.routing import Router
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from app.errors import ServiceUnavailable
from app.services.contract import NodeContext, Service


class Neighbours:
    """A ``locate`` for tests: the apps that were put in, by service name; anything else is 503 service_unavailable."""

    def __init__(self, **apps: ASGIApp) -> None:
        self.apps = apps

    def locate(self, service: str, key: str | None) -> ASGIApp:
        if service not in self.apps:
            raise ServiceUnavailable(f"No node here offers {service}.")
        return self.apps[service]


def node_context(data_dir: Path, neighbours: Neighbours | None = None, environ: Mapping[str, str] | None = None) -> NodeContext:
    """A NodeContext over ``data_dir`` (also used as the configuration folder's parent: ``data_dir/config``)."""
    return NodeContext(
        name="test-node",
        node_id="n" * 16,
        store_id="5" * 12,
        data_dir=data_dir,
        config_dir=data_dir / "config",
        locate=(neighbours or Neighbours()).locate,
        metrics=CollectorRegistry(),
        draining=asyncio.Event(),
        environ=environ or {},
        store_for_new_session=lambda: "5" * 12,
    )


@asynccontextmanager
async def mounted(service: Service) -> AsyncIterator[ASGIApp]:
    """Open a service, run its background work, and yield its routes as one ASGI app."""
    async with service.open():
        task = asyncio.create_task(service.run())
        try:
            yield Router(list(service.routes), redirect_slashes=False)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def serve(app: Any, **options: Any) -> AsyncIterator[str]:
    """Serve an ASGI app on a free port of loopback and yield its base URL; what is still open at the end is cut."""
    config = uvicorn.Config(app, lifespan="off", log_config=None, ws="none", **options)
    config.load()
    state = ServerState()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config=config, server_state=state, app_state={}),  # type: ignore[call-arg]
        sock=listener,
    )
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)
