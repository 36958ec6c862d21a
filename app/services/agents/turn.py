"""One turn of an agent: what its pattern has to work with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.services.agents.agent import Agent
from app.services.agents.completion import Message, ToolCall
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
    are told of its tools; ``variables`` what its templates see; ``parameters`` the caller's sampling parameters."""

    locate: Locate
    settings: Settings
    metrics: Metrics
    agent: Agent
    journal: Journal
    history: Sequence[Message]
    system: str = ""
    tools: Sequence[dict[str, Any]] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    hand_over: bool = False

    def ask(self, role: str, speech: Speech = Speech.LIVE, ends: Callable[[ToolCall], bool] | None = None, **notes: str) -> Loop:
        """An ask of the model that plays ``role``; what it says is the agent's answer where the speech is live."""
        toolbox = Toolbox(self.locate, self.agent, self.settings, self.journal.usage, self.metrics)
        final = speech is Speech.LIVE
        parameters = {key: value for key, value in self.parameters.items() if final or key not in _OF_THE_ANSWER}
        model = Model(self.locate, self.agent.models, parameters)
        bounds = Bounds(self.agent.max_iterations, self.settings.parallel_tool_calls)
        return Loop(model, toolbox, bounds, self.journal, role, speech, ends or self._for_client(toolbox), notes)

    def _for_client(self, toolbox: Toolbox) -> Callable[[ToolCall], bool]:
        """Whoever asked to be handed the calls of client tools is: such a call ends the run."""
        return toolbox.is_client if self.hand_over else lambda call: False

    def prompt(self, *parts: str) -> list[Message]:
        """The agent's own prompt and ``parts`` as one system message; none where all are empty."""
        text = "\n\n".join(part for part in (self.system, *parts) if part)
        return [{"role": "system", "content": text}] if text else []
