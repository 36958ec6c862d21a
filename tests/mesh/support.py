"""A small mesh in virtual time without faults, for tests that cause their own."""

import random

from app.mesh.members import Member, Record, Standing, Status
from app.mesh.messages import Body, Entry, Event, Gossip, Header, Message
from app.mesh.settings import MeshSettings
from tests.mesh.world import Node, World

SEED_URL = "http://10.0.0.1:8000"


def url(host: int) -> str:
    return f"http://10.0.0.{host}:8000"


def mesh_of(size: int, *, seed: int = 1, settle_s: float = 5.0, names: str = "worker-{}") -> World:
    """A world with so many nodes, the first of which is the seed, whose views are complete."""
    world = World(random.Random(seed), MeshSettings())
    for host in range(1, size + 1):
        world.spawn(url(host), names.format(host), () if host == 1 else (SEED_URL,))
    world.run(settle_s)
    for node in world.nodes:
        assert node.maia.view.count == size
    return world


def seen(node: Node, other: Node) -> Member:
    member = node.maia.view.get(other.id)
    assert member is not None, f"{node.id} does not know {other.id}"
    return member


def status(node: Node, other: Node) -> Status:
    return seen(node, other).status


def events(world: World) -> list[tuple[float, Node, Event]]:
    """All events from now on; the list grows."""
    found: list[tuple[float, Node, Event]] = []
    world.watch = lambda node, step: found.extend((world.now, node, event) for event in step.events)
    return found


def header(sender: str, *, to: str = "", version: int = 1, incarnation: int = 0, cluster: str = "astromesh") -> Header:
    return Header(cluster, sender, to, version, incarnation, 0, 0, 1)


def said(sender: str, *entries: Entry, body: Body | None = None, accused: Standing | None = None) -> Message:
    return Message(header(sender), body or Gossip(), accused, entries=entries)


def stranger(number: int, **changes: str) -> Entry:
    """The entry of a node that is nowhere in the world."""
    node_id = f"{number:016x}"
    return Entry(
        node_id,
        (0, Status.ALIVE),
        Record(node_id, 1, changes.get("name", f"s{number}"), changes.get("url", f"http://10.8.0.{number % 250}:8000")),
    )
