"""Tokens that a run has used, by model, those of the agents it called included."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Usage:
    """``model`` is the one that spoke last."""

    model: str = ""
    _by_model: dict[str, list[int]] = field(default_factory=dict)

    def add(self, model: str, tokens_in: int, tokens_out: int, calls: int = 1) -> None:
        row = self._by_model.setdefault(model, [0, 0, 0])
        for index, count in enumerate((tokens_in, tokens_out, calls)):
            row[index] += count

    def merge(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add the ``by_model`` rows of another run."""
        for row in rows:
            self.add(str(row["model"]), int(row["tokens_in"]), int(row["tokens_out"]), int(row["calls"]))

    @property
    def tokens_in(self) -> int:
        return sum(row[0] for row in self._by_model.values())

    @property
    def tokens_out(self) -> int:
        return sum(row[1] for row in self._by_model.values())

    def as_json(self) -> dict[str, Any]:
        rows = [{"model": model, "tokens_in": row[0], "tokens_out": row[1], "calls": row[2]} for model, row in self._by_model.items()]
        return {"tokens_in": self.tokens_in, "tokens_out": self.tokens_out, "model": self.model, "by_model": rows}
