"""A plan: what there is to do, in order, as a planner writes it in JSON. One that cannot be read is asked for once more."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from app.errors import ProviderError
from app.services.agents.completion import Message
from app.services.agents.turn import Turn

_FORMAT = (
    'Write JSON and nothing else: {{"{key}": ["...", "..."]}}, with at most {limit} entries; an empty list where nothing is to be done.'
)
_TRIES = 100
_TEXTS = ("task", "step", "description")


async def draw_up(turn: Turn, key: str, limit: int, told: str, messages: Sequence[Message]) -> list[str]:
    """What the planner, who is ``told`` how to go about it, lists under ``key``: at most ``limit`` entries.

    Raises ProviderError where that cannot be read at the second time either.
    """
    form = _FORMAT.format(key=key, limit=limit)
    asked = [*turn.prompt(await turn.told("planner", told), _tools(turn), form), *messages]
    loop, problem = turn.ask_aside("planner"), ""
    for _ in range(2):
        ending = await loop.run(asked)
        try:
            return _read(ending.answer, key, limit)
        except ValueError as error:
            problem = str(error)
        loop.added.append({"role": "user", "content": f"That cannot be used: {problem}. {form}"})
    raise ProviderError(f"The planner of agent {turn.agent.name!r} gave no plan, twice: {problem}; give the role `planner` a better model.")


def _tools(turn: Turn) -> str:
    functions = [tool["function"] for tool in turn.tools]
    if not functions:
        return "Whoever carries it out has no tools, only what a model knows."
    return "\n".join(["Whoever carries it out has these tools:", *(f"- {each['name']}: {each['description']}" for each in functions)])


def _read(text: str, key: str, limit: int) -> list[str]:
    """The entries of the first JSON object in ``text`` that holds a list of them. Raises ValueError with what is wrong."""
    entries = next((found[key] for found in _objects(text) if isinstance(found.get(key), list)), None)
    if entries is None:
        raise ValueError(f'there is no JSON object with a list "{key}" in it')
    if len(entries) > limit:
        raise ValueError(f"it has {len(entries)} entries, {limit} are allowed")
    texts = [_text(entry) for entry in entries]
    if not all(texts):
        raise ValueError(f'each entry of "{key}" must be a text, and not empty')
    return texts


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, which may have words before and after them."""
    decoder = json.JSONDecoder()
    for start in [index for index, character in enumerate(text) if character == "{"][:_TRIES]:
        try:
            yield decoder.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            continue


def _text(entry: Any) -> str:
    if isinstance(entry, dict):
        entry = next((entry[name] for name in _TEXTS if name in entry), None)
    return entry.strip() if isinstance(entry, str) else ""
