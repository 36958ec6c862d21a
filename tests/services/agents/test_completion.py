"""Model answers are put together from whole messages and from deltas, also from servers that are loose with the protocol."""

import json
import math
from typing import Any

import pytest
from starlette.responses import Response

from app.errors import ProviderError
from app.services.agents.cast import ModelChoice
from app.services.agents.completion import Draft, ToolCall
from app.services.agents.events import Voice, silence
from app.services.agents.model import Model


def drafted(*deltas: dict[str, Any]) -> tuple[ToolCall, ...]:
    draft = Draft("m")
    for delta in deltas:
        draft.add({"choices": [{"delta": {"tool_calls": [delta]}}]})
    return draft.complete().tool_calls


def test_calls_without_an_index_begin_with_an_id_or_a_name() -> None:
    made = drafted(
        {"id": "a", "function": {"name": "f", "arguments": "{"}},
        {"function": {"arguments": "}"}},
        {"id": "b", "function": {"name": "g", "arguments": "{}"}},
    )
    assert made == (ToolCall("a", "f", "{}"), ToolCall("b", "g", "{}"))


def test_interleaved_calls_are_told_apart_by_their_index() -> None:
    made = drafted(
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": "[1"}},
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": "[2"}},
        {"index": 1, "function": {"arguments": "]"}},
        {"index": 0, "function": {"arguments": "]"}},
    )
    assert made == (ToolCall("a", "f", "[2]"), ToolCall("b", "g", "[1]"))


def test_arguments_that_come_as_an_object_become_text() -> None:
    assert drafted({"id": "a", "function": {"name": "f", "arguments": {"x": 1}}})[0].arguments == '{"x": 1}'


@pytest.mark.parametrize("ids", [("", ""), ("same", "same")])
def test_every_call_has_an_id_of_its_own(ids: tuple[str, str]) -> None:
    made = drafted(*({"index": index, "id": id_, "function": {"name": "f"}} for index, id_ in enumerate(ids)))
    assert len({call.id for call in made} - {""}) == 2


def calling(index: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "a"}, {"index": index, "id": "b"}]}, "message": None}]}


def saying(content: Any, **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content}, **more}]}


NONSENSE = [
    '{"choices": []}',
    *map(json.dumps, (calling("1"), calling([1]), calling(1.5), saying([{"text": "x"}]), saying("x", finish_reason={}))),
    json.dumps({**saying("x"), "model": [1]}),
    json.dumps({**saying("x"), "usage": {"prompt_tokens": math.inf}}),
    "[" * 100_000,
    "null",
    "nonsense",
]


@pytest.mark.parametrize("body", NONSENSE)
async def test_an_answer_that_is_no_completion_is_a_provider_error(body: str) -> None:
    model = Model(lambda service, key: Response(body), [ModelChoice("m")], {})
    with pytest.raises(ProviderError, match="'m' gave an answer that is no chat completion"):
        await model.complete({"messages": []}, None)


@pytest.mark.parametrize("body", NONSENSE[1:])
async def test_a_chunk_that_is_none_is_a_provider_error_that_tells_nothing_of_it(body: str) -> None:
    model = Model(lambda service, key: Response(f"data: {body}\n\n"), [ModelChoice("m")], {})
    with pytest.raises(ProviderError, match="'m' sent something that is no part of a chat completion") as caught:
        await model.complete({"messages": []}, Voice(1, "reasoner", silence))
    assert body[:10] not in caught.value.message
