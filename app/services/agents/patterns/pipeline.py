"""pipeline: one stage after the other, each given what the one before it made. The last one's is the answer; one that fails ends it."""

from collections.abc import Mapping

from app.errors import NodeError, ProviderError
from app.services.agents.loop import NO_ANSWER, Ending
from app.services.agents.turn import Turn

_STAGE = "This work goes through the stages {stages}, one after the other. Yours is {stage}: do that, nothing of the others, and give "
_ITS_RESULT = "its result with all that the next stage needs, and nothing else."
_THE_ANSWER = "the answer to the user."
_GIVEN = "You are given the result of the stage before yours. What all this is for: {query}"


async def run(turn: Turn) -> Ending:
    *before, last = turn.agent.cast.stages
    results: dict[str, str] = {}
    truncated = False
    for stage in before:
        ending = await _run(turn, stage, results)
        truncated = truncated or ending.outcome == "truncated"
        results[stage] = _result(turn, stage, ending)
    ending = await _run(turn, last, results)
    outcome = "truncated" if truncated and ending.outcome == "answered" else ending.outcome
    return Ending(ending.answer, outcome, [{"role": "assistant", "content": ending.answer}])


async def _run(turn: Turn, stage: str, results: Mapping[str, str]) -> Ending:
    """One stage. Its errors name it."""
    role, given = f"stage:{stage}", list(results.values())[-1:]
    loop = turn.ask_for_answer(role) if stage == turn.agent.cast.stages[-1] else turn.ask_aside(role)
    more = {**results, "stages": results, "input": given[0] if given else turn.query}
    told = await turn.told(role, _default(turn, stage, bool(given)), **more)
    try:
        return await loop.run([*turn.prompt(told), *([{"role": "user", "content": given[0]}] if given else turn.history)], turn.tools)
    except NodeError as error:
        raise error.prefaced(f"The stage {stage!r} of agent {turn.agent.name!r} failed") from None


def _result(turn: Turn, stage: str, ending: Ending) -> str:
    """What the next stage is given. Raises ProviderError where there is nothing."""
    withheld, nothing = ending.outcome == "content_filter", NO_ANSWER.format(limit=turn.agent.max_iterations)
    if withheld or ending.answer.strip() in ("", nothing):
        why = "was withheld by its provider" if withheld else "is empty"
        raise ProviderError(f"The result of the stage {stage!r} of agent {turn.agent.name!r} {why}; there is nothing to go on from.")
    return ending.answer


def _default(turn: Turn, stage: str, given: bool) -> str:
    stages = turn.agent.cast.stages
    told = _STAGE.format(stages=", ".join(stages), stage=stage) + (_THE_ANSWER if stage == stages[-1] else _ITS_RESULT)
    return f"{told}\n\n{_GIVEN.format(query=turn.query)}" if given else told
