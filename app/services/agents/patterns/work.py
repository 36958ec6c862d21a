"""What workers do of a plan, each thing on its own, and the answer that a synthesizer makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.errors import NodeError, ProviderUnavailable
from app.services.agents.loop import NO_ANSWER, Ending
from app.services.agents.turn import Turn

_FAILED = "FAILED:"
_WORKER = (
    "You carry out one task of a larger piece of work. Do only this task, with your tools where they help, and give its result with all "
    f"that is needed to go on from it. If it cannot be done, write {_FAILED} and why."
)
_SYNTHESIZER = (
    "Others have worked on what the user asks last; below it are their results. Answer the user from these results. "
    "Say plainly what could not be done; do not speak of tasks, plans or workers."
)


@dataclass(frozen=True, slots=True)
class Work:
    """A task, and its result or why there is none. ``error`` is set where the worker's model failed."""

    task: str
    text: str
    done: bool
    error: NodeError | None = None

    def __str__(self) -> str:
        return f"{self.task}\n{'Result' if self.done else 'Failed'}: {self.text}"


async def carry_out(turn: Turn, task: str, before: Sequence[Work] = (), at_once: bool = False) -> Work:
    """Have a worker do ``task``, told the work ``before`` it. What goes wrong is in the result."""
    loop = turn.ask_aside("worker", at_once, task=task)
    told = turn.prompt(await turn.told("worker", _WORKER, task=task))
    parts = [f"What all this is for: {turn.query}", *(["Done before:\n" + listed(before)] if before else []), f"Your task: {task}"]
    try:
        ending = await loop.run([*told, {"role": "user", "content": "\n\n".join(parts)}], turn.tools)
    except NodeError as error:
        return Work(task, error.message, False, error)
    if ending.outcome == "content_filter":
        return Work(task, "The provider withheld the result.", False)
    text = ending.answer.strip()
    failed = not text or text.startswith(_FAILED) or text == NO_ANSWER.format(limit=turn.agent.max_iterations)
    return Work(task, text.removeprefix(_FAILED).strip() or "There was no result.", not failed)


async def synthesize(turn: Turn, works: Sequence[Work], unfinished: str = "") -> Ending:
    """The answer. ``unfinished`` says what was not done, "" when all was. Raises ProviderUnavailable where no worker's model answered."""
    if works and all(work.error for work in works):
        raise _nothing_done(turn, works)
    notes = "\n\n".join(part for part in (f"Results:\n{listed(works)}" if works else "", unfinished) if part)
    told = await turn.told("synthesizer", _SYNTHESIZER if works else "", results=[str(work) for work in works])
    ending = await turn.ask_for_answer("synthesizer").run([*turn.prompt(told), *(turn.history_with(notes) if notes else turn.history)])
    return replace(ending, outcome="max_iterations") if unfinished and ending.outcome == "answered" else ending


def listed(works: Sequence[Work]) -> str:
    return "\n".join(f"{number}. {work}" for number, work in enumerate(works, 1))


def _nothing_done(turn: Turn, works: Sequence[Work]) -> NodeError:
    told = "; ".join(f"{work.task[:100]!r}: {work.text}" for work in works)
    return ProviderUnavailable(f"No worker of agent {turn.agent.name!r} could do its task. {told}")
