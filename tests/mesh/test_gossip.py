"""The rules of the protocol, each in a small mesh in virtual time."""

import random
from dataclasses import replace

import pytest

from app.mesh.gossip import Maia
from app.mesh.members import Identity, Load, Status
from app.mesh.messages import Entry, Gossip, Header, Leave, Message, Page, Refusal, Sync
from app.mesh.settings import MAX_LEAP, MAX_MEMBERS, MeshSettings
from app.mesh.wire import MAX_BYTES, MAX_COUNTER, encode
from tests.mesh.support import SEED_URL, events, header, mesh_of, said, seen, status, stranger, url
from tests.mesh.world import Cut, Node, World

HOUR = 3600.0


def alone(settings: MeshSettings | None = None, address: str = SEED_URL) -> Maia:
    maia = Maia(Identity("a" * 16, "lonely", address), settings or MeshSettings(), random.Random(1))
    maia.start(0.0)
    return maia


# ---- coming together


def test_thirty_that_start_at_once_know_one_another_within_a_second() -> None:
    world = mesh_of(30, settle_s=1.0)
    assert len({node.maia.view.hash for node in world.nodes}) == 1


def test_a_node_whose_seed_is_itself_is_content_and_is_found_by_others() -> None:
    world = World(random.Random(1), MeshSettings())
    first = world.spawn(SEED_URL, "gateway", (SEED_URL, "http://10.0.0.1:8000/"))
    world.run(10)
    assert first.maia.view.count == 1
    world.spawn(url(2), "worker", (SEED_URL,))
    world.run(12)
    assert first.maia.view.count == 2


def test_a_node_learns_its_own_address_from_who_joins_at_it() -> None:
    maia = alone(address="")
    join = Message(header("b" * 16), Page(), entries=())
    answer, _ = maia.receive(1.0, join)
    assert isinstance(answer, Message)
    assert isinstance(answer.body, Refusal)  # an answer is no request
    world = World(random.Random(1), MeshSettings())
    first = world.spawn(SEED_URL, "gateway", ())
    nameless = first.maia.view.me.record
    first.maia.update_own(0.0, url="")
    world.spawn(url(2), "worker", (SEED_URL,))
    world.run(3)
    assert first.maia.view.me.record.url == nameless.url


def test_members_with_one_name_are_shown_apart_and_both_work() -> None:
    world = mesh_of(3, names="worker")
    views = [node.maia.view.shown_names() for node in world.nodes]
    assert views[0] == views[1] == views[2] == {node.id: f"worker-{node.id[:6]}" for node in world.nodes}


def test_a_name_is_shown_plain_again_once_its_twin_is_dead() -> None:
    world = mesh_of(2, names="worker")
    world.crash(world.nodes[1], silent=False)
    world.run(60)
    assert world.nodes[0].maia.view.shown_names()[world.nodes[0].id] == "worker"


def test_nodes_of_another_cluster_are_refused_and_never_merge() -> None:
    world = mesh_of(2)
    stray = world.spawn(url(9), "stray", (SEED_URL,), "elsewhere")
    world.run(20)
    assert stray.maia.view.count == 1
    assert world.nodes[0].maia.view.count == 2
    answer, step = world.nodes[0].maia.receive(world.now, Message(header("e" * 16, cluster="elsewhere"), Sync()))
    assert isinstance(answer, Message)
    assert isinstance(answer.body, Refusal)
    assert (answer.body.status, answer.body.code) == (403, "foreign_cluster")
    assert not step.events


def test_a_late_node_knows_all_within_half_a_second() -> None:
    world = mesh_of(20)
    late = world.spawn(url(50), "late", (SEED_URL,))
    world.run(world.now + 0.5)
    assert late.maia.view.count == 21
    assert all(node.maia.view.count == 21 for node in world.nodes)


# ---- failures


def test_a_killed_node_is_suspect_everywhere_within_3_s_and_dead_within_dead_timeout() -> None:
    world = mesh_of(30)
    victim, others = world.nodes[7], [*world.nodes[:7], *world.nodes[8:]]
    world.crash(victim, silent=False)
    world.run(world.now + 3)
    assert {status(node, victim) for node in others} == {Status.SUSPECT}
    world.run(world.now + 27)
    assert {status(node, victim) for node in others} == {Status.DEAD}


def test_a_silent_node_is_suspect_everywhere_within_8_s() -> None:
    world = mesh_of(30)
    world.crash(world.nodes[7], silent=True)
    world.run(world.now + 8)
    assert all(status(node, world.nodes[7]) is Status.SUSPECT for node in world.nodes if node is not world.nodes[7])


def test_nobody_is_suspected_while_all_goes_well() -> None:
    world = mesh_of(30)
    found = events(world)
    world.run(world.now + 120)
    assert not [event for _, _, event in found if event.kind in ("suspect", "dead", "accused")]


def test_a_frozen_node_is_suspected_refutes_at_once_and_accuses_nobody() -> None:
    world = mesh_of(10)
    frozen, found = world.nodes[4], events(world)
    frozen.frozen.append((world.now, world.now + 10))
    world.run(world.now + 9.9)
    assert status(world.nodes[0], frozen) is Status.SUSPECT
    world.run(world.now + 1.5)
    assert all(status(node, frozen) is Status.ALIVE for node in world.nodes)
    assert not [event for _, node, event in found if node is frozen and event.kind == "suspect"]


def test_a_node_frozen_until_it_is_dead_is_back_within_a_second() -> None:
    world = mesh_of(10)
    frozen = world.nodes[4]
    frozen.frozen.append((world.now, world.now + 60))
    world.run(world.now + 59.9)
    assert status(world.nodes[0], frozen) is Status.DEAD
    world.run(world.now + 1.1)
    assert all(status(node, frozen) is Status.ALIVE for node in world.nodes)


def test_when_all_freeze_together_nobody_suspects_anybody() -> None:
    world = mesh_of(10)
    found = events(world)
    for node in world.nodes:
        node.frozen.append((world.now, world.now + 20))
    world.run(world.now + 40)
    assert not [event for _, _, event in found if event.kind in ("suspect", "dead")]


def test_a_death_that_others_claim_is_verified_and_not_believed() -> None:
    world = mesh_of(5)
    liar, victim, hearer = world.nodes[1], world.nodes[2], world.nodes[3]
    found = events(world)
    _, step = hearer.maia.receive(world.now, said(liar.id, Entry(victim.id, (0, Status.DEAD))))
    world.follow(hearer, step)
    assert status(hearer, victim) is Status.ALIVE
    world.run(world.now + 1)
    assert all(status(node, victim) is Status.ALIVE for node in world.nodes)
    assert seen(hearer, victim).incarnation == 1
    assert "dead" not in {event.kind for _, _, event in found}


def test_an_accused_node_refutes_in_the_same_exchange() -> None:
    maia = alone()
    answer, _ = maia.receive(1.0, said("b" * 16, accused=(3, Status.SUSPECT)))
    assert isinstance(answer, Message)
    assert answer.header.incarnation == 4


def test_the_last_survivor_sees_that_it_is_alone() -> None:
    world = mesh_of(8)
    for node in world.nodes[1:]:
        world.crash(node, silent=True)
    world.run(world.now + 35)
    assert world.nodes[0].maia.view.count == 1


def test_one_that_cannot_be_called_from_here_is_alive_but_not_reachable_and_is_told_so() -> None:
    world = mesh_of(6)
    blind, target = world.nodes[1], world.nodes[2]
    found = events(world)
    world.cuts.append(Cut(world.now, world.now + 60, lambda a, b: a == blind.url and b == target.url))
    world.run(world.now + 59)
    assert status(blind, target) is Status.ALIVE
    assert seen(blind, target).reachable is False
    assert seen(world.nodes[0], target).reachable is True
    assert [event for _, node, event in found if node is target and event.kind == "address_fails" and event.by == blind.id]
    assert "dead" not in {event.kind for _, _, event in found}
    world.run(world.now + 25)
    assert seen(blind, target).reachable is True


def test_a_wrong_advertised_address_is_named_on_both_sides_within_seconds() -> None:
    world = mesh_of(3)
    found = events(world)
    lost = world.spawn("http://10.99.0.1:8000", "lost", (SEED_URL,))
    del world.at[lost.url]  # nothing listens there: it advertises an address that is not its own
    world.silent.add(lost.url)
    world.run(world.now + 15)
    assert [1 for _, node, event in found if node is lost and event.kind == "address_fails"]
    assert [1 for _, node, event in found if node is world.nodes[0] and event.kind == "unreachable" and event.node_id == lost.id]
    assert lost.maia.view.count == 4


def test_failed_forwarding_starts_a_check_at_once() -> None:
    world = mesh_of(5)
    observer, victim = world.nodes[0], world.nodes[3]
    world.crash(victim, silent=False)
    world.follow(observer, observer.maia.evidence(world.now, victim.id, ok=False))
    assert seen(observer, victim).reachable is False
    world.run(world.now + 0.1)
    assert status(observer, victim) is Status.SUSPECT


def test_false_evidence_only_costs_a_check() -> None:
    world = mesh_of(5)
    observer, victim = world.nodes[0], world.nodes[3]
    world.follow(observer, observer.maia.evidence(world.now, victim.id, ok=False))
    world.run(world.now + 0.1)
    assert status(observer, victim) is Status.ALIVE
    assert seen(observer, victim).reachable is True


# ---- addresses


def restarted(world: World, node: Node) -> Node:
    world.crash(node, silent=False)
    return world.spawn(node.url, node.identity.name, () if node.url == SEED_URL else (SEED_URL,))


@pytest.mark.parametrize("host", [1, 4])
def test_a_restart_at_the_same_address_leaves_no_duplicate(host: int) -> None:
    world = mesh_of(8)
    old = world.nodes[host - 1]
    new = restarted(world, old)
    world.run(world.now + 8)
    for node in world.living():
        assert node.maia.view.count == 8
        assert node is new or status(node, old) is Status.DEAD  # what starts anew has never heard of it
        assert status(node, new) is Status.ALIVE


@pytest.mark.parametrize("leaving", [True, False])
@pytest.mark.parametrize("size", [2, 4, 10])
def test_the_only_seed_of_a_small_mesh_that_restarts_and_knows_nobody_is_found_in_seconds(size: int, leaving: bool) -> None:
    world = mesh_of(size)
    seed = world.nodes[0]
    if leaving:
        world.leave(seed)
    else:
        world.crash(seed, silent=False)
    world.run(world.now + (2.0 if leaving else world.settings.dead_timeout))
    again = world.spawn(SEED_URL, "worker-1", ())
    world.run(world.now + (2.0 if size > 2 else 6.0))  # who was alone for long tries every five seconds
    assert again.maia.view.count == size
    assert {node.maia.view.count for node in world.living()} == {size}


def test_a_node_that_meets_its_own_reused_address_in_its_view_lets_the_old_owner_go() -> None:
    """Its view comes from the seed, which still believes in the old owner: a call there reaches the node itself."""
    world = mesh_of(2)
    maia = Maia(Identity("f" * 16, "worker", url(2)), MeshSettings(), random.Random(1))
    maia.start(world.now)
    old = world.nodes[1]
    claim = world.nodes[0].maia.view.members[old.id]
    _, step = maia.receive(world.now, said(world.nodes[0].id, Entry(old.id, claim.standing, claim.record)))
    send = next(each for each in step.sends if each.url == url(2))
    answer, _ = maia.receive(world.now, send.message)
    assert isinstance(answer, Message)
    maia.answered(world.now, send.exchange, answer)
    assert maia.view.members[old.id].status is Status.DEAD
    assert maia.view.me.status is Status.ALIVE
    assert maia.view.leader() is maia.view.me


def test_two_that_claim_one_address_do_not_bring_each_other_down_for_ever() -> None:
    world = mesh_of(4)
    found, before = events(world), sum(node.bytes for node in world.nodes)
    second = world.spawn(url(2), "twin", (SEED_URL,))  # the first one goes on, and cannot be reached
    world.run(world.now + 60)
    assert status(world.nodes[0], second) is Status.ALIVE
    assert len([event for _, _, event in found if event.kind == "displaced"]) <= len(world.nodes)
    assert not [event for _, node, event in found if node is second and event.kind == "accused"]
    assert (sum(node.bytes for node in world.nodes) - before) / 60 / 5 < 2 * 2500


def test_halves_of_a_cut_network_merge_by_themselves_without_killing_anybody() -> None:
    world = mesh_of(12)
    side = {node.url for node in world.nodes[:6]}
    world.cuts.append(Cut(world.now, world.now + 40, lambda a, b: (a in side) is not (b in side)))
    world.run(world.now + 39.9)
    assert {node.maia.view.count for node in world.nodes} == {6}
    found = events(world)
    world.run(world.now + 8)
    assert {node.maia.view.count for node in world.nodes} == {12}
    assert not [event for _, _, event in found if event.kind in ("suspect", "dead")]


# ---- leaving, draining, changing


def test_who_leaves_is_left_everywhere_within_a_second_and_never_comes_back() -> None:
    world = mesh_of(12)
    gone, others = world.nodes[5], [*world.nodes[:5], *world.nodes[6:]]
    world.leave(gone)
    world.run(world.now + 1)
    assert {status(node, gone) for node in others} == {Status.LEFT}
    assert gone.maia.has_left
    stale = said(others[0].id, Entry(gone.id, (0, Status.ALIVE), seen(others[0], gone).record))
    others[1].maia.receive(world.now, stale)
    world.run(world.now + 30)
    assert {status(node, gone) for node in others} == {Status.LEFT}


def test_who_has_left_says_so_to_who_still_calls_and_does_nothing_else() -> None:
    maia = alone()
    step = maia.leave(1.0)
    assert step.deadline == float("inf")
    answer, step = maia.receive(2.0, said("b" * 16, stranger(7)))
    assert isinstance(answer, Message)
    assert answer.kind == "leave"
    assert maia.view.count == 0
    assert not step.sends


def test_draining_is_known_everywhere_within_half_a_second() -> None:
    world = mesh_of(20)
    node = world.nodes[3]
    world.follow(node, node.maia.update_own(world.now, draining=True))
    world.run(world.now + 0.5)
    assert all(seen(other, node).record.draining for other in world.nodes)


def test_a_changed_catalogue_and_the_load_reach_everybody() -> None:
    world = mesh_of(10)
    node = world.nodes[3]
    world.follow(node, node.maia.update_own(world.now, load=Load(55, 44, 3), catalogue_hash="ab12", services=("tools",)))
    world.run(world.now + 15)
    for other in world.nodes:
        record = seen(other, node).record
        assert (record.catalogue_hash, record.services) == ("ab12", ("tools",))
        assert seen(other, node).load == Load(55, 44, 3)


def test_the_leader_is_one_and_the_same_and_not_one_that_drains() -> None:
    world = mesh_of(6)
    first = min(world.nodes, key=lambda node: node.id)
    world.follow(first, first.maia.update_own(world.now, draining=True))
    world.run(world.now + 1)
    leaders = {leader.node_id for node in world.nodes if (leader := node.maia.view.leader())}
    assert leaders == {sorted(node.id for node in world.nodes)[1]}


# ---- authority and bounds


def test_what_others_claim_of_this_nodes_own_record_is_overtaken() -> None:
    world = mesh_of(4)
    victim = world.nodes[2]
    forged = Entry(victim.id, (0, Status.ALIVE), stranger(1, url="http://10.66.6.6:8000").record)
    forged = Entry(victim.id, (0, Status.ALIVE), type(victim.maia.view.me.record)(victim.id, 500, "evil", "http://10.66.6.6:8000"))
    for node in world.nodes:
        _, step = node.maia.receive(world.now, said("e" * 16, forged))
        world.follow(node, step)
    world.run(world.now + 15)
    assert {seen(node, victim).url for node in world.nodes} == {victim.url}
    assert {seen(node, victim).record.version for node in world.nodes} == {501}
    assert {status(node, victim) for node in world.nodes} == {Status.ALIVE}


def test_a_foreign_address_for_a_known_id_needs_a_higher_version() -> None:
    world = mesh_of(3)
    observer, victim = world.nodes[0], world.nodes[2]
    record = seen(observer, victim).record
    forged = type(record)(victim.id, record.version, "evil", "http://10.66.6.6:8000")
    observer.maia.receive(world.now, said("e" * 16, Entry(victim.id, (0, Status.ALIVE), forged)))
    assert seen(observer, victim).record == record


def test_an_identity_whose_counters_are_used_up_is_given_up_and_not_wrapped_round() -> None:
    maia = alone()
    maia.view.set_standing(maia.view.me, (MAX_COUNTER - 1, Status.ALIVE), 0.0)
    _, step = maia.receive(1.0, said("b" * 16, accused=(MAX_COUNTER, Status.SUSPECT)))
    assert [event.kind for event in step.events] == ["expelled"]
    maia = alone()
    maia.view.set_record(maia.view.me, replace(maia.view.me.record, version=MAX_COUNTER - 1), 0.0)
    step = maia.update_own(1.0, draining=True)
    assert [event.kind for event in step.events] == ["expelled"]
    assert maia.view.me.record.version == MAX_COUNTER - 1


def test_a_strangers_word_with_an_invented_count_takes_nobody_out() -> None:
    world = mesh_of(3)
    observer, victim, _ = world.nodes
    far = Header("astromesh", victim.id, observer.id, 1, MAX_COUNTER, 0, 0, 1)
    for body in (Leave(), Gossip()):
        _, step = observer.maia.receive(world.now, Message(far, body))
        world.follow(observer, step)
        world.run(world.now + 3.0)
        assert seen(observer, victim).standing == (0, Status.ALIVE)


def test_lies_about_this_nodes_counters_raise_them_seldom() -> None:
    maia = alone()
    for number in range(1_000):  # in one second
        me = maia.view.me
        told = Entry(me.node_id, (me.incarnation, Status.ALIVE), replace(me.record, version=me.record.version + MAX_LEAP, name="other"))
        maia.receive(1.0 + number / 1_000, said("b" * 16, told, accused=(me.incarnation + MAX_LEAP, Status.SUSPECT)))
    assert maia.view.me.incarnation <= MAX_LEAP + 1
    assert maia.view.me.record.version <= MAX_LEAP + 2


def test_a_member_that_answers_is_alive_also_where_those_it_tells_of_have_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    world = mesh_of(3)
    node, other, _ = world.nodes
    monkeypatch.setattr("app.mesh.receive.MAX_MEMBERS", 3)
    step = node.maia.tick(world.now + 3.0)
    [send] = [each for each in step.sends if each.url == other.url]
    step = node.maia.answered(world.now + 3.1, send.exchange, said(other.id, stranger(7)))
    assert (seen(node, other).status, node.maia.view.count) == (Status.ALIVE, 3)
    assert not [event for event in step.events if event.kind in ("displaced", "dead", "suspect")]


def test_who_is_too_busy_to_ask_accuses_nobody() -> None:
    world = mesh_of(3)
    node = world.nodes[0]
    step = node.maia.tick(world.now + 3.0)
    for send in step.sends:
        after = node.maia.not_sent(world.now + 3.0, send.exchange, "too much is under way")
        assert not after.events
        assert not after.sends


def test_a_member_that_could_not_be_called_for_a_moment_is_called_again_within_seconds_in_a_large_mesh() -> None:
    world = mesh_of(100)
    node, other = world.nodes[1], world.nodes[2]
    world.cuts.append(Cut(world.now, world.now + 6.0, lambda sender, receiver: (sender, receiver) == (node.url, other.url)))
    world.follow(node, node.maia.evidence(world.now, other.id, ok=False))
    world.run(world.now + 5.9)
    assert seen(node, other).reachable is False
    world.run(world.now + 2.5)
    assert seen(node, other).reachable is True


def test_counts_far_above_what_is_known_are_lies_and_use_up_nothing() -> None:
    world = mesh_of(2)
    node, other = world.nodes
    me, far = node.id, MAX_COUNTER - 1
    before = (node.maia.view.me.standing, node.maia.view.me.record, seen(node, other).standing)
    lies = [said("b" * 16, accused=(far, Status.SUSPECT)), said("b" * 16, Entry(me, (far, Status.SUSPECT)))]
    lies.append(said("b" * 16, Entry(me, (0, Status.ALIVE), replace(node.maia.view.me.record, version=far, name="other"))))
    lies.append(said("b" * 16, Entry(other.id, (far, Status.SUSPECT))))
    for lie in lies:
        _, step = node.maia.receive(world.now, lie)
        assert not step.events
    assert (node.maia.view.me.standing, node.maia.view.me.record, seen(node, other).standing) == before


def test_members_over_the_bound_are_refused_with_413_and_change_nothing() -> None:
    maia = alone()
    for first in range(0, 60_000, 100):
        answer, step = maia.receive(1.0, said("b" * 16, *(stranger(number) for number in range(first, first + 100))))
        assert isinstance(answer, Message)
        if isinstance(answer.body, Refusal):
            assert (answer.body.status, answer.body.code) == (413, "too_many_members")
            assert not step.events
    assert maia.view.count <= MAX_MEMBERS
    assert len(maia.view.members) <= MAX_MEMBERS


def test_tombstones_are_bounded_and_forgotten_after_an_hour() -> None:
    maia = alone()
    for first in range(0, 5_000, 100):
        gone = (Entry(each.node_id, (0, Status.LEFT), each.record) for each in map(stranger, range(first, first + 100)))
        maia.receive(1.0, said("b" * 16, *gone))
    assert 0 < maia.view.tombstones <= 256
    now = 2.0
    while now < HOUR + 10:
        now = max(now + 0.001, min(maia.tick(now).deadline, now + 2))
    assert maia.view.tombstones == 0


def test_a_node_that_stood_still_for_half_an_hour_forgets_its_view_and_joins_again() -> None:
    world = mesh_of(4)
    frozen, crashed = world.nodes[2], world.nodes[3]
    frozen.frozen.append((world.now, world.now + 2000))
    world.crash(crashed, silent=False)
    world.run(world.now + 2000.5)
    assert crashed.id not in frozen.maia.view.members
    world.run(world.now + 3)
    assert {node.maia.view.count for node in world.living()} == {3}


def test_a_member_that_asks_for_everything_gets_bounded_answers() -> None:
    world = mesh_of(30)
    wanted = tuple(node.id for node in world.nodes) * 60
    answer, _ = world.nodes[0].maia.receive(world.now, Message(header(world.nodes[1].id), said("0" * 16).body, want=wanted))
    assert isinstance(answer, Message)
    assert len(encode(answer)) < MAX_BYTES / 2


# ---- cost


@pytest.mark.parametrize("size", [3, 30, 100])
def test_quiet_traffic_stays_under_its_bound_at_any_size(size: int) -> None:
    world = mesh_of(size, settle_s=30)
    before = sum(node.bytes for node in world.nodes)
    world.run(world.now + 30)
    settings = world.settings
    bound = settings.gossip_fanout / settings.gossip_interval * (400 + 2 * 640)
    assert (sum(node.bytes for node in world.nodes) - before) / size / 30 < bound


# ---- settings


def test_the_shipped_timings_can_keep_their_promises() -> None:
    assert MeshSettings().problems() == []
    assert MeshSettings().suspicion == 12.0


@pytest.mark.parametrize("changes", [{"failure_timeout": 5.0}, {"gossip_interval": 5.0}, {"dead_timeout": 20.0}, {"gossip_fanout": 1}])
def test_timings_that_cannot_keep_their_promises_are_named(changes: dict[str, float]) -> None:
    problems = MeshSettings(**changes).problems()  # type: ignore[arg-type]
    assert problems
    assert "raise it" in " ".join(problems)
