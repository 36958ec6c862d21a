"""How an agent goes about a question, by the name of the pattern in its file."""

from collections.abc import Awaitable, Callable, Mapping

from app.services.agents.loop import Ending
from app.services.agents.patterns import react
from app.services.agents.turn import Turn

Pattern = Callable[[Turn], Awaitable[Ending]]

PATTERNS: Mapping[str, Pattern] = {"react": react.run}
