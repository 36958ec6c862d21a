"""News that is still to be told, and how often. Standings and joins are urgent and come first, then changed records, then loads; each is
told a number of times that grows with the logarithm of the mesh, least told first, so that all hear it and it ends."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from math import ceil, log10

from app.mesh.members import Status, View
from app.mesh.messages import Entry, LoadEntry
from app.mesh.settings import BURST_SIZE, LOAD_SENDS
from app.mesh.wire import entry_size, load_json

SUSPICION_SHARE = 3  # told this much oftener than other news: no hash shows that somebody missed it


@dataclass(slots=True)
class Item:
    """One member's news. ``with_record``: its record is news too; ``owed``: how many tellings are still urgent; ``source`` knows it."""

    urgent: bool
    with_record: bool
    source: str
    owed: int
    told: int = 0

    @property
    def turn(self) -> tuple[bool, int]:
        return (not self.urgent, self.told)


class News:
    """Items are kept by turn, so that finding the least told ones does not cost more the more news there is."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._items: dict[str, Item] = {}
        self._turns: dict[tuple[bool, int], dict[str, Item]] = {}
        self._owing = 0
        self._loads: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_urgent(self) -> bool:
        return self._owing > 0

    def add(self, node_id: str, source: str, *, urgent: bool, with_record: bool) -> None:
        """``source`` is who told it, and need not be told; this node's own id when nobody did."""
        if before := self._items.get(node_id):
            urgent, with_record = urgent or before.owed > 0, with_record or before.with_record
            self._remove(node_id, before)
        item = self._items[node_id] = Item(urgent, with_record, source, BURST_SIZE if urgent else 0)
        self._owing += urgent
        self._turns.setdefault(item.turn, {})[node_id] = item

    def _remove(self, node_id: str, item: Item) -> None:
        del self._items[node_id]
        self._owing -= item.owed > 0
        self._leave_turn(node_id, item)

    def _leave_turn(self, node_id: str, item: Item) -> None:
        mates = self._turns[item.turn]
        del mates[node_id]
        if not mates:
            del self._turns[item.turn]

    def _told(self, node_id: str, item: Item) -> None:
        """It was told once more."""
        self._leave_turn(node_id, item)
        item.told += 1
        item.owed -= 1
        self._owing -= item.owed == 0
        self._turns.setdefault(item.turn, {})[node_id] = item

    def add_load(self, node_id: str) -> None:
        self._loads.pop(node_id, None)
        self._loads[node_id] = LOAD_SENDS

    def entry(self, node_id: str, *, with_record: bool) -> Entry | None:
        """What is known of a member now; nothing where it was forgotten."""
        member = self._view.get(node_id)
        return Entry(node_id, member.standing, member.record if with_record else None) if member else None

    def take(self, receiver: str, told: Collection[str], room: int) -> list[Entry]:
        """News for ``receiver`` besides what it is ``told`` already, in ``room`` bytes (but at least one), counted as told."""
        taken, met = list[Entry](), list[tuple[str, Item]]()
        for node_id, item in self._in_turn():
            member = self._view.get(node_id)
            if member and receiver != node_id and receiver != item.source and node_id not in told:
                entry = Entry(node_id, member.standing, member.record if item.with_record else None)
                room -= entry_size(entry)
                if room < 0 and taken:
                    break
                taken.append(entry)
            met.append((node_id, item))  # also where the receiver knows it already
        limit = 4 * ceil(log10(self._view.count + 1))
        for node_id, item in met:
            member = self._view.get(node_id)
            if member is None or item.told + 1 >= limit * (SUSPICION_SHARE if member.status is Status.SUSPECT else 1):
                self._remove(node_id, item)
            else:
                self._told(node_id, item)
        return taken

    def _in_turn(self) -> Iterator[tuple[str, Item]]:
        for turn in sorted(self._turns):
            yield from self._turns[turn].items()

    def take_loads(self, receiver: str, room: int) -> list[LoadEntry]:
        """Loads that fit into ``room`` bytes, least recently told first."""
        taken: list[LoadEntry] = []
        for node_id, left in list(islice(self._loads.items(), 24)):
            if room < 90:
                break
            del self._loads[node_id]
            member = self._view.get(node_id)
            if member is None or not member.is_live:
                continue
            if left > 1 or node_id == receiver:
                self._loads[node_id] = left - (node_id != receiver)  # to the end of the line
            if node_id != receiver:
                taken.append(LoadEntry(node_id, member.heartbeat, member.load))
                room -= len(load_json(taken[-1])) + 1
        return taken
