"""Whose turn it is: all live members in shuffled order, so that nobody is forgotten and no two nodes keep step."""

import random

from app.mesh.members import Member, Status, View


class Ring:
    def __init__(self, view: View, rng: random.Random) -> None:
        self._view, self._rng = view, rng
        self._order: list[str] = []

    def add(self, node_id: str) -> None:
        """A member that came is met within this turn of the ring."""
        self._order.insert(self._rng.randint(0, len(self._order)), node_id)

    def next(self, *, skip: set[str], suspects: bool = True) -> Member | None:
        """The next live member with an address that is not in ``skip``; None when a whole turn has none."""
        for turn in (0, 1):
            while self._order:
                member = self._view.get(self._order.pop())
                if self._fits(member, skip, suspects):
                    return member
            if turn == 0:
                self._order = [each.node_id for each in self._view.others]
                self._rng.shuffle(self._order)
        return None

    @staticmethod
    def _fits(member: Member | None, skip: set[str], suspects: bool) -> bool:
        if member is None or not member.is_live or not member.url or member.node_id in skip:
            return False
        return suspects or member.status is Status.ALIVE
