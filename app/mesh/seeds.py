"""Finding the mesh: seeds are tried fast while this node is alone, and for ever afterwards together with dead members, one at a time, so
that a seed that starts empty is found again and the halves of a cut network meet. A seed that is this node itself is remembered as such."""

from collections.abc import Iterable

from app.mesh.members import Member, Status
from app.mesh.mesh import Aim, Exchange, Mesh, Purpose
from app.mesh.messages import Join
from app.mesh.settings import JOIN_FIRST_S, JOIN_LAST_S, MISSED_SEED_S, SEED_PERIOD_S


class Seeds:
    def __init__(self, mesh: Mesh, urls: Iterable[str]) -> None:
        self._mesh = mesh
        self._urls = tuple(urls)
        self._answered_by: dict[str, str] = {}
        self._delay_s = JOIN_FIRST_S
        self.deadline = 0.0

    def update(self, urls: Iterable[str]) -> None:
        """The seeds' addresses as they are now."""
        self._urls = tuple(urls)
        self._answered_by = {url: node_id for url, node_id in self._answered_by.items() if url in self._urls}

    def hurry(self) -> None:
        """Try at once, and again in short steps: this node is alone."""
        self._delay_s, self.deadline = JOIN_FIRST_S, self._mesh.now

    def missed(self) -> None:
        """Somebody has gone. Where that was a seed, what starts in its place knows nobody, and should not wait long to be found."""
        if self._untried():
            self.deadline = min(self.deadline, self._mesh.now + self._period_s())

    def tick(self) -> None:
        mesh = self._mesh
        if mesh.now < self.deadline:
            return
        if mesh.view.others:
            self._delay_s = JOIN_FIRST_S
            self.deadline = mesh.now + self._period_s() * mesh.rng.uniform(0.7, 1.3)
            self._try_one()
            return
        self.deadline = mesh.now + self._delay_s * mesh.rng.uniform(0.8, 1.2)
        self._delay_s = min(2 * self._delay_s, JOIN_LAST_S)
        for url in self._untried():
            self.join(url)
        self._try_one(dead_only=True)

    def join(self, url: str) -> None:
        """Say who this node is to whoever answers there."""
        mesh = self._mesh
        if not any(each.aim.url == url and each.aim.purpose is Purpose.JOIN for each in mesh.exchanges.values()):
            message = mesh.message("", Join(url), (mesh.my_entry(),))
            mesh.call(Aim(url, "", Purpose.JOIN), message)

    def answered(self, exchange: Exchange, node_id: str) -> None:
        if exchange.aim.url in self._urls:
            self._answered_by[exchange.aim.url] = node_id

    def _period_s(self) -> float:
        return min(SEED_PERIOD_S, MISSED_SEED_S * self._mesh.view.count / 2) if self._untried() else SEED_PERIOD_S

    def _try_one(self, *, dead_only: bool = False) -> None:
        mesh = self._mesh
        dead = self._dead()
        seeds = [] if dead_only else self._untried()
        if dead and (not seeds or mesh.rng.random() < 0.5):
            member = mesh.rng.choice(dead)
            mesh.tell(member, Purpose.NEWS)
        elif seeds:
            self.join(mesh.rng.choice(seeds))

    def _untried(self) -> list[str]:
        """Seeds at which no live member, nor this node itself, was met."""
        mesh = self._mesh
        found = []
        for url in self._urls:
            member = mesh.view.get(self._answered_by.get(url, ""))
            if url != mesh.me.url and not (member and member.is_live) and mesh.view.owner_of(url, "") is None:
                found.append(url)
        return found

    def _dead(self) -> list[Member]:
        mesh = self._mesh
        taken = {each.url for each in mesh.view if each.is_live}
        return [each for each in mesh.view if each.status is Status.DEAD and each.url and each.url not in taken]
