"""The node's lifecycle, and nothing else: open the services, run them, serve, drain, close."""

import asyncio
import gc
import importlib
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__
from app.config import Configuration
from app.config.address import parse_bind
from app.config.secret import KeyFile
from app.config.settings import Settings
from app.credentials import ApiKeyCredentials, SignedCredentials
from app.edge.auth import Auth
from app.edge.edge import Edge
from app.errors import ConfigError, Problem
from app.forward import Forwarder
from app.front import Front
from app.gather import Gatherer
from app.identity import new_node_id, store_id
from app.membership import Membership, Self
from app.node_client import NodeClient
from app.peers.peer import Peer, Peers
from app.peers.static import StaticPeers
from app.placement import LocalService, Placement
from app.roster import Roster
from app.server import Server, base_url, leave_url, listen, told_address
from app.services import SERVICES
from app.services.contract import NodeContext, Service
from app.session import NO_STORE
from app.signing import Keys, Signer, Verifier
from app.system.health import Health
from app.system.mesh import MeshRoutes
from app.system.routes import System
from app.system.view import NodeView
from app.tracing import Recorder
from app.upstream import Upstream

KEEPS_A_STORE = frozenset({"memory"})
NOTICE_S = 1.0
"""How long a draining node still takes new work, so that load balancers see its readiness fail first; at most a quarter of the drain."""
LETTING_GO_S = 0.5
"""How long a node that ends in whatever way waits for requests whose clients are cut off. They end at once, or hang."""
_OWN_PATHS = ("/livez", "/readyz", "/openapi.json", "/v1/health", "/v1/system", "/v1/mesh")
log = logging.getLogger("app.node")


def load_service(name: str) -> type[Service]:
    """Import the class of a service; only those that the profile enables are ever imported."""
    module, _, attribute = SERVICES[name].target.partition(":")
    loaded: Any = getattr(importlib.import_module(module), attribute)
    return loaded  # type: ignore[no-any-return]


class Node:
    """One node, built from its configuration; ``run`` serves until a signal or a failure."""

    def __init__(self, configuration: Configuration, load_service: Callable[[str], type[Service]] = load_service) -> None:
        settings, profile = configuration.settings, configuration.profile
        self._settings, self._profile, self._warnings = settings, profile, configuration.warnings
        self.node_id = new_node_id()
        self.url = ""
        self.listening = asyncio.Event()
        self.reread = asyncio.Event()
        """Set it to have the agent files read anew."""
        self._draining = asyncio.Event()
        self._registry = CollectorRegistry()
        self._recorder = Recorder(profile.observability.traces, content=profile.observability.content)
        enabled = [name for name in SERVICES if profile.services[name]]
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
            traces=self._recorder,
            ask_peers=self._ask_peers,
            changed=self._tell_change,
            store_for_new_session=lambda: self._placement.store_for_new_session(),  # noqa: PLW0108 - there is no placement yet
        )
        self._services = {name: load_service(name)(profile.section(name), context) for name in enabled}
        self._wire()

    def _wire(self) -> None:
        settings, profile = self._settings, self._profile
        keys = _mesh_keys(settings)
        signer = Signer(self.node_id, keys) if keys else None
        auth = Auth(settings.api_keys, Verifier(self.node_id, keys) if keys else None)
        self._upstream = Upstream()
        own_key = settings.api_keys[0].secret if settings.api_keys else ""
        client = NodeClient(self._upstream, self.node_id, SignedCredentials(signer) if signer else ApiKeyCredentials(own_key))
        local = {name: LocalService(service) for name, service in self._services.items()}
        self.membership: Membership | None = None
        if profile.mesh is None:
            self.peers: Peers = StaticPeers([Peer(peer.name, peer.url, peer.services) for peer in profile.peers], client)
        else:
            self.membership = Membership(self._self(local), profile.mesh, client, (self._upstream, signer), self._registry)
            self.peers = self.membership.peers
        self._placement = Placement(self.node_id, local, self.peers, Forwarder(client, self.peers, self._registry))
        view = NodeView(
            settings.node_name,
            self.node_id,
            profile,
            self._placement,
            Health(self.node_id, local, self._warnings, self.peers, self.membership.check if self.membership else dict),
            self._draining,
            lambda: self._edge.in_flight,
            time.monotonic(),
            self.membership,
        )
        self._gatherer = Gatherer(lambda: self._edge.name, self._placement, client)
        self._system = System(view, MeshRoutes(self.membership, auth))
        self._roster = Roster(lambda: self._edge.name, self._placement, client, meshed=profile.mesh is not None)
        app = _dispatch(self._system, Front(self._placement, self._gatherer, self._roster))
        self._edge = Edge(
            app,
            profile.api,
            auth,
            (settings.node_name, self._registry),
            self._recorder,
            public=profile.services["api"],
            logs_access=profile.observability.access_log,
        )
        self._warn()

    def _self(self, local: Mapping[str, LocalService]) -> Self:
        settings = self._settings
        return Self(
            node_id=self.node_id,
            name=settings.node_name,
            cluster=settings.cluster,
            advertise_url=settings.advertise_url,
            services=(*(("api",) if self._profile.services["api"] else ()), *local),
            facts=lambda: {name: each.facts() for name, each in local.items()},
            in_flight=lambda: self._edge.in_flight,
            rename=lambda name: self._edge.rename(name),  # noqa: PLW0108 - there is no edge yet
        )

    def _warn(self) -> None:
        keys = self._settings.api_keys
        if not keys:
            log.warning("no API key is set, so whoever reaches this port may use it; set ASTROMESH_API_KEYS before opening it to a network")
        if self.membership and not self._settings.mesh_keys:
            log.warning("no mesh key is set, so whoever reaches this port may join the mesh; set ASTROMESH_MESH_KEY on all nodes")
        if len(keys) > 1 and keys[0].name != "node" and not self._settings.mesh_keys:
            log.warning("API key %s is the first, which nodes present to each other: its holder may speak for any client", keys[0].name)
            log.warning("put a key of the nodes' own first, named node, and give it to no client; or set ASTROMESH_MESH_KEY")
        for warning in self._warnings:
            log.warning("%s", warning)

    def _locate(self, service: str, key: str | None) -> ASGIApp:
        return self._placement.locate(service, key)

    async def _ask_peers(self, target: str) -> tuple[Sequence[tuple[str, Any]], Sequence[str]]:
        return await self._gatherer.answers(target)

    def _tell_change(self) -> None:
        if self.membership:
            self.membership.renew()

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until ``stopping`` is set, then drain. Raises ConfigError at start, and what stopped a service afterwards."""
        async with AsyncExitStack() as stack:
            listeners = self._listen(stack)
            await stack.enter_async_context(self._upstream)
            await self._open_services(stack)
            edge = _open_to(self._profile.api.cors_origins, self._edge)
            server = Server(edge, self._profile.api, self._settings.node_name, lambda: self._announce(listeners[0]))
            stack.push_async_callback(self._let_go)
            stack.callback(server.close)
            async with asyncio.TaskGroup() as group:
                work = [group.create_task(service.run()) for service in self._services.values()]
                work += [group.create_task(self._take_part(listeners[-1])), group.create_task(self._edge.run())]
                work.append(group.create_task(self._roster.reread_when(self.reread)))
                serving = group.create_task(server.serve(sockets=listeners))
                await stopping.wait()
                await self._drain()
                server.stop()
                await serving
                for task in work:
                    task.cancel()
        log.info("stopped")

    def _listen(self, stack: AsyncExitStack) -> list[socket.socket]:
        """The listener of the API, and the mesh's where that has an address of its own."""
        api, mesh, file = self._profile.api, self._profile.mesh, self._profile.file
        remedy = "free the port, or set ASTROMESH_PORT or ASTROMESH_HOST to another address"
        listeners = [listen(api.host, api.port, (file, "spec.api"), remedy)]
        stack.callback(listeners[0].close)
        if mesh and (bind := parse_bind(mesh.bind)) != (api.host, api.port):
            listeners.append(listen(*bind, (file, "spec.mesh.bind"), "free the port, or set ASTROMESH_MESH_BIND to another address"))
            stack.callback(listeners[1].close)
        return listeners

    async def _take_part(self, listener: socket.socket) -> None:
        """Know the other nodes, for as long as this one runs."""
        await self.listening.wait()
        if self.membership:
            host = parse_bind(self._profile.mesh.bind)[0] if self._profile.mesh else ""
            await self.membership.run(host, listener.getsockname()[1])
        else:
            await self.peers.run()

    async def _open_services(self, stack: AsyncExitStack) -> None:
        problems: list[Problem] = []
        for service in self._services.values():
            try:
                await stack.enter_async_context(service.open())
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)

    def _announce(self, listener: socket.socket) -> None:
        url = base_url(listener)
        services = ", ".join(self._services) or "no services"
        log.info("Astromesh node %s (%s) of profile %s serves %s", self._settings.node_name, __version__, self._profile.name, services)
        log.info("listening on %s", told_address(listener))
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
        if self.membership:
            self.membership.drain()
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
        if self.membership:
            await self.membership.leave()

    async def _let_go(self) -> None:
        """The clients' connections are closed: let their requests end by that, before the connections to peers and providers are closed
        under them, which they would take for a failure of those."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LETTING_GO_S):
                await self._edge.wait_idle()


def _mesh_keys(settings: Settings) -> Keys | None:
    """The mesh keys as they are now; None without any."""
    if not settings.mesh_keys:
        return None
    if settings.mesh_key_file:
        return KeyFile("ASTROMESH_MESH_KEY", settings.mesh_key_file, settings.mesh_keys)
    keys = tuple(key.encode() for key in settings.mesh_keys)
    return lambda: keys


def _open_to(origins: Sequence[str], edge: ASGIApp) -> ASGIApp:
    """CORS around the edge, so that a preflight needs no key and a browser can read what goes wrong."""
    if not origins:
        return edge
    exposed = ("X-Request-Id", "X-Astromesh-Node", "X-Astromesh-Partial", "Retry-After", "Idempotency-Attempt", "Idempotency-Replayed")
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    return CORSMiddleware(edge, allow_origins=origins, allow_methods=methods, allow_headers=("*",), expose_headers=exposed)


def _dispatch(own: ASGIApp, front: ASGIApp) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (own if scope["path"].startswith(_OWN_PATHS) else front)(scope, receive, send)

    return app
