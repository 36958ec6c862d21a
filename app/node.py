"""The node's lifecycle, and nothing else: open the services, run them, serve, drain, close."""

import asyncio
import gc
import importlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__
from app.config import Configuration
from app.context import background
from app.edge.auth import Auth
from app.edge.edge import Edge
from app.errors import ConfigError, Problem
from app.forward import Forwarder
from app.front import Front
from app.gather import Gatherer
from app.identity import new_node_id, store_id
from app.peers.peer import Peer
from app.peers.static import StaticPeers
from app.placement import LocalService, Placement
from app.server import Server, base_url, leave_url, listen
from app.services import SERVICES
from app.services.contract import NodeContext, Service
from app.session import NO_STORE
from app.system.health import Health
from app.system.routes import System
from app.system.view import NodeView
from app.upstream import Upstream

KEEPS_A_STORE = frozenset({"memory"})
NOTICE_S = 1.0
"""How long a draining node still takes new work, so that load balancers see its readiness fail first; at most a quarter of the drain."""
_OWN_PATHS = ("/livez", "/readyz", "/v1/health", "/v1/system", "/v1/mesh")
log = logging.getLogger("app.node")


def load_service(name: str) -> type[Service]:
    """Import the class of a service; only those that the profile enables are ever imported."""
    module, _, attribute = str(SERVICES[name].target).partition(":")
    loaded: Any = getattr(importlib.import_module(module), attribute)
    return loaded  # type: ignore[no-any-return]


class Node:
    """One node, built from its configuration; ``run`` serves until a signal or a failure."""

    def __init__(self, configuration: Configuration, load_service: Callable[[str], type[Service]] = load_service) -> None:
        settings, profile = configuration.settings, configuration.profile
        _refuse_what_is_missing(configuration)
        self._settings, self._profile, self._warnings = settings, profile, configuration.warnings
        self.node_id = new_node_id()
        self.url = ""
        self.listening = asyncio.Event()
        self._draining = asyncio.Event()
        self._registry = CollectorRegistry()
        enabled = [name for name in SERVICES if profile.services[name]]
        missing = [name for name in enabled if SERVICES[name].target is None]
        context = NodeContext(
            name=settings.node_name,
            node_id=self.node_id,
            store_id=store_id(settings.data_dir) if KEEPS_A_STORE & set(enabled) else NO_STORE,
            data_dir=settings.data_dir,
            config_dir=settings.config_dir,
            locate=self._locate,
            metrics=self._registry,
            draining=self._draining,
            environ=configuration.environ,
        )
        self._services = {name: load_service(name)(profile.section(name), context) for name in enabled if name not in missing}
        self._wire(missing)

    def _wire(self, missing: list[str]) -> None:
        auth = Auth(self._settings.api_keys)
        self._upstream = Upstream()
        peers = [Peer(peer.name, peer.url, peer.services) for peer in self._profile.peers]
        self.peers = StaticPeers(peers, self._upstream, lambda: forwarder.node_headers(background()))
        forwarder = Forwarder(self._upstream, self.peers, self.node_id, auth.node_header(), self._registry)
        local = {name: LocalService(service) for name, service in self._services.items()}
        self._placement = Placement(local, missing, self.peers, forwarder)
        gatherer = Gatherer(self._settings.node_name, self._placement, self._upstream, forwarder)
        health = Health(local, missing, self._warnings, self.peers)
        view = NodeView(
            self._settings.node_name,
            self.node_id,
            self._profile,
            self._placement,
            health,
            self._draining,
            lambda: self._edge.in_flight,
            time.monotonic(),
        )
        app = _dispatch(System(view), Front(self._placement, gatherer))
        self._edge = Edge(app, self._profile.api, auth, (self._settings.node_name, self._registry))
        if not auth.enabled:
            log.warning("no API key is set, so whoever reaches this port may use it; set ASTROMESH_API_KEYS before opening it to a network")
        keys = self._settings.api_keys
        if len(keys) > 1 and keys[0].name != "node":
            log.warning("API key %s is the first, which nodes present to each other: its holder may speak for any client", keys[0].name)
            log.warning("put a key of the nodes' own first, named node, and give it to no client")
        for name in missing:
            log.warning("the profile enables %s, but this build does not have it yet; its paths answer 503", name)
        for warning in self._warnings:
            log.warning("%s", warning)

    def _locate(self, service: str, key: str | None) -> ASGIApp:
        return self._placement.locate(service, key)

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until ``stopping`` is set, then drain. Raises ConfigError at start, and what stopped a service afterwards."""
        listener = listen(self._profile.api, self._profile.file)
        async with AsyncExitStack() as stack:
            stack.callback(listener.close)
            await stack.enter_async_context(self._upstream)
            await self._open_services(stack)
            edge = _open_to(self._profile.api.cors_origins, self._edge)
            server = Server(edge, self._profile.api, self._settings.node_name, lambda: self._announce(base_url(listener)))
            stack.callback(server.close)
            async with asyncio.TaskGroup() as group:
                work = [group.create_task(service.run()) for service in self._services.values()]
                work += [group.create_task(self.peers.run()), group.create_task(self._edge.run())]
                serving = group.create_task(server.serve(sockets=[listener]))
                await stopping.wait()
                await self._drain()
                server.should_exit = True
                await serving
                for task in work:
                    task.cancel()
        log.info("stopped")

    async def _open_services(self, stack: AsyncExitStack) -> None:
        problems: list[Problem] = []
        for service in self._services.values():
            try:
                await stack.enter_async_context(service.open())
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)

    def _announce(self, url: str) -> None:
        services = ", ".join(self._services) or "no services"
        log.info("Astromesh node %s (%s) of profile %s serves %s", self._settings.node_name, __version__, self._profile.name, services)
        log.info("listening on %s", url)
        leave_url(url)
        # What was made at start stays; looking through it again and again cost 10 % of the throughput and doubled the 99th percentile.
        gc.freeze()
        gc.set_threshold(20_000, 10, 10)
        self.url = url
        self.listening.set()

    async def _drain(self) -> None:
        deadline = asyncio.get_running_loop().time() + self._settings.drain_s
        self._draining.set()
        self._edge.drain()
        log.info("draining: %d requests in flight, %g s to finish", self._edge.in_flight, self._settings.drain_s)
        notice_s = min(NOTICE_S, self._settings.drain_s / 4)
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.sleep(notice_s)
                self._edge.refusing = True
                await self._edge.wait_idle()
        except TimeoutError:
            log.warning("the drain time is over: ending %d requests", self._edge.in_flight)
            self._edge.cut()
            with suppress(TimeoutError):  # what cannot be ended goes with the process
                async with asyncio.timeout(1):
                    await self._edge.wait_idle()


def _refuse_what_is_missing(configuration: Configuration) -> None:
    profile = configuration.profile
    if profile.mesh is not None:
        remedy = "until then use the static roles: ASTROMESH_MESH_ENABLED=false, or a profile without spec.mesh"
        raise ConfigError(
            [Problem(profile.file, "asks for the mesh, which this build does not have yet", "spec.mesh.enabled", remedy=remedy)]
        )
    if not profile.services["api"]:
        remedy = "set it to true; a node without a public API needs signed traffic between nodes, which comes with the mesh"
        raise ConfigError([Problem(profile.file, "is false, which this build cannot serve yet", "spec.services.api", remedy=remedy)])


def _open_to(origins: Sequence[str], edge: ASGIApp) -> ASGIApp:
    """CORS around the edge, so that a preflight needs no key and a browser can read what goes wrong."""
    if not origins:
        return edge
    exposed = ("X-Request-Id", "X-Astromesh-Node", "X-Astromesh-Partial", "Retry-After")
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    return CORSMiddleware(edge, allow_origins=origins, allow_methods=methods, allow_headers=("*",), expose_headers=exposed)


def _dispatch(own: ASGIApp, front: ASGIApp) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (own if scope["path"].startswith(_OWN_PATHS) else front)(scope, receive, send)

    return app
