"""Health, readiness, status and doctor over HTTP."""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from app import __version__
from app.body import JSONAnswer
from app.context import current
from app.errors import NotFound
from app.placement import FORWARDED, as_told, translate
from app.services.contract import Check
from app.system.health import OWN_ADDRESS
from app.system.mesh import MeshRoutes
from app.system.openapi import document
from app.system.view import NodeView

log = logging.getLogger(__name__)


class System:
    """An ASGI app for the node's own paths; ``view`` is what it may see of the node."""

    def __init__(self, view: NodeView, mesh: MeshRoutes) -> None:
        self._view = view
        self._own_urls = set[str]()
        self._router = Router(
            [
                Route("/livez", self._live),
                Route("/readyz", self._ready),
                Route("/v1/health", self._health),
                Route("/v1/system/status", self._status),
                Route("/v1/system/doctor", self._doctor),
                Route("/openapi.json", self._openapi),
                *mesh.routes(),
            ],
            redirect_slashes=False,
            default=_nothing,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._router({**scope, "path": scope["path"].rstrip("/"), "app": self}, receive, send)
        except HTTPException as error:
            raise translate(error, scope) from error

    async def _live(self, request: Request) -> JSONAnswer:
        return JSONAnswer({"status": "ok"})

    async def _ready(self, request: Request) -> JSONAnswer:
        checks = await self._view.health.services()
        ready = not self._view.draining.is_set() and all(check.status != "error" for check in checks.values())
        status = "draining" if self._view.draining.is_set() else "ready" if ready else "not ready"
        body = {"status": status, "checks": {name: asdict(check) for name, check in checks.items()}}
        return JSONAnswer(body, status_code=200 if ready else 503)

    async def _health(self, request: Request) -> JSONAnswer:
        return JSONAnswer({"status": "ok", "version": __version__, "node_name": self._view.name})

    async def _openapi(self, request: Request) -> Response:
        return Response(await asyncio.to_thread(document), media_type="application/json")

    async def _doctor(self, request: Request) -> JSONAnswer:
        checks = await self._view.health.doctor() | self._absent()
        healthy = all(check.status != "error" for check in checks.values())
        return JSONAnswer({"healthy": healthy, "checks": {name: asdict(check) for name, check in checks.items()}})

    def _absent(self) -> dict[str, Check]:
        """A line for each service that is neither here nor within reach now."""
        placement = self._view.placement
        absent = [name for name in FORWARDED if name not in placement.local and name not in placement.reaches()]
        return {name: Check("unavailable", f"no node that is up has {name}; requests for it get 503 until one has") for name in absent}

    async def _status(self, request: Request) -> JSONAnswer:
        view, placement = self._view, self._view.placement
        if view.node_id in current().hops:
            self._asked_by_itself()
        facts = {name: local.facts() for name, local in placement.local.items()}
        agents = facts["agents"].keys if "agents" in facts else None
        body: dict[str, Any] = {
            "version": __version__,
            "uptime_seconds": round(time.monotonic() - view.started_at, 3),
            "mode": view.profile.name,
            "profile": view.profile.file,
            "pid": os.getpid(),
            "node_id": view.node_id,
            "node_name": view.membership.shown_name if view.membership else view.name,
            "agents_loaded": len(agents or ()),
            "services": {name: name in placement.local or (name == "api" and on) for name, on in view.profile.services.items()},
            "reaches": _reached(placement.reaches(), by_node=bool(current().hops)),
            "keys": {name: sorted(each.keys) for name, each in facts.items() if each.keys is not None},
            "store_id": facts["memory"].store_id if "memory" in facts else None,
            "draining": view.draining.is_set(),
            "believes_caller": current().from_peer,
            "in_flight": view.in_flight() - current().from_peer,  # a probe is not work
            "peers": [
                {
                    "name": peer.name,
                    "url": peer.url,
                    "services": sorted(peer.services),
                    "state": "draining" if peer.facts and peer.facts.draining else peer.state,
                    "reason": peer.reason,
                    "in_flight": len(peer.in_flight),
                    "node_id": peer.node_id or None,
                }
                for peer in placement.peers.all()
            ],
            "mesh": view.membership.report.summary() if view.membership else None,
        }
        return JSONAnswer(body)

    def _asked_by_itself(self) -> None:
        """Only one's own probe comes like that: warn once of each peer that leads here, from the second on (the first tells who it is)."""
        for peer in self._view.placement.peers.all():
            if peer.node_id == self._view.node_id and peer.url not in self._own_urls:
                self._own_urls.add(peer.url)
                log.warning("peer %s: %s %s", peer.name, peer.url, OWN_ADDRESS)


def _reached(distances: Mapping[str, int], *, by_node: bool) -> list[str]:
    """Names for people; for nodes, who pass requests on, also how far it is."""
    return sorted(as_told(service, distance) if by_node else service for service, distance in distances.items())


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound(
        f"There is nothing at {scope['path'][:200]}; there is /v1/system/status and /v1/system/doctor; GET /openapi.json tells the rest."
    )
