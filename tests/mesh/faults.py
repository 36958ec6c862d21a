"""What may go wrong. Each fault draws its victims from the world's source, does its harm over time, says so in the log, and returns for how
many seconds it lasts."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.mesh.oracle import Oracle
from tests.mesh.world import OTHER, Cut, Node, World


@dataclass(slots=True)
class Stage:
    world: World
    oracle: Oracle
    seeds: tuple[str, ...]
    same_names: bool = False
    other_seed: str = "http://10.9.9.9:8000"
    """Where the other cluster's first node is. Its nodes have this one's seeds too, by mistake."""
    next_host: int = 0
    busy: set[str] = field(default_factory=set)
    """Addresses at which a fault is at work: another one does not take them too."""

    def url(self) -> str:
        self.next_host += 1
        return f"http://10.{self.next_host // 62500}.{self.next_host // 250 % 250}.{self.next_host % 250}:8000"

    def spawn(self, url: str = "", cluster: str = "astromesh") -> Node:
        url = url or self.url()
        name = "worker" if self.same_names else f"worker-{url.removeprefix('http://10.').removesuffix(':8000')}"
        node = self.world.spawn(url, name, self.seeds if cluster != OTHER else (*self.seeds, self.other_seed), cluster)
        self.world.note(f"{node.id[:6]} starts at {url}" + (f" in {cluster}" if cluster != "astromesh" else ""))
        return node

    @property
    def hosts(self) -> set[str]:
        """Addresses that are in use, or may be."""
        return {*self.world.at, *self.seeds}

    def pick(self, share: float = 0.0) -> list[Node]:
        """At least one node that no other fault holds; some always stay."""
        free = [each for each in self.world.living() if each.url not in self.busy]
        count = min(max(1, round(share * len(free))), len(free) - 1)
        return self.world.rng.sample(free, count) if count > 0 else []

    def crash(self, victims: list[Node]) -> None:
        silent = self.world.rng.random() < 0.5
        for node in victims:
            self.world.note(f"{node.id[:6]} at {node.url} is {'cut off for ever' if silent else 'killed'}")
            self.world.crash(node, silent=silent)
        self.oracle.crashed(victims)

    def restart(self, url: str, cluster: str = "astromesh") -> None:
        if url not in self.world.at:
            self.spawn(url, cluster)

    def reclaim(self, url: str) -> None:
        """Whoever is there is killed, and one of this cluster starts in its place."""
        if (node := self.world.at.get(url)) and node.identity.cluster == OTHER:
            self.crash([node])
            self.restart(url)


def crash(stage: Stage) -> float:
    stage.crash(stage.pick())
    return 1.0


def mass_crash(stage: Stage) -> float:
    stage.crash(stage.pick(stage.world.rng.uniform(0.2, 0.8)))
    return 2.0


def restart(stage: Stage) -> float:
    """Killed and started again, at its address or at a new one."""
    world = stage.world
    pause = world.rng.choice((0.05, 1.0, 6.0))
    for node in stage.pick():
        stage.crash([node])
        world.after(pause, stage.restart, node.url if world.rng.random() < 0.7 else stage.url())
    return pause + 0.5


def mass_restart(stage: Stage) -> float:
    victims = [each for each in stage.world.living() if each.url not in stage.busy]
    stage.world.note(f"all {len(victims)} restart")
    for node in victims:
        stage.crash([node])
        stage.world.after(stage.world.rng.uniform(0.2, 2.0), stage.restart, node.url)
    return 2.5


def lose_seed(stage: Stage) -> float:
    """The seed is lost and comes back empty."""
    world = stage.world
    pause = world.rng.choice((0.05, 3.0, 10.0))
    for url in stage.seeds:
        if (node := world.at.get(url)) and url not in stage.busy and node.identity.cluster == "astromesh":
            stage.crash([node])
            world.after(pause, stage.restart, url)
    return pause + 0.5


def swap_addresses(stage: Stage) -> float:
    """Two are killed and start again, each at the other's address."""
    victims = stage.pick(0.5)[:2]
    for node in victims:
        stage.crash([node])
        stage.world.after(stage.world.rng.uniform(0.1, 2.0), stage.restart, node.url)
    return 2.5


def lend_address(stage: Stage) -> float:
    """A node of another cluster takes a dead one's address."""
    stage.restart(stage.other_seed, OTHER)
    for node in stage.pick():
        if node.url not in stage.seeds:
            stage.crash([node])
            stage.world.after(stage.world.rng.uniform(0.1, 2.0), stage.restart, node.url, OTHER)
            if stage.world.rng.random() < 0.3:
                stage.world.after(6.0, stage.reclaim, node.url)
    return 2.5


def leave(stage: Stage) -> float:
    for node in stage.pick(0.2):
        stage.world.note(f"{node.id[:6]} leaves")
        stage.world.leave(node)
    return 2.0


def join(stage: Stage) -> float:
    for _ in range(stage.world.rng.randint(1, 4)):
        stage.spawn()
    return 1.0


def change(stage: Stage) -> float:
    """Catalogues change, some drain."""
    world = stage.world
    for node in stage.pick(0.3):
        drains = world.rng.random() < 0.3
        world.note(f"{node.id[:6]} {'drains' if drains else 'changes its catalogue'}")
        catalogue = f"{world.rng.getrandbits(64):016x}"
        now = world.now
        node_step = node.maia.update_own(now, catalogue_hash=catalogue, draining=drains) if node.thaws_at(now) == now else None
        if node_step:
            world.follow(node, node_step)
    return 0.5


def partition(stage: Stage) -> float:
    """Two sides that cannot exchange anything."""
    world = stage.world
    lasts = world.rng.choice((3.0, 8.0, world.settings.dead_timeout + 5))
    share = world.rng.choice((0.5, 0.5, world.rng.uniform(0.05, 0.5)))
    hosts = sorted(stage.hosts)
    side = frozenset(world.rng.sample(hosts, max(1, round(share * len(hosts)))))
    world.note(f"{len(side)} of {len(hosts)} are cut off from the others for {lasts:.0f} s")
    world.cuts.append(Cut(world.now, world.now + lasts, lambda a, b: (a in side) is not (b in side)))
    return lasts


def one_way(stage: Stage) -> float:
    """Calls from some to some others go nowhere, while those others' calls arrive."""
    world = stage.world
    lasts = world.rng.choice((5.0, 12.0, 25.0))
    hosts = sorted(stage.hosts)
    to_all = world.rng.random() < 0.3
    callers = frozenset(hosts if to_all else world.rng.sample(hosts, max(1, len(hosts) // 4)))
    called = frozenset(world.rng.sample(hosts, 1 if to_all else max(1, len(hosts) // 6)))
    world.note(f"calls from {len(callers)} to {', '.join(sorted(called))[:80]} go nowhere for {lasts:.0f} s")
    world.cuts.append(Cut(world.now, world.now + lasts, lambda a, b: a in callers and b in called))
    return lasts


def freeze(stage: Stage) -> float:
    world = stage.world
    lasts = world.rng.choice((2.0, 5.0, 10.0, 20.0, world.settings.dead_timeout + 15))
    everybody = world.rng.random() < 0.1
    victims = list(world.living()) if everybody else stage.pick(world.rng.choice((0.0, 0.1, 0.33)))
    for node in victims:
        node.frozen.append((world.now, world.now + lasts))
        stage.busy.add(node.url)
        world.after(lasts, stage.busy.discard, node.url)
    world.note(f"{len(victims)} freeze for {lasts:.0f} s: {', '.join(each.id[:6] for each in victims)[:80]}")
    return lasts


def slow_down(stage: Stage) -> float:
    world = stage.world
    for node in stage.pick(world.rng.choice((0.0, 0.2))):
        node.slow_s = world.rng.uniform(0.05, 0.4)
        world.note(f"{node.id[:6]} answers {node.slow_s:.2f} s late")
        world.after(10.0, setattr, node, "slow_s", 0.0)
    return 10.0


def forward(stage: Stage) -> float:
    """Forwarding tells some nodes, rightly or wrongly, that others failed or answered."""
    world = stage.world
    for node in stage.pick(0.3):
        if node.thaws_at(world.now) > world.now or not node.maia.view.others:
            continue
        about, ok = world.rng.choice(node.maia.view.others), world.rng.random() < 0.2
        truth = stage.oracle.node(about.node_id)
        if not ok or (truth and truth.up(world.now)):  # nobody answers for a dead one
            world.note(f"{node.id[:6]} finds that {about.node_id[:6]} {'answers' if ok else 'fails'}")
            world.follow(node, node.maia.evidence(world.now, about.node_id, ok))
    return 0.5


def clock_jump(stage: Stage) -> float:
    """Wall clocks jump by hours. The protocol has none (tests/mesh/test_core.py): its time is passed in and goes on, so nothing happens."""
    stage.world.note("wall clocks jump")
    return 0.1


FAULTS: tuple[Callable[[Stage], float], ...] = (
    crash, crash, mass_crash, restart, restart, mass_restart, lose_seed, swap_addresses, lend_address, leave, join, change, partition,
    partition, one_way, freeze, freeze, slow_down, forward, clock_jump,
)  # fmt: skip
