"""What becomes of deaths that others claim: verified here, never believed, and soon settled where they are true."""

import pytest

from app.mesh.members import Status
from app.mesh.messages import Entry, Probe
from tests.mesh.support import events, mesh_of, said, seen, status


def test_who_was_frozen_while_another_died_agrees_with_the_others_within_15_s() -> None:
    """No address answers for the dead one: it is suspect first, but its time to refute has passed elsewhere."""
    world = mesh_of(20)
    dead, frozen = world.nodes[3], world.nodes[8:14]
    for node in frozen:
        node.frozen.append((world.now, world.now + 45))
    world.run(world.now + 0.5)
    world.crash(dead, silent=True)
    world.run(world.now + 44.4)
    assert {status(node, dead) for node in frozen} == {Status.ALIVE}
    world.run(world.now + 15)
    assert {node.maia.view.count for node in world.living()} == {19}


def test_a_claim_heard_by_a_node_that_must_not_accuse_yet_is_looked_into_when_it_may() -> None:
    world = mesh_of(3)
    thawed, victim = world.nodes[1], world.nodes[2]
    maia, now = thawed.maia, world.now + 10  # nobody ticked it meanwhile
    claim = said(world.nodes[0].id, Entry(victim.id, (0, Status.DEAD)))
    _, step = maia.receive(now, claim)
    assert "stalled" in {event.kind for event in step.events}
    while not any(send.message.body == Probe(victim.id) for send in step.sends):
        now = max(now, step.deadline)
        step = maia.tick(now)
    quiet_s = world.settings.gossip_interval + world.settings.exchange_timeout
    assert now == pytest.approx(world.now + 10 + quiet_s, abs=0.01)


def test_a_healthy_suspect_survives_any_number_of_claims_that_it_is_dead() -> None:
    world = mesh_of(8)
    victim, hearer, found = world.nodes[3], world.nodes[5], events(world)
    for _ in range(20):
        standing = seen(hearer, victim).standing
        for claim in (Status.SUSPECT, Status.DEAD, Status.DEAD):
            _, step = hearer.maia.receive(world.now, said(world.nodes[1].id, Entry(victim.id, (standing[0], claim))))
            world.follow(hearer, step)
        world.run(world.now + 4)
    assert {status(node, victim) for node in world.nodes} == {Status.ALIVE}
    assert "dead" not in {event.kind for _, _, event in found}
