"""One run of an agent, from the question to the stored turn, within its time. Nothing is acknowledged before it is stored."""

import asyncio
import json
import logging
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
from app.services.agents.events import Emit, Voice
from app.services.agents.excerpt import size_of
from app.services.agents.formed import without_words
from app.services.agents.guardrails.guardrail import Blocked
from app.services.agents.guardrails.guards import Guards
from app.services.agents.journal import Journal
from app.services.agents.loop import Ending
from app.services.agents.metrics import Metrics
from app.services.agents.model import Model
from app.services.agents.output import OutputSchema
from app.services.agents.patterns import PATTERNS
from app.services.agents.remembering import Past, Remembering
from app.services.agents.settings import Settings
from app.services.agents.spans import answered, invocation
from app.services.agents.summary import Summarising, shown
from app.services.agents.turn import Turn
from app.services.agents.usage import Usage
from app.services.contract import Locate

log = logging.getLogger(__name__)
_STORED = frozenset({"user", "assistant", "tool"})
_WITH_DATA = frozenset({"answered", "truncated", "max_iterations"})


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
    """How a run ended. ``handed_over`` are the calls that the client is to carry out; ``swarm`` is what a swarm is told;
    ``guardrail`` is what cut or blocked the answer; ``data`` the answer by the output schema, which ``answer`` holds as JSON; ``notes``
    what the caller should know of how it came about."""

    agent: str
    answer: str
    outcome: str
    steps: Sequence[Mapping[str, Any]]
    usage: Usage
    session: str | None
    trace_id: str
    handed_over: tuple[ToolCall, ...] = ()
    swarm: Mapping[str, Any] | None = None
    guardrail: str | None = None
    data: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        optional = {"guardrail": self.guardrail, "data": self.data, "swarm": self.swarm}
        told = {key: value for key, value in optional.items() if value is not None} | ({"notes": list(self.notes)} if self.notes else {})
        return told | {
            "agent": self.agent,
            "answer": self.answer,
            "outcome": self.outcome,
            "steps": list(self.steps),
            "usage": self.usage.as_json(),
            "session_id": self.session,
            "trace": {"trace_id": self.trace_id},
        }


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
            with _as_current(context), invocation(agent.name, agent.version, question.session, question.messages):
                async with asyncio.timeout(min(agent.timeout_s, remaining)) as scope:
                    return answered(await self._run(agent, question, emit))
        except TimeoutError:
            if not scope.expired():
                raise
            raise _too_late(agent, remaining) from None
        except NodeError as error:
            error.headers.pop("X-Astromesh-Not-Begun", None)  # the run has begun: asking another node might do its work twice
            raise

    async def _run(self, agent: Agent, question: Question, emit: Emit) -> Result:
        guards = self._guards(agent)
        messages, context = await guards.admit(question.messages, question.context)
        question = replace(question, messages=messages, context=context)
        asked = [message for message in messages if message["role"] in _STORED]
        conversation, history, notes = await self._recall(agent, question, asked, guards)
        output = agent.output if question.transfers is None else None
        journal = Journal(guards.shown(without_words(emit) if output else emit), question.streaming, guards.usage)
        turn = await self._turn(agent, question, history, journal, guards)
        ending, guardrail, data = await _end(turn, output)
        if data is not None and question.streaming:
            last = journal.steps[-1]
            await Voice(last["step"], last["role"], emit).say(ending.answer)
        if conversation and ending.outcome != "blocked":
            await conversation.store(asked, await guards.stored(ending.added))
        told, trace_id = (ending.answer, ending.outcome, guards.steps(journal.steps), journal.usage), current().trace_id
        swarm = None if question.transfers is None else {"messages": ending.added, "to": ending.to or None}
        return Result(agent.name, *told, question.session, trace_id, ending.calls, swarm, guardrail, data, notes)

    def _guards(self, agent: Agent) -> Guards:
        judge = Model(self._locate, agent.models, {})
        return Guards(agent.name, agent.guardrails, Usage(), judge, self._settings.pass_unsure_topics)

    async def _recall(
        self, agent: Agent, question: Question, asked: Sequence[Message], guards: Guards
    ) -> tuple[Conversation | None, Sequence[Message], Sequence[str]]:
        """The conversation, for an agent that remembers it; what its model sees of it; and what is to be said about that."""
        conversation, past = None, Past()
        history: Sequence[Message] = question.messages
        notes: Sequence[str] = ()
        recollected: Sequence[Message] = ()
        if agent.memory is not None and question.session is not None and question.transfers is None:
            self._check_size(agent, asked)
            conversation = Conversation(self._locate, (agent.name, question.session), agent.memory, semantic=agent.semantic is not None)
            past, notes = await self._past(agent.memory, conversation, guards)
            history = mend([*past.messages(), *question.messages])
            if agent.semantic:
                seen = frozenset(turn.turn_id for turn in past.turns)
                recollected, more = await agent.semantic.recollect(self._locate, (agent.name, question.session), asked, seen)
                notes = [*notes, *more]
        if not history:
            raise InvalidBody("The messages answer calls that this session does not have; send a user message.", param="$.messages")
        return conversation, [*recollected, *shown(past.summary), *history], notes

    @staticmethod
    async def _past(remembering: Remembering, conversation: Conversation, guards: Guards) -> tuple[Past, Sequence[str]]:
        if not remembering.summarises:
            past = await conversation.recall()
            return Past(remembering.window(past.turns)), ()
        summarising = Summarising(remembering, guards.model(guards.judge), guards.usage)
        return await summarising.windowed(conversation), summarising.notes

    def _check_size(self, agent: Agent, asked: Sequence[Message]) -> None:
        """Before anything is done for it: a question that memory would refuse afterwards is refused now."""
        size, limit = size_of(asked), self._settings.question_bytes
        if size > limit:
            told = f"The question has {size} bytes; an agent with memory takes at most {limit} (spec.agents.question_bytes)"
            # A run always has a session, one of its own where the caller names none: the remedy has to hold for both ways of asking.
            raise BodyTooLarge(f"{told}. Send less, or ask agent/{agent.name} by a chat completion without a session, which keeps nothing.")

    async def _turn(self, agent: Agent, question: Question, history: Sequence[Message], journal: Journal, guards: Guards) -> Turn:
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
        return Turn(self._locate, self._settings, self._metrics, agent, journal, guards, self._rotation, *asked)


async def _end(turn: Turn, output: OutputSchema | None) -> tuple[Ending, str | None, Mapping[str, Any] | None]:
    """Run the agent's pattern to its answer and the data in it; which guardrail cut or blocked the answer."""
    guards = turn.guards
    try:
        ending, data = await PATTERNS[turn.agent.pattern](turn), None
        if output and ending.outcome in _WITH_DATA:
            ending, data = await _with_data(turn, output, ending)
    except (Blocked, BaseExceptionGroup) as error:
        blocked = _blocked_in(error)
        if blocked is None:
            raise
        if not turn.journal.usage.as_json()["by_model"] and blocked.guardrail.type == "cost_limit":
            raise guards.refusal(blocked) from None  # nothing was asked: the question is what is too much
        log.warning("agent %s: an answer was blocked by its guardrail %s", turn.agent.name, blocked.guardrail.name)
        return Ending("", "blocked", ()), blocked.guardrail.name, None
    return ending, guards.cut_by.name if guards.cut_by else ending.guardrail or None, data


async def _with_data(turn: Turn, output: OutputSchema, ending: Ending) -> tuple[Ending, dict[str, Any]]:
    """The data of an answer. What is kept of it and of its repairs is one message that holds the data alone."""
    said = [*turn.prompt(), *turn.history, *ending.added]
    loop = turn.ask_for_answer(turn.agent.roles[-1])

    async def ask_again(complaint: str) -> str:
        loop.added.append({"role": "user", "content": complaint})
        return (await loop.run(said)).answer

    data = turn.guards.data(await output.settle(ending.answer, ask_again))
    answer = json.dumps(data, ensure_ascii=False)
    outcome = "answered" if ending.outcome == "truncated" else ending.outcome
    return replace(ending, answer=answer, outcome=outcome, added=[*ending.added[:-1], {"role": "assistant", "content": answer}]), data


def _blocked_in(error: BaseException) -> Blocked | None:
    """Where several work at once, what one of them raises comes in a group."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := _blocked_in(each))), None)
    return error if isinstance(error, Blocked) else None


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
