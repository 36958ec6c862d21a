"""Filters: what people may write, and what they are told when it means nothing."""

from typing import Any

import pytest

from app.errors import BadRequest
from app.services.rag.filtering import parse_filter
from app.services.rag.knowledge import Condition


@pytest.mark.parametrize(
    ("given", "conditions"),
    [
        (None, ()),
        ({}, ()),
        ({"team": "red"}, (Condition("team", "eq", ("red",)),)),
        ({"team": ["red", "blue"]}, (Condition("team", "eq", ("red", "blue")),)),
        ({"team": {"in": ["red"]}}, (Condition("team", "eq", ("red",)),)),
        ({"year": {"gte": 2020, "lt": 2026}}, (Condition("year", "gte", (2020,)), Condition("year", "lt", (2026,)))),
        ({"draft": False, "a.b": 1.5}, (Condition("draft", "eq", (False,)), Condition("a.b", "eq", (1.5,)))),
        ({"x": {"exists": False}, "y": {"ne": "z"}}, (Condition("x", "exists", (False,)), Condition("y", "ne", ("z",)))),
    ],
)
def test_a_filter_is_all_of_its_conditions(given: Any, conditions: Any) -> None:
    assert parse_filter(given) == conditions


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"x": {"like": "a%"}}, "the operator 'like'; there is eq, ne, gt, gte, lt, lte, exists, in"),
        ({"x": {}}, "an empty object"),
        ({"x": []}, "an empty list"),
        ({"x": None}, '{"exists": false} finds what lacks the key'),
        ({"x": [[1]]}, "values are texts, numbers, true and false"),
        ({"x": {"gt": True}}, "give one number or one text"),
        ({"x": {"gt": [1]}}, "give one number or one text"),
        ({"x": {"exists": 1}}, "give true or false"),
        ({"x": {"in": "a"}}, "give a list of values"),
    ],
)
def test_a_condition_that_means_nothing_is_refused_by_its_key(given: Any, told: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_filter(given)
    assert "The filter on 'x' has" in refused.value.message
    assert told in refused.value.message
    assert refused.value.param == "filter.x"


def test_a_filter_names_no_more_values_than_a_store_can_look_for() -> None:
    assert len(parse_filter({"x": list(range(10_000))})[0].values) == 10_000
    with pytest.raises(BadRequest, match="names 10001 values, and may name 10000; search in parts"):
        parse_filter({"x": list(range(10_000)), "y": 1})
