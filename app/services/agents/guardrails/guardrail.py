"""A guardrail as an agent file describes it, and what it does to a text."""

from dataclasses import dataclass

from app.services.agents.guardrails.keywords import Keywords
from app.services.agents.guardrails.screen import Filter, ForbiddenWords, Length, PersonalData, Screen
from app.services.agents.guardrails.topics import Topics


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One entry of ``spec.guardrails``. ``side`` is input or output; ``limit`` is in characters or tokens; ``action`` is redact, block, or
    "" for what the type does by itself."""

    side: str
    type: str
    action: str = ""
    limit: int = 0
    keywords: Keywords | None = None
    topics: Topics | None = None

    @property
    def name(self) -> str:
        return f"{self.side}: {self.type}"

    @property
    def redacts(self) -> bool:
        return self.type == "pii_detection" and self.action != "block"

    def filter(self) -> Filter | None:
        """This guardrail for one text; None where it is not about texts."""
        if self.type == "pii_detection":
            return PersonalData(block=self.action == "block")
        if self.type == "max_length":
            return Length(self.limit, block=self.side == "input" or self.action == "block")
        return ForbiddenWords(self.keywords) if self.keywords else None


class Blocked(Exception):
    """A guardrail has stopped the run. It carries the guardrail, never the text; ``unsure``: because nobody could say what it is about."""

    def __init__(self, guardrail: Guardrail, unsure: bool = False) -> None:
        super().__init__(guardrail.name)
        self.guardrail, self.unsure = guardrail, unsure


class Screened:
    """One text under guardrails: fed as it comes, or all at once. Raises Blocked from ``check`` once one of them has stopped it."""

    def __init__(self, guardrails: tuple[Guardrail, ...]) -> None:
        made = [(each, filter_) for each in guardrails if (filter_ := each.filter())]
        self._guardrails = [each for each, _ in made]
        self._screen = Screen([filter_ for _, filter_ in made])

    @property
    def cut_by(self) -> Guardrail | None:
        return next((each for each in self._guardrails if each.type == "max_length"), None) if self._screen.cut else None

    def feed(self, text: str) -> str:
        return self._screen.feed(text)

    def finish(self) -> str:
        return self._screen.finish()

    def check(self) -> None:
        if (place := self._screen.blocked_by) is not None:
            raise Blocked(self._guardrails[place])

    def whole(self, text: str) -> str:
        """All of a text at once. Takes its time for a long one."""
        told = self.feed(text)
        self.check()
        told += self.finish()
        self.check()
        return told
