"""What happens in the mesh, in words for the log."""

import logging

from app.mesh.members import Status, View
from app.mesh.messages import Event

_LEVELS = {"suspect": logging.WARNING, "dead": logging.WARNING, "unreachable": logging.WARNING, "displaced": logging.WARNING}
_LEVELS |= {"stalled": logging.WARNING, "changed": logging.DEBUG, "accused": logging.WARNING}
_WORDS = {
    "joined": "is in the mesh",
    "alive": "is alive",
    "suspect": "is suspect",
    "dead": "is dead",
    "left": "has left",
    "changed": "says something new of itself",
    "unreachable": "does not answer this node",
    "reachable": "answers this node again",
    "accused": "was accused, and refuted that",
    "displaced": "has lost its address",
    "stalled": "stood still",
    "synchronised": "has the whole view",
    "expelled": "has lost its identity",
}


def tell(event: Event, view: View) -> tuple[int, str]:
    """(log level, sentence) for one event."""
    member = view.get(event.node_id)
    who = f"member {member.record.name} ({event.node_id[:6]} at {member.url})" if member else f"member {event.node_id}"
    if event.node_id == view.me.node_id:
        who = "this node"
    reason = f": {event.reason}" if event.reason else ""
    if event.kind == "unreachable" and member and member.status is Status.ALIVE:
        reason += "; if it is alive, its ASTROMESH_ADVERTISE_URL is wrong, or the network between the two"
    return _LEVELS.get(event.kind, logging.INFO), f"{who} {_WORDS[event.kind]}{reason}"


def tell_address_fails(event: Event, view: View) -> str:
    """The sentence for a member that says that this node's address does not answer it."""
    by = view.get(event.by)
    told = f"{by.record.name if by else event.by} cannot reach this node at {view.me.url}"
    return f"{told}; set ASTROMESH_ADVERTISE_URL to an address at which it can"
