"""JSON bodies: what is refused, in which words, and that no body costs more than it should."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.body import JSONAnswer, check, parse_json, validator
from app.errors import InvalidBody, InvalidJSON

MESSAGES = validator({"type": "object", "properties": {"messages": {"type": "array", "items": {"required": ["role", "content"]}}}})


def test_a_violation_is_told_with_its_path() -> None:
    with pytest.raises(InvalidBody) as refused:
        check({"messages": [{"role": "user", "content": ""}, {"content": ""}]}, MESSAGES)
    assert refused.value.param == "$.messages[1]"
    assert "'role' is a required property" in refused.value.message


def test_a_million_violations_are_told_as_five() -> None:
    with pytest.raises(InvalidBody) as refused:
        check({"messages": [{}] * 1_000_000}, MESSAGES)
    assert refused.value.message.count("$.messages") == 5


@pytest.mark.parametrize("depth", range(50, 1000, 50))
def test_nesting_of_any_depth_is_refused_or_read_and_never_breaks_off(depth: int) -> None:
    with pytest.raises((InvalidBody, InvalidJSON)):
        check({"messages": parse_json(b"[" * depth + b"]" * depth)}, validator({"properties": {"messages": {"type": "string"}}}))


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(raw: bytes) -> None:
    with suppress(InvalidJSON):
        parse_json(raw)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters()), lambda each: st.lists(each) | st.dictionaries(st.text(), each)
    )
)
def test_an_answer_reads_back_as_it_was_also_with_half_a_surrogate_pair(value: object) -> None:
    assert parse_json(bytes(JSONAnswer(value).body)) == value


@pytest.mark.parametrize(("text", "value"), [("1.0", 1), ("-2e2", -200), ("1.5", 1.5), ("1e300", 1e300), ("0.1e1", 1)])
def test_what_json_schema_calls_an_integer_comes_as_one(text: str, value: float) -> None:
    [read] = parse_json(f"[{text}]".encode())
    assert (read, type(read)) == (value, type(value))


def test_a_number_that_no_float_holds_is_refused_in_words() -> None:
    with pytest.raises(InvalidJSON) as refused:
        parse_json(b'{"temperature": 1e999}')
    assert "the number 1e999 is too large" in refused.value.message
