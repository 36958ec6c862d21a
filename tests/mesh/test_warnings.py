"""What went wrong in the system that this one replaces, each as a claim that it does not happen here."""

import random

import pytest

from app.mesh.members import Status
from app.mesh.messages import Entry
from app.mesh.settings import MeshSettings
from app.mesh.wire import Refused, decode, encode
from tests.mesh.support import SEED_URL, events, mesh_of, said, seen, status, stranger, url
from tests.mesh.world import Cut, Node, World


def rows(node: Node) -> list[str]:
    """What a person sees as the mesh: addresses of the live members."""
    return sorted(each.url for each in node.maia.view if each.is_live)


def again(world: World, node: Node) -> Node:
    """Killed and started anew at its address, under a new id."""
    world.crash(node, silent=False)
    return world.spawn(node.url, node.identity.name, () if node.url == SEED_URL else (SEED_URL,))


def leaders(world: World) -> set[str]:
    found = {node.maia.view.leader() for node in world.living()}
    return {each.node_id for each in found if each}


def test_an_address_that_reaches_nobody_else_is_never_told() -> None:
    """The reference advertised http://0.0.0.0:8000, gossiped with itself, and held everybody dead after 34 s."""
    plain = encode(said("b" * 16, stranger(1))).decode()
    decode(plain.encode())
    for address in ("http://0.0.0.0:8000", "http://[::]:8000"):
        with pytest.raises(Refused, match=r"a url is .*; it must be the http or https URL of one reachable node"):
            decode(plain.replace("http://10.8.0.1:8000", address).encode())


def test_all_are_alive_everywhere_long_after_the_timeouts_have_passed() -> None:
    world = mesh_of(6)
    world.run(world.now + 5 * world.settings.dead_timeout)
    assert {status(node, other) for node in world.nodes for other in world.nodes} == {Status.ALIVE}


def test_the_dead_do_not_stay_among_the_living() -> None:
    world = mesh_of(6)
    for node in world.nodes[4:]:
        world.crash(node, silent=True)
    world.run(world.now + world.settings.dead_timeout)
    assert {tuple(rows(node)) for node in world.living()} == {tuple(url(host) for host in (1, 2, 3, 4))}


@pytest.mark.parametrize("pause_s", [0.0, 2.0, 20.0])
def test_five_restarts_leave_one_row(pause_s: float) -> None:
    world = mesh_of(5)
    node = world.nodes[3]
    for _ in range(5):
        world.crash(node, silent=False)
        world.run(world.now + pause_s)
        node = world.spawn(node.url, node.identity.name, (SEED_URL,))
        world.run(world.now + 3)
    world.run(world.now + 8)
    for each in world.living():
        assert rows(each) == [url(host) for host in (1, 2, 3, 4, 5)]
        assert status(each, node) is Status.ALIVE


def test_a_node_that_finds_its_own_reused_address_in_its_view_converges_with_the_others() -> None:
    """Nobody has noticed that the older owner is gone, and everybody tells the new one of it."""
    world = mesh_of(6)
    old = world.nodes[3]
    new = again(world, old)
    for other in (each for each in world.nodes if each not in (old, new)):
        _, step = new.maia.receive(world.now, said(other.id, Entry(old.id, (0, Status.ALIVE), seen(other, old).record)))
        world.follow(new, step)
    world.run(world.now + 8)
    assert len({node.maia.view.hash for node in world.living()}) == 1
    for node in world.living():
        assert rows(node) == [url(host) for host in range(1, 7)]
        assert status(node, new) is Status.ALIVE


def test_a_seed_that_restarts_empty_is_found_again_by_the_others() -> None:
    world = mesh_of(6)
    new = again(world, world.nodes[0])  # it has no seed itself
    world.run(world.now + 15)
    assert {tuple(rows(node)) for node in world.living()} == {tuple(url(host) for host in range(1, 7))}
    assert {status(node, new) for node in world.living()} == {Status.ALIVE}


@pytest.mark.parametrize("cut_s", [5, 20, 120])
def test_a_healed_partition_comes_together_also_when_each_side_has_long_buried_the_other(cut_s: int) -> None:
    world = mesh_of(9)
    side = {url(host) for host in (1, 2, 3)}
    world.cuts.append(Cut(world.now, world.now + cut_s, lambda a, b: (a in side) is not (b in side)))
    world.run(world.now + cut_s + 15)
    assert {tuple(rows(node)) for node in world.living()} == {tuple(url(host) for host in range(1, 10))}
    assert {status(node, other) for node in world.nodes for other in world.nodes} == {Status.ALIVE}


def test_leaders_agree_wherever_views_do_and_a_new_one_follows_when_it_dies() -> None:
    world = mesh_of(9)
    first = leaders(world)
    assert len(first) == 1
    side = {url(host) for host in (1, 2, 3)}
    world.cuts.append(Cut(world.now, world.now + 45, lambda a, b: (a in side) is not (b in side)))
    world.run(world.now + 44)
    assert len(leaders(world)) == 2  # each side has one; nothing that must be unique depends on it
    world.run(world.now + 16)
    assert leaders(world) == first
    for node in world.nodes:
        if node.id in first:
            world.crash(node, silent=False)
    world.run(world.now + 10)
    second = leaders(world)
    assert len(second) == 1
    assert second != first


def test_a_newcomer_moves_the_leader_only_when_its_id_is_lower_and_others_leaving_never_do() -> None:
    world = mesh_of(6)
    (first,) = leaders(world)
    world.leave(next(node for node in world.nodes[1:] if node.id != first))
    late = world.spawn(url(20), "late", (SEED_URL,))
    world.run(world.now + 5)
    assert leaders(world) == {min(first, late.id)}


@pytest.mark.parametrize("data", [b"", b"{}", b'{"v":1}', b'{"v":1,"kind":"gossip","beat":"soon"}', b"\x00" * 100, b"[" * 60_000])
def test_one_malformed_message_stops_nothing(data: bytes) -> None:
    """The reference's gossip stopped silently on the whole cluster. Here it is refused before the core sees it."""
    world = mesh_of(5)
    with pytest.raises(Refused):
        decode(data)
    before = [node.bytes for node in world.nodes]
    world.crash(world.nodes[4], silent=False)
    world.run(world.now + world.settings.dead_timeout)
    assert all(node.bytes > sent for node, sent in zip(world.nodes[:4], before, strict=False))
    assert {status(node, world.nodes[4]) for node in world.nodes[:4]} == {Status.DEAD}


def test_an_answer_that_cannot_be_read_costs_no_more_than_a_lost_one() -> None:
    world = mesh_of(5)
    node, found = world.nodes[0], events(world)
    world.follow(node, step := node.maia.tick(world.now + 2.3))
    assert step.sends
    for send in step.sends:
        node.open.discard(send.exchange)
        world.follow(node, node.maia.failed(world.now + 2.3, send.exchange, "the answer is no JSON"))
    world.run(world.now + 20)
    assert {status(each, other) for each in world.nodes for other in world.nodes} == {Status.ALIVE}
    assert "dead" not in {event.kind for _, _, event in found}


def test_nodes_of_one_name_both_work_and_one_of_them_may_die() -> None:
    world = World(random.Random(3), MeshSettings())
    for host in range(1, 5):
        world.spawn(url(host), "worker", () if host == 1 else (SEED_URL,))
    world.run(5)
    assert {len(rows(node)) for node in world.nodes} == {4}
    world.crash(world.nodes[2], silent=True)
    world.run(world.now + world.settings.dead_timeout)
    for node in world.living():
        assert rows(node) == [url(1), url(2), url(4)]
        assert len(set(node.maia.view.shown_names().values())) == len(node.maia.view.members)
