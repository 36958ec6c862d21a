"""Whatever reaches the core, in whatever order: it never raises, never stops, keeps its bounds, and nobody else speaks for a node.

Actions are drawn over few ids and addresses, so that claims collide, and every message that comes out has to be one that others take."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.mesh.gossip import Maia
from app.mesh.members import Identity, Load, Member, Record, Standing, Status
from app.mesh.messages import (
    Body,
    Digest,
    Entry,
    Gossip,
    Header,
    Join,
    Leave,
    LoadEntry,
    Message,
    Page,
    Pending,
    Probe,
    Refusal,
    Step,
    Sync,
    Verdict,
)
from app.mesh.settings import MAX_MEMBERS, MeshSettings
from app.mesh.wire import MAX_BYTES, MAX_COUNTER, MAX_DIGESTS, MAX_ENTRIES, Refused, decode, encode
from tests.mesh.support import SEED_URL, events, header, mesh_of, said, seen, status, stranger, url
from tests.mesh.world import Node, World

ME = "a" * 16
IDS = (ME, *(letter * 16 for letter in "bcdef0"))
URLS = (SEED_URL, url(2), url(3), url(4))
SPINS = 60  # ticks at one instant, after which the core is taken to go round in circles

Action = Callable[["Subject"], Step]

# ---- what may happen

ids = st.sampled_from(IDS)
counts = st.sampled_from((0, 1, 2, 3, MAX_COUNTER - 1, MAX_COUNTER))
standings = st.tuples(counts, st.sampled_from(Status))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    node_id = draw(ids)
    record = st.builds(
        Record, st.just(node_id), counts, st.sampled_from(("worker", "twin")), st.sampled_from((*URLS, "")), st.just(("agents",)),
        st.sampled_from(("", "ab")), st.just(""), st.booleans(),
    )  # fmt: skip
    return Entry(node_id, draw(standings), draw(st.none() | record))


digests = st.lists(st.builds(Digest, ids, counts, standings), max_size=6).map(tuple)
bodies: st.SearchStrategy[Body] = st.one_of(
    st.builds(Gossip, st.booleans()),
    st.builds(Join, st.sampled_from(URLS)),
    st.builds(Sync, ids | st.just(""), ids | st.just(""), digests),
    st.builds(Page, ids | st.just(""), st.just("10.0.0.7")),
    st.builds(Probe, ids),
    st.builds(Verdict, ids, st.booleans(), st.booleans(), counts),
    st.just(Leave()),
    st.just(Refusal(413, "too_many_members", "It is full.")),
)
headers = st.builds(
    Header, st.sampled_from(("astromesh", "astromesh", "astromesh", "other")), ids, ids | st.just(""), counts, counts, counts,
    st.integers(0, 3), counts,
)  # fmt: skip
messages = st.builds(
    Message, headers, bodies, st.none() | standings, st.booleans(), st.lists(entries(), max_size=5).map(tuple),
    st.lists(st.builds(LoadEntry, ids, counts, st.builds(Load, counts)), max_size=3).map(tuple), st.lists(ids, max_size=4).map(tuple),
)  # fmt: skip
waits = st.sampled_from((0.0, 0.01, 0.3, 2.0, 2.0, 4.0, 13.0, 40.0, 2_000.0, 4_000.0))
nearly_all = st.integers(0, 30)

actions: st.SearchStrategy[Action] = st.one_of(
    waits.map(lambda wait_s: lambda subject: subject.wait(wait_s)),
    messages.map(lambda message: lambda subject: subject.receive(message)),
    messages.map(lambda message: lambda subject: subject.receive(message)),
    st.tuples(nearly_all, messages).map(lambda drawn: lambda subject: subject.answer(*drawn)),
    nearly_all.map(lambda which: lambda subject: subject.answer_honestly(which)),
    nearly_all.map(lambda which: lambda subject: subject.fail(which)),
    st.tuples(ids, st.booleans()).map(lambda drawn: lambda subject: subject.maia.evidence(subject.now, *drawn)),
    st.booleans().map(lambda drains: lambda subject: subject.change(drains)),
    st.lists(st.sampled_from(URLS)).map(lambda urls: lambda subject: subject.maia.update_seeds(subject.now, urls)),
)


# ---- the core, and its laws


@dataclass(slots=True)
class Subject:
    maia: Maia
    now: float = 0.0
    open: dict[int, str] = field(default_factory=dict)
    own: Record = field(init=False)
    seen: dict[str, Standing] = field(default_factory=dict)
    called_at_home: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.own = self.maia.view.me.record

    def wait(self, wait_s: float) -> Step:
        """Time passes, without a tick meanwhile: beyond 3 s it is a stall."""
        self.now += wait_s
        return self.maia.tick(self.now)

    def receive(self, message: Message) -> Step:
        self.follow(self.maia.tick(self.now))
        before = self.state()
        answer, step = self.maia.receive(self.now, message, "10.0.0.9")
        if isinstance(answer, Pending):
            return step
        self.sound(answer)
        if isinstance(answer.body, Refusal):
            assert self.state() == before, "what is refused changed something"
            assert not step.sends
            assert not step.events
        return step

    def answer(self, which: int, message: Message) -> Step:
        exchange = self._pick(which)
        return self.maia.answered(self.now, exchange, message)

    def answer_honestly(self, which: int) -> Step:
        """From whom it was meant for; else the exchanges of a check would hardly ever succeed."""
        exchange = self._pick(which)
        sender = self.open.get(exchange) or IDS[1]
        return self.maia.answered(self.now, exchange, Message(header(sender, to=ME), Gossip()))

    def fail(self, which: int) -> Step:
        return self.maia.failed(self.now, self._pick(which), "timed out")

    def change(self, drains: bool) -> Step:
        step = self.maia.update_own(self.now, Load(3, 4, 5), draining=drains)
        self.own = self.maia.view.me.record
        return step

    def _pick(self, which: int) -> int:
        """An open exchange, or one that is over or never was."""
        known = list(self.open)
        return known[which] if which < len(known) else which

    def do(self, action: Action) -> None:
        step = action(self)
        self.follow(step)
        for _ in range(SPINS):
            if step.deadline > self.now:
                break
            step = self.maia.tick(self.now)
            self.follow(step)
        else:
            pytest.fail(f"it asks to be ticked at {self.now} again and again")
        assert step.deadline < float("inf"), "it asks for no tick any more"
        self.check()

    def follow(self, step: Step) -> None:
        for send in step.sends:
            self.sound(send.message)
            self.open[send.exchange] = send.message.header.to
            if send.url == self.own.url:
                self.called_at_home.add(send.message.header.to)
        for reply in step.replies:
            self.sound(reply.message)
        for number in [each for each in self.open if each not in self.maia._mesh.exchanges]:
            del self.open[number]

    def sound(self, message: Message) -> None:
        """Others take it, as it was meant."""
        data = encode(message)
        assert len(data) <= MAX_BYTES
        assert decode(data) == message
        assert message.header.sender == ME

    def state(self) -> dict[str, object]:
        view = self.maia.view
        return {each.node_id: (each.record, each.standing, each.hearsay, each.reachable, each.load, each.displaced) for each in view}

    def check(self) -> None:
        view = self.maia.view
        mine = view.me
        assert mine.status is Status.ALIVE
        assert mine.load in (Load(), Load(3, 4, 5))
        assert mine.record.version >= self.own.version
        assert self.content(mine.record) == self.content(self.own), "somebody else wrote this node's record"
        self.own = mine.record
        for member in view:
            before = self.seen.get(member.node_id)
            assert before is None or member.standing >= before, f"{member.node_id} fell from {before} to {member.standing}"
        self.seen = {each.node_id: each.standing for each in view}
        self.bounded()
        self.asked_at_home()

    @staticmethod
    def content(record: Record) -> tuple[object, ...]:
        return (record.node_id, record.name, record.url, record.services, record.catalogue_hash, record.store_id, record.draining)

    def bounded(self) -> None:
        view = self.maia.view
        assert view.count <= MAX_MEMBERS
        assert view.tombstones <= max(256, 4 * view.count)
        assert view.count == sum(each.is_live for each in view)
        assert len(self.maia._mesh.news) <= len(view.members)
        assert len(self.maia._mesh.exchanges) <= 10_000

    def asked_at_home(self) -> None:
        """Another id at this node's own address is asked for at once, and gone when this node hears itself."""
        for member in self.others_at_home():
            assert member.node_id in self.called_at_home or member.displaced or member.heard_at > float("-inf")

    def others_at_home(self) -> list[Member]:
        return [each for each in self.maia.view.others if each.url == self.own.url]


def subject(address: str = SEED_URL, *seeds: str) -> Subject:
    maia = Maia(Identity(ME, "me", address), MeshSettings(seeds=seeds), random.Random(1))
    found = Subject(maia)
    found.follow(maia.start(0.0))
    return found


@settings(max_examples=120, deadline=None)
@given(st.lists(actions, max_size=40))
def test_no_sequence_of_inputs_breaks_a_law(sequence: list[Action]) -> None:
    core = subject(SEED_URL, url(2), url(3))
    for action in sequence:
        core.do(action)


@settings(max_examples=30, deadline=None)
@given(st.lists(messages, min_size=1, max_size=30), st.integers(0, 2**32))
def test_a_core_that_has_left_stays_so_whatever_it_hears(sequence: list[Message], seed: int) -> None:
    core = subject()
    core.maia.leave(0.5)
    rng = random.Random(seed)
    for message in sequence:
        core.now += rng.random()
        answer, step = core.maia.receive(core.now, message)
        assert isinstance(answer, Message)
        core.sound(answer)
        assert isinstance(answer.body, Leave | Refusal)
        assert core.maia.has_left
        assert not step.sends


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, MAX_ENTRIES), st.booleans(), st.booleans())
def test_what_goes_out_is_bounded_however_much_comes_in(seed: int, size: int, is_stale: bool, is_asked: bool) -> None:
    """A thousand short entries that are out of date, digests and wishes must not call forth more than a message may hold."""
    rng, core = random.Random(seed), subject()
    services = tuple(f"{word}{'x' * (31 - len(word))}" for word in ("agents", "inference", "memory", "tools", "channels", "rag"))
    known = [
        Record(f"{number:016x}", 9, "n" * 63, f"http://w{number:060d}.{'d' * 38}:8000", services, "c" * 64, "d" * 64)
        for number in range(size)
    ]
    for first in range(0, size, 50):
        full = tuple(Entry(each.node_id, (1, Status.ALIVE), each) for each in known[first : first + 50])
        core.do(lambda subject, full=full: subject.receive(said("b" * 16, *full)))  # type: ignore[misc]
    short = tuple(Entry(each.node_id, (0, Status.ALIVE), Record(each.node_id, 1, "n", "http://a") if is_stale else None) for each in known)
    short = short[: rng.randint(1, 700)]
    core.do(lambda subject: subject.receive(Message(header("b" * 16), Gossip(round=True), entries=short, want=_wishes(known))))
    asked = Sync("", "", tuple(Digest(f"{number:016x}", 0, (0, Status.ALIVE)) for number in range(MAX_DIGESTS - 700, MAX_DIGESTS + 300)))
    core.do(lambda subject: subject.receive(Message(header("b" * 16), asked if is_asked else Join(url(9)), entries=short[:5])))
    for which in range(5):
        core.do(lambda subject, which=which: subject.answer(which, Message(header("b" * 16), Gossip(), entries=short)))  # type: ignore[misc]
        page = Message(header("b" * 16), Page(), want=_wishes(known))
        core.do(lambda subject, which=which, page=page: subject.answer(which, page))  # type: ignore[misc]


def _wishes(known: list[Record]) -> tuple[str, ...]:
    return tuple(each.node_id for each in known)[:MAX_DIGESTS]


# ---- the reference system's poison


def heard(world: World, node: Node, data: bytes) -> Message | Pending | Refused:
    """What a node makes of bytes that are posted to it."""
    try:
        message = decode(data)
    except Refused as refused:
        return refused
    answer, step = node.maia.receive(world.now, message, "10.6.6.6")
    world.follow(node, step)
    return answer


def changed(message: Message, **values: object) -> bytes:
    return json.dumps(json.loads(encode(message)) | values).encode()


def poison(victim: Node) -> dict[str, bytes]:
    plain = said("e" * 16, Entry(victim.id, (0, Status.ALIVE)), body=Gossip(round=True))
    foreign = Record(victim.id, 7, "evil", "http://10.66.6.6:8000")
    row = ["c" * 16, 0, 0, 1, "worker", "http://worker:8000", ["agents"], "ab", "cd", 0]
    return {
        "a string heartbeat": changed(plain, beat="2026-01-01T00:00:00Z"),
        "a far-future heartbeat in seconds": changed(plain, beat=4_102_444_800),
        "a far-future heartbeat as a count": changed(plain, **{"from": victim.id, "beat": MAX_COUNTER}),
        "a far-future load": encode(Message(header("e" * 16), Gossip(), loads=(LoadEntry(victim.id, MAX_COUNTER, Load(1, 1, 1)),))),
        "another node's id with a foreign URL": encode(said("e" * 16, Entry(victim.id, (0, Status.ALIVE), foreign))),
        "another node's id as the sender, with a foreign URL": encode(said(victim.id, Entry(victim.id, (0, Status.ALIVE), foreign))),
        "another node's death": encode(said("e" * 16, Entry(victim.id, (5, Status.DEAD)))),
        "another node's leaving": encode(said("e" * 16, Entry(victim.id, (5, Status.LEFT)))),
        "50,000 invented members": changed(plain, entries=[[f"{number:016x}", *row[1:]] for number in range(50_000)]),
        "a 50 MB name": changed(plain, entries=[[*row[:4], "n" * 50_000_000, *row[5:]]]),
        "nothing at all": b"",
    }


@pytest.mark.parametrize("name", poison(mesh_of(2, settle_s=1.0).nodes[1]))
def test_poison_that_every_node_is_fed_stops_nothing_and_convinces_nobody_for_long(name: str) -> None:
    world = mesh_of(5)
    victim, doomed = world.nodes[2], world.nodes[4]
    data = poison(victim)[name]
    for node in world.nodes:
        heard(world, node, data)
    world.run(world.now + 20)
    for node in world.nodes:
        assert {each.node_id for each in node.maia.view.others} | {node.id} == {each.id for each in world.nodes}
        assert status(node, victim) is Status.ALIVE
        assert seen(node, victim).url == victim.url
        assert seen(node, victim).heartbeat < 1_000 or node is victim
    late = world.spawn(url(9), "late", (SEED_URL,))
    world.crash(doomed, silent=True)
    world.run(world.now + world.settings.dead_timeout)
    for node in world.living():
        assert node is late or status(node, doomed) is Status.DEAD
        assert node.maia.view.count == 5


def test_a_node_full_of_invented_members_still_knows_the_real_ones_and_is_rid_of_the_others_in_the_end() -> None:
    world = mesh_of(3)
    victim = world.nodes[0]
    for first in range(0, 300, 50):
        heard(world, victim, encode(said("e" * 16, *(stranger(number) for number in range(first, first + 50)))))
    assert victim.maia.view.count == 303
    found = events(world)
    world.run(world.now + 150)
    assert {node.maia.view.count for node in world.nodes} == {3}
    assert not [event for _, node, event in found if event.kind == "dead" and event.node_id in {each.id for each in world.nodes}]


def test_tombstones_stay_bounded_between_rounds_too() -> None:
    core = subject()
    for first in range(0, 20_000, 100):
        batch = [stranger(number) for number in range(first, first + 100)]
        core.maia.receive(1.0, said("b" * 16, *batch))
        core.maia.receive(1.0, said("b" * 16, *(Entry(each.node_id, (0, Status.LEFT)) for each in batch)))
        core.bounded()
