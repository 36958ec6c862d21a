"""The mesh as people see it: in the node's status, and whole."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from app.mesh.members import Member, Status, View
from app.peers.mesh import MeshPeers
from app.services.contract import Facts

_STATUSES = {status: status.name.lower() for status in Status}


class Report:
    """``facts`` are those of this node's own services."""

    def __init__(self, view: Callable[[], View], peers: MeshPeers, facts: Callable[[], Mapping[str, Facts]]) -> None:
        self._view, self._peers, self._facts = view, peers, facts
        self.version = 0
        """Grows with everything that happens to the view."""

    def summary(self) -> dict[str, Any]:
        """The mesh in the node's status."""
        view = self._view()
        me, leader = view.me, view.leader()
        return {
            "enabled": True,
            "node_id": me.node_id,
            "node_name": view.shown_names()[me.node_id],
            "leader": leader.node_id if leader else None,
            "cluster_size": view.count,
            "status": _STATUSES[me.status],
            "url": me.url or None,
        }

    def state(self) -> dict[str, Any]:
        """All members as this node sees them, in the shape of ``GET /v1/mesh/state``. Times are seconds since 1970 by this node's clock.
        The dead are shown until another node has their address or they are forgotten, those that left are not."""
        view = self._view()
        leader, names = view.leader(), view.shown_names()
        taken = {each.url for each in view if each.is_live}
        shown = [each for each in view if each.is_live or (each.status is Status.DEAD and each.url not in taken)]
        shown.sort(key=lambda each: (each.status, each.record.name, each.node_id))
        rows = [self._row(each, names, me=each is view.me) | {"leader": each is leader} for each in shown]
        return {"nodes": rows, "leader_id": leader.node_id if leader else None, "version": self.version}

    def _row(self, member: Member, names: Mapping[str, str], *, me: bool) -> dict[str, Any]:
        record, load = member.record, member.load
        now = asyncio.get_running_loop().time()
        since = time.time() - now
        return {
            "node_id": member.node_id,
            "name": names.get(member.node_id, record.name),
            "url": record.url,
            "services": list(record.services),
            "agents": self._agents(member, me=me),
            "load": {"cpu_percent": load.cpu_percent, "memory_percent": load.memory_percent, "active_requests": load.active_requests},
            "status": _STATUSES[member.status],
            "joined_at": round(since + member.joined_at, 3),
            "last_heartbeat": round(since + (now if me else max(member.heartbeat_at, member.heard_at)), 3),
            "draining": record.draining,
            "reachable": me or member.reachable is not False,
        }

    def _agents(self, member: Member, *, me: bool) -> list[str]:
        if me:
            facts = self._facts().get("agents")
            return sorted(facts.keys or ()) if facts else []
        catalogue = self._peers.catalogue(member.node_id)
        return sorted(catalogue.keys.get("agents", ())) if catalogue else []
