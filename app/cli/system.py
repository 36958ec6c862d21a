"""The node itself: `status`, `doctor`, and `services`, which says who answers for each service."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from app.cli.failure import Failure
from app.cli.invocation import Asked, asks_node
from app.cli.node import Reply
from app.cli.output import show, show_json
from app.cli.text import count, duration, explained, fields

_OWN = ("api", "observability")
"""The services that are never forwarded."""
UNHEALTHY = 1


@click.command()
@asks_node
def status(asked: Asked) -> None:
    """What the node is, what it runs, and whom it knows."""
    reply = asked.node.get("/v1/system/status")
    if asked.as_json:
        show_json(reply.body)
        return
    show(fields(_status(asked.node.url, reply)))


def _status(url: str, reply: Reply) -> Iterator[tuple[str, Any]]:
    body, on = reply.body, reply.part("services")
    if "node_id" not in body:
        raise Failure(f"{url} has no status of an Astromesh node; check the URL.")
    yield "node", f"{body.get('node_name')} ({str(body['node_id'])[:6]}) at {url}"
    yield "version", f"{body.get('version')}, up {duration(float(body.get('uptime_seconds') or 0))}, process {body.get('pid')}"
    yield "profile", f"{body.get('mode')} ({body.get('profile')})"
    yield "state", "draining" if body.get("draining") else "serving"
    yield "services", [name for name, here in on.items() if here]
    yield "reaches", body.get("reaches")
    yield "agents", f"{body.get('agents_loaded')} loaded"
    yield "in flight", count(int(body.get("in_flight") or 0), "request")
    peers = reply.rows("peers")
    yield "peers", f"{sum(peer.get('state') == 'up' for peer in peers)} of {len(peers)} up"
    yield "mesh", _mesh(reply.part("mesh"))


def _mesh(mesh: Mapping[str, Any]) -> str:
    if not mesh.get("enabled"):
        return "off"
    leads = "this node leads" if mesh.get("leader") == mesh.get("node_id") else f"{str(mesh.get('leader'))[:6]} leads"
    return f"{mesh.get('status')}, {count(int(mesh.get('cluster_size') or 0), 'member')}, {leads}"


@click.command()
@asks_node
def doctor(asked: Asked) -> int:
    """Check the node: its services, its files, its peers. Exit 1 when something is broken."""
    reply = asked.node.get("/v1/system/doctor")
    healthy = reply.body.get("healthy") is True
    if asked.as_json:
        show_json(reply.body)
        return 0 if healthy else UNHEALTHY
    checks = {name: check for name, check in reply.part("checks").items() if isinstance(check, Mapping)}
    show(explained(("CHECK", "STATUS", "MESSAGE"), [(name, each.get("status"), each.get("message")) for name, each in checks.items()]))
    show(_verdict(healthy, [str(check.get("status")) for check in checks.values()]))
    return 0 if healthy else UNHEALTHY


def _verdict(healthy: bool, statuses: Sequence[str]) -> str:
    if not healthy:
        return "Broken: the node does not serve until what is in error works."
    lesser = sum(each != "ok" for each in statuses)
    return f"Healthy, with {count(lesser, 'remark')}." if lesser else "Healthy."


@click.command()
@asks_node
def services(asked: Asked) -> None:
    """Who answers for each service.

    This node, the peers that requests are forwarded to, or nobody.
    """
    reply = asked.node.get("/v1/system/status")
    rows = [_service(name, bool(here), reply) for name, here in reply.part("services").items()]
    if not rows:
        raise Failure(f"{asked.node.url} names no services, so it is no Astromesh node; check the URL.")
    if asked.as_json:
        show_json({"services": rows})
        return
    show(explained(("SERVICE", "ANSWERED", "BY"), [(row["service"], row["answered"], _by(row)) for row in rows]))


def _service(name: str, here: bool, reply: Reply) -> dict[str, Any]:
    """``answered`` is here, forwarded, nowhere, or off for what is a node's own."""
    peers = [peer for peer in reply.rows("peers") if name in (peer.get("services") or ())]
    named = [{"name": peer.get("name"), "url": peer.get("url"), "state": peer.get("state")} for peer in peers]
    reached = name in (reply.body.get("reaches") or ())
    answered = "here" if here else "off" if name in _OWN else "forwarded" if reached else "nowhere"
    return {"service": name, "answered": answered, "peers": [] if here else named}


def _by(row: Mapping[str, Any]) -> str:
    peers = [f"{peer['name']} ({peer['url']})" + ("" if peer["state"] == "up" else f", {peer['state']}") for peer in row["peers"]]
    match row["answered"]:
        case "here":
            return "this node"
        case "forwarded":
            return "; ".join(peers) or "a node behind a peer"
        case "nowhere":
            return "no peer that is up has it" + (f": {'; '.join(peers)}" if peers else "") + "; requests get 503"
    return "a node's own service, never forwarded"
