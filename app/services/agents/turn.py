"""One turn of an agent: what its pattern has to work with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.services.agents.agent import Agent
from app.services.agents.cast import Rotation
from app.services.agents.completion import Completes, Message, text_of
from app.services.agents.formed import FormedModel
from app.services.agents.guardrails.guards import Guards
from app.services.agents.journal import Journal
from app.services.agents.loop import Bounds, Loop, Speech
from app.services.agents.metrics import Metrics
from app.services.agents.model import Model
from app.services.agents.settings import Settings
from app.services.agents.toolbox import Toolbox
from app.services.contract import Locate

_OF_THE_ANSWER = frozenset({"max_tokens", "max_completion_tokens", "stop", "response_format"})
"""Sampling parameters that a caller means for the answer alone: a plan in the answer's format would be no plan."""


@dataclass(frozen=True, slots=True)
class Turn:
    """``history`` is the conversation up to what is asked now; ``system`` the agent's own prompt, "" without one; ``tools`` what models
    are told of its tools; ``variables`` what its templates see; ``parameters`` the caller's sampling parameters; ``hand_over``: client
    tools' calls end the turn. ``transfers`` is None for a turn of the agent's own; a member of a swarm is told whether it may pass the
    conversation on, which then ends its turn."""

    locate: Locate
    settings: Settings
    metrics: Metrics
    agent: Agent
    journal: Journal
    guards: Guards
    rotation: Rotation
    history: Sequence[Message]
    system: str = ""
    tools: Sequence[dict[str, Any]] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    hand_over: bool = False
    transfers: bool | None = None

    def ask(self, role: str, toolbox: Toolbox | None = None, **notes: str) -> Loop:
        """An ask about the conversation itself, in which client tools' calls may be handed over. ``notes`` are shown in its steps."""
        loop = self.ask_for_answer(role, toolbox, **notes)
        if self.hand_over:
            loop.ends = loop.toolbox.is_client
        return loop

    def ask_for_answer(self, role: str, toolbox: Toolbox | None = None, **notes: str) -> Loop:
        """An ask whose last words are the agent's answer."""
        return self._loop(role, toolbox or self.toolbox(), self.parameters, Speech.LIVE, notes, formed=True)

    def ask_aside(self, role: str, at_once: bool = False, **notes: str) -> Loop:
        """An ask for the pattern's own use, heard only from an agent that narrates; ``at_once``: beside others."""
        parameters = {key: value for key, value in self.parameters.items() if key not in _OF_THE_ANSWER}
        heard = Speech.WHOLE if at_once else Speech.LIVE
        return self._loop(role, self.toolbox(), parameters, heard if self.agent.cast.narrate else Speech.SILENT, notes)

    def _loop(
        self, role: str, toolbox: Toolbox, parameters: Mapping[str, Any], speech: Speech, notes: dict[str, str], formed: bool = False
    ) -> Loop:
        choices = self.rotation.order(self.agent.name, self.agent.cast.candidates(role))
        bounds = Bounds(self.agent.max_iterations, self.settings.parallel_tool_calls)
        model: Completes = Model(self.locate, choices, parameters)
        if formed and self.agent.output and self.transfers is None:
            model = FormedModel(model, self.agent.output)
        return Loop(self.guards.model(model), toolbox, bounds, self.journal, role, speech, notes=notes)

    def toolbox(self) -> Toolbox:
        return Toolbox(self.locate, self.agent, self.settings, self.journal.usage, self.metrics)

    def prompt(self, *parts: str) -> list[Message]:
        """The agent's own prompt and ``parts`` as one system message; none where all are empty."""
        text = "\n\n".join(part for part in (self.system, *parts) if part)
        return [{"role": "system", "content": text}] if text else []

    async def told(self, role: str, default: str, **more: Any) -> str:
        """What ``role`` is told to do: its template in the agent's file, which sees ``query`` and ``more``, too, or else ``default``."""
        template = self.agent.cast.templates.get(role)
        if template is None:
            return default
        what = f"template `{role}` of agent {self.agent.name!r} ({self.agent.file})"
        return await template.render({**self.variables, "query": self.query, **more}, self.settings.prompt_chars, what)

    @property
    def query(self) -> str:
        """The text of what the user said last."""
        last: Message = next((message for message in reversed(self.history) if message["role"] == "user"), {})
        return text_of(last)

    def history_with(self, notes: str) -> list[Message]:
        """The conversation, with ``notes`` below what the user said last: many models refuse two messages of the user in a row."""
        *before, last = self.history
        if last["role"] != "user":
            return [*self.history, {"role": "user", "content": notes}]
        content = last.get("content") or ""
        if isinstance(content, str):
            return [*before, {**last, "content": f"{content}\n\n{notes}"}]
        return [*before, {**last, "content": [*content, {"type": "text", "text": notes}]}]
