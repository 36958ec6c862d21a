"""One run of an agent, from the question to the stored turn, within its time. Nothing is acknowledged before it is stored."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from app.context import CURRENT, RequestContext, current
from app.errors import AgentUnavailable, BodyTooLarge, DeadlineExceeded, InvalidBody, NodeError
from app.services.agents.agent import Agent
from app.services.agents.cast import Rotation
from app.services.agents.catalogue import Catalogue
from app.services.agents.completion import Message, ToolCall
from app.services.agents.conversation import Conversation, mend
from app.services.agents.events import Emit
from app.services.agents.excerpt import size_of
from app.services.agents.journal import Journal
from app.services.agents.metrics import Metrics
from app.services.agents.patterns import PATTERNS
from app.services.agents.settings import Settings
from app.services.agents.turn import Turn
from app.services.agents.usage import Usage
from app.services.contract import Locate

_STORED = frozenset({"user", "assistant", "tool"})


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asks of an agent. With a ``session``, an agent that has memory recalls it and stores this turn in it.

    ``parameters`` are sampling parameters that win over the agent's; ``streaming`` has the model's words told as they come;
    ``hand_over`` ends the run at a client tool's call. ``transfers`` is set where a swarm passes its conversation on to the agent, who
    neither recalls nor stores it then: whether it may pass it on in its turn.
    """

    messages: Sequence[Message]
    session: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    streaming: bool = False
    hand_over: bool = False
    transfers: bool | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. ``handed_over`` are the calls that the client is to carry out; ``swarm`` is what a swarm is told."""

    agent: str
    answer: str
    outcome: str
    steps: Sequence[Mapping[str, Any]]
    usage: Usage
    session: str | None
    trace_id: str
    handed_over: tuple[ToolCall, ...] = ()
    swarm: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "agent": self.agent,
            "answer": self.answer,
            "outcome": self.outcome,
            "steps": list(self.steps),
            "usage": self.usage.as_json(),
            "session_id": self.session,
            "trace": {"trace_id": self.trace_id},
        } | ({"swarm": self.swarm} if self.swarm is not None else {})


class Runner:
    """Runs agents with what the other services of the node give."""

    def __init__(self, locate: Locate, settings: Settings, metrics: Metrics) -> None:
        self._locate = locate
        self._settings = settings
        self._metrics = metrics
        self._catalogue = Catalogue(locate)
        self._rotation = Rotation()

    async def run(self, agent: Agent, question: Question, emit: Emit) -> Result:
        """Run an agent and measure it; see ``_bounded`` for what is raised."""
        with self._metrics.run(agent.name) as timed:
            result = await self._bounded(agent, question, emit)
            timed.outcome = result.outcome
        return result

    async def _bounded(self, agent: Agent, question: Question, emit: Emit) -> Result:
        """Raises AgentUnavailable, DeadlineExceeded with the limit that was reached, or what a service that the run needs raises."""
        if agent.unavailable:
            raise AgentUnavailable(f"Agent {agent.name!r} cannot run: {agent.unavailable}.")
        context = replace(current(), session=question.session)
        remaining = context.remaining_s()
        try:
            with _as_current(context):
                async with asyncio.timeout(min(agent.timeout_s, remaining)) as scope:
                    return await self._run(agent, question, emit)
        except TimeoutError:
            if not scope.expired():
                raise
            raise _too_late(agent, remaining) from None
        except NodeError as error:
            error.headers.pop("X-Astromesh-Not-Begun", None)  # the run has begun: asking another node might do its work twice
            raise

    async def _run(self, agent: Agent, question: Question, emit: Emit) -> Result:
        conversation = None
        history: Sequence[Message] = question.messages
        asked = [message for message in question.messages if message["role"] in _STORED]
        if agent.memory_turns is not None and question.session is not None and question.transfers is None:
            self._check_size(agent, asked)
            conversation = Conversation(self._locate, agent.name, question.session)
            history = mend([*await conversation.recall(agent.memory_turns), *question.messages])
        if not history:
            raise InvalidBody("The messages answer calls that this session does not have; send a user message.", param="$.messages")
        journal = Journal(emit, question.streaming)
        ending = await PATTERNS[agent.pattern](await self._turn(agent, question, history, journal))
        if conversation:
            await conversation.store(asked, ending.added)
        told, trace_id = (ending.answer, ending.outcome, journal.steps, journal.usage), current().trace_id
        swarm = None if question.transfers is None else {"messages": ending.added, "to": ending.to or None}
        return Result(agent.name, *told, question.session, trace_id, ending.calls, swarm)

    def _check_size(self, agent: Agent, asked: Sequence[Message]) -> None:
        """Before anything is done for it: a question that memory would refuse afterwards is refused now."""
        size, limit = size_of(asked), self._settings.question_bytes
        if size > limit:
            told = f"The question has {size} bytes; an agent with memory takes at most {limit} (spec.agents.question_bytes)"
            # A run always has a session, one of its own where the caller names none: the remedy has to hold for both ways of asking.
            raise BodyTooLarge(f"{told}. Send less, or ask agent/{agent.name} by a chat completion without a session, which keeps nothing.")

    async def _turn(self, agent: Agent, question: Question, history: Sequence[Message], journal: Journal) -> Turn:
        tools = await self._catalogue.announce(agent)
        variables = {
            **question.context,
            "context": question.context,
            "agent": {"name": agent.name, "display_name": agent.display_name or agent.name, "description": agent.description},
            "tools": [tool["function"]["name"] for tool in tools],
        }
        system = ""
        if agent.system is not None:
            what = f"system prompt of agent {agent.name!r} ({agent.file})"
            system = await agent.system.render(variables, self._settings.prompt_chars, what)
        asked = (history, system, tools, variables, question.parameters, question.hand_over, question.transfers)
        return Turn(self._locate, self._settings, self._metrics, agent, journal, self._rotation, *asked)


@contextmanager
def _as_current(context: RequestContext) -> Iterator[None]:
    """Calls made inside carry ``context``: the session of the run, also where the body named it."""
    token = CURRENT.set(context)
    try:
        yield
    finally:
        CURRENT.reset(token)


def _too_late(agent: Agent, remaining_s: float) -> DeadlineExceeded:
    if remaining_s < agent.timeout_s:
        return DeadlineExceeded(
            f"Agent {agent.name!r} did not finish before the request's deadline, {max(remaining_s, 0):.3g} s away; ask for less."
        )
    limit = f"its {agent.timeout_s:g} s (spec.orchestration.timeout_seconds)"
    return DeadlineExceeded(f"Agent {agent.name!r} did not finish within {limit}; raise that limit or ask for less.")
