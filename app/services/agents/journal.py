"""What all that is asked of models in one run is written down in: numbered steps, used tokens, and who listens."""

from dataclasses import dataclass, field
from typing import Any

from app.services.agents.events import Emit
from app.services.agents.usage import Usage


@dataclass(slots=True)
class Journal:
    """One run's. ``streaming``: somebody listens, and hears the words as they come."""

    emit: Emit
    streaming: bool
    usage: Usage = field(default_factory=Usage)
    _rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    _begun: int = 0

    def begin(self) -> int:
        """The number of a step that begins; several may go on at once."""
        self._begun += 1
        return self._begun

    def write(self, row: dict[str, Any]) -> None:
        self._rows[row["step"]] = row

    @property
    def steps(self) -> list[dict[str, Any]]:
        """In the order in which they began."""
        return [self._rows[number] for number in sorted(self._rows)]
