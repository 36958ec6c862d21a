import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.body import check, validator
from app.errors import InvalidBody
from app.services.inference.builtin import OWNED_BY, respond
from app.services.inference.places import find_zones
from tests.services.inference.fakes import QUESTION, SCHEMA, ask, content_of, events, inference

TEXT = {"type": "string"}


def tool(name: str, properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    shape = {"type": "object", "properties": properties, "required": list(properties) if required is None else required}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": shape}}


TOOLS = [
    tool("datetime_now", {"timezone": TEXT}, []),
    tool("calculator", {"expression": TEXT}),
    tool("get_weather", {"city": TEXT}),
    tool("send_email", {"to": TEXT, "body": TEXT}),
    tool("researcher", {"query": TEXT}),
    tool("set_volume", {"level": {"type": "integer"}, "room": {"type": "string", "enum": ["kitchen", "hall"]}}),
]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def called(question: str, **more: Any) -> list[tuple[str, dict[str, Any]]]:
    return respond({"messages": [user(question)], "tools": TOOLS, **more})[1]


def told(*messages: dict[str, Any]) -> str:
    return respond({"messages": list(messages), "tools": TOOLS})[0]


def after(question: str, *results: tuple[str, dict[str, Any], str]) -> list[dict[str, Any]]:
    """The messages of a run in which those calls were made at once, with these results."""
    calls = [{"id": f"c{at}", "function": {"name": name, "arguments": json.dumps(given)}} for at, (name, given, _) in enumerate(results)]
    told = [{"role": "tool", "tool_call_id": f"c{at}", "content": content} for at, (_, _, content) in enumerate(results)]
    return [user(question), {"role": "assistant", "content": None, "tool_calls": calls}, *told]


@pytest.mark.parametrize(
    ("question", "expression"),
    [
        ("What is 17*23?", "17*23"),
        ("12 plus 7", "12 + 7"),
        ("how much is 5 minus 3.", "5 - 3"),
        ("10 x 4", "10 * 4"),
        ("9 divided by 2", "9 / 2"),
        ("(2 + 3) * (4 - 1)?", "(2 + 3) * (4 - 1)"),
        ("tell me (what is 2+3)", "2+3"),
        ("2 to the power of 10", "2 ** 10"),
        ("what's the square root of 2?", "2 ** 0.5"),
        ("15% of 80", "15 / 100 * 80"),
        ("12 squared", "12 ** 2"),
        ("1,234 times 2", "1234 * 2"),
        ("-3.5 + 1", "-3.5 + 1"),
    ],
)
def test_arithmetic_goes_to_the_tool_that_takes_an_expression(question: str, expression: str) -> None:
    assert called(question) == [("calculator", {"expression": expression})]


@pytest.mark.parametrize("text", ["on 2024-01-02 we met", "gpt-4 is here", "I have 3 apples", "how many times did you go?", "hello", ""])
def test_what_is_no_arithmetic_is_not_calculated(text: str) -> None:
    assert called(text) == []


@pytest.mark.parametrize(
    ("question", "zones"),
    [
        ("What time is it in Tokyo?", ["Asia/Tokyo"]),
        ("what's the time in new york and london", ["America/New_York", "Europe/London"]),
        ("Tell me the date in Japan", ["Japan"]),
        ("What day is it?", ["UTC"]),
        ("current time at Europe/Berlin", ["Europe/Berlin"]),
    ],
)
def test_time_goes_to_the_tool_that_takes_a_time_zone(question: str, zones: list[str]) -> None:
    assert called(question) == [("datetime_now", {"timezone": zone}) for zone in zones]


def test_independent_questions_become_parallel_calls() -> None:
    assert called("What is 17*23, and what time is it in Tokyo?") == [
        ("calculator", {"expression": "17*23"}),
        ("datetime_now", {"timezone": "Asia/Tokyo"}),
    ]
    assert called("What is 1+1 and 2+2?") == [("calculator", {"expression": "1+1"}), ("calculator", {"expression": "2+2"})]


@pytest.mark.parametrize(
    ("question", "call"),
    [
        ("What's the weather in Paris?", ("get_weather", {"city": "Paris"})),
        ("weather, please: New Delhi", ("get_weather", {"city": "New Delhi"})),
        ('Send an email to bob@x.org with body "hi there"', ("send_email", {"to": "bob@x.org", "body": "hi there"})),
        ("Ask the researcher about black holes", ("researcher", {"query": "black holes"})),
        ("set the volume to 7 in the kitchen", ("set_volume", {"level": 7, "room": "kitchen"})),
    ],
)
def test_any_tool_whose_name_the_question_speaks_of_is_called(question: str, call: tuple[str, dict[str, Any]]) -> None:
    assert called(question) == [call]


@pytest.mark.parametrize("question", ["send an email", "set the volume", "Did it rain?", "what is the weather?"])
def test_a_tool_is_not_called_without_what_it_requires(question: str) -> None:
    assert called(question) == []


def test_tool_choice_and_parallel_calls_are_obeyed() -> None:
    both = "What is 17*23, and what time is it in Tokyo?"
    assert called(both, tool_choice="none") == []
    assert called(both, tool_choice={"type": "function", "function": {"name": "datetime_now"}}) == [
        ("datetime_now", {"timezone": "Asia/Tokyo"})
    ]
    assert called("hello", tool_choice={"type": "function", "function": {"name": "set_volume"}})[0][0] == "set_volume"
    assert len(called("hello", tool_choice="required")) == 1
    first = called(both, parallel_tool_calls=False)
    assert first == [("calculator", {"expression": "17*23"})]
    messages = after(both, ("calculator", {"expression": "17*23"}, "391"))
    assert respond({"messages": messages, "tools": TOOLS, "parallel_tool_calls": False})[1] == [
        ("datetime_now", {"timezone": "Asia/Tokyo"})
    ]


def test_results_make_the_answer() -> None:
    answer = told(
        *after(
            "What is 17*23, and what time is it in Tokyo?",
            ("calculator", {"expression": "17*23"}, '{"tool": "calculator", "result": 391, "status": "ok"}'),
            ("datetime_now", {"timezone": "Asia/Tokyo"}, '{"result": {"iso": "2026-01-02T03:04:05+09:00", "weekday": "Friday"}}'),
        )
    )
    assert answer == "17*23 = 391. In Asia/Tokyo it is 2026-01-02T03:04:05+09:00."


@pytest.mark.parametrize(
    ("content", "shown"),
    [("sunny", "sunny"), ('"sunny"', "sunny"), ('{"sky": "blue"}', "blue"), ('{"answer": {"text": "fine"}}', "fine"), ("[1, 2]", "[1, 2]")],
)
def test_results_of_any_shape_are_told(content: str, shown: str) -> None:
    assert shown in told(*after("weather in Paris", ("get_weather", {"city": "Paris"}, content)))


@pytest.mark.parametrize(
    "content", ["Error: no such city", '{"error": "no such city"}', '{"status": "error", "error": {"message": "no such city"}}']
)
def test_a_tools_error_is_told_and_the_call_not_repeated(content: str) -> None:
    messages = after("What's the weather in Qwx?", ("get_weather", {"city": "Qwx"}, content))
    text, calls = respond({"messages": messages, "tools": TOOLS})
    assert calls == []
    assert text.startswith("get_weather failed:")
    assert "no such city" in text


def test_results_of_an_earlier_turn_do_not_answer_this_one() -> None:
    earlier = after("What is 1+1?", ("calculator", {"expression": "1+1"}, "2"))
    assert respond({"messages": [*earlier, said("1+1 = 2."), user("What is 1+1?")], "tools": TOOLS})[1] == [
        ("calculator", {"expression": "1+1"})
    ]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is my name?", "Your name is Ada."),
        ("who am I?", "Your name is Ada."),
        ("Do you remember my favourite colour?", "Your favourite colour is green."),
        ("What is my age?", "You have not told me your age."),
        ("Where is the key?", "You said: “The key is under the mat.”"),
        ("What did I ask before?", "You asked: “What is 17*23?” I answered: “17*23 = 391.”"),
        ("What was the result?", "You asked: “What is 17*23?” I answered: “17*23 = 391.”"),
        ("What did I say first?", "You asked: “My name is Ada and my favourite colour is green.” I answered: “Noted.”"),
    ],
)
def test_what_was_said_before_is_recalled(question: str, answer: str) -> None:
    before = [
        user("My name is Ada and my favourite colour is green."),
        said("Noted."),
        user("The key is under the mat."),
        said("Noted."),
        user("What is 17*23?"),
        said("17*23 = 391."),
    ]
    assert told(*before, user(question)) == answer


def test_without_anything_before_it_says_so() -> None:
    assert told(user("What did I ask before?")) == "Nothing was said before."
    assert told(user("My name is Ada.")) == "Noted: your name is Ada."


def test_what_fits_no_rule_is_answered_openly_with_the_question() -> None:
    answer = told(user("Write me a poem"))
    assert "not a language model" in answer
    assert "“Write me a poem”" in answer


def test_places_are_found_in_their_order() -> None:
    assert find_zones("from Buenos Aires, via UTC to asia/kolkata") == ["America/Buenos_Aires", "UTC", "Asia/Kolkata"]
    assert find_zones("nowhere to be found") == []


async def test_an_answer_is_streamed_word_by_word_and_is_the_same_as_the_whole_one(tmp_path: Path) -> None:
    async with inference(tmp_path) as app:
        whole = await ask(app, "/v1/chat/completions", {**QUESTION, "model": "builtin"})
        lines = await events(app, "builtin", stream_options={"include_usage": True})
    text = whole["choices"][0]["message"]["content"]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert content_of(lines) == text
    assert len(chunks) == len(text.split()) + 3
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert (
        chunks[-1]["usage"]
        == whole["usage"]
        == {
            "prompt_tokens": 1,
            "completion_tokens": len(text.split()),
            "total_tokens": 1 + len(text.split()),
        }
    )
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert lines[-1] == "data: [DONE]"


async def test_calls_are_streamed_and_finish_as_tool_calls(tmp_path: Path) -> None:
    messages = [user("What is 17*23, and what time is it in Tokyo?")]
    async with inference(tmp_path) as app:
        lines = await events(app, "builtin", messages=messages, tools=TOOLS)
        whole = await ask(app, "/v1/chat/completions", {"model": "builtin", "messages": messages, "tools": TOOLS})
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "calculator"), (1, "datetime_now")]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert whole["choices"][0]["message"]["content"] is None
    assert len({call["id"] for call in whole["choices"][0]["message"]["tool_calls"]}) == 2


async def test_max_tokens_cuts_the_answer(tmp_path: Path) -> None:
    async with inference(tmp_path) as app:
        found = await ask(app, "/v1/chat/completions", {**QUESTION, "model": "builtin", "max_tokens": 3})
    assert found["choices"][0]["message"]["content"] == "I am the"
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 3


async def test_half_of_a_surrogate_pair_is_repeated(tmp_path: Path) -> None:
    async with inference(tmp_path) as app:
        for stream in (False, True):
            messages = [user("poem \ud83d")]
            if stream:
                assert "poem \ud83d" in content_of(await events(app, "builtin", messages=messages))
            else:
                found = await ask(app, "/v1/chat/completions", {"model": "builtin", "messages": messages})
                assert "poem \ud83d" in found["choices"][0]["message"]["content"]


async def test_it_says_that_it_is_no_language_model(tmp_path: Path) -> None:
    async with inference(tmp_path) as app:
        (row,) = (await ask(app, "/v1/models"))["data"]
    assert (row["id"], row["owned_by"]) == ("builtin", OWNED_BY)
    assert "not a language model" in OWNED_BY


def test_it_stays_within_its_three_hundred_lines() -> None:
    path = Path(__file__).parents[3] / "app" / "services" / "inference" / "builtin.py"
    assert len(path.read_text("utf-8").splitlines()) <= 300


WORDS = [
    "what",
    "time",
    "in",
    "Tokyo",
    "17*23",
    "((",
    "my name is",
    "?",
    "weather",
    "and",
    "did I ask",
    '"',
    "2 plus",
    "call me",
    "was the answer",
]
content = st.one_of(
    st.none(),
    st.text(max_size=60),
    st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join),
    st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=20)}), max_size=2),
)
call = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["c0", "c1"]),
        "function": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["calculator", "x"]),
                "arguments": st.one_of(st.text(max_size=9), st.just('{"expression": "1"}'), st.just("[[1]]")),
            }
        ),
    }
)
message = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": content}),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": content, "tool_calls": st.one_of(st.none(), st.lists(call, max_size=2))}
    ),
    st.fixed_dictionaries({"role": st.just("tool"), "content": content, "tool_call_id": st.sampled_from(["c0", "c1", "c2"])}),
)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3), max_leaves=4
)
parameter = st.one_of(
    json_value,
    st.fixed_dictionaries({"type": st.one_of(json_value, st.sampled_from(["string", "integer", "object"]))}, optional={"enum": json_value}),
)
name = st.one_of(st.text(max_size=10), st.sampled_from(["get_weather", "time", "timezone", "expression", "(", "my_name"]))
shape = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {
            "properties": st.one_of(json_value, st.dictionaries(name, parameter, max_size=3)),
            "required": st.one_of(json_value, st.lists(name, max_size=3)),
        }
    ),
)
function = st.fixed_dictionaries({"name": name, "parameters": shape})
request = st.fixed_dictionaries(
    {"messages": st.lists(message, min_size=1, max_size=6)},
    optional={
        "tools": st.one_of(
            st.none(), st.lists(st.one_of(st.just(TOOLS[1]), st.builds(lambda each: {"function": each}, function)), max_size=3)
        ),
        "tool_choice": st.one_of(
            st.none(), st.sampled_from(["none", "auto", "required"]), st.builds(lambda each: {"function": {"name": each}}, name)
        ),
        "parallel_tool_calls": st.booleans(),
    },
)


@given(request)
def test_every_request_that_passes_the_schema_has_an_answer_and_always_the_same(body: dict[str, Any]) -> None:
    check(body, validator(SCHEMA["requests"]["chat_completion"]))
    first = respond(body)
    assert first == respond(json.loads(json.dumps(body)))
    text, calls = first
    assert bool(text) != bool(calls)
    assert all(json.loads(json.dumps(arguments)) == arguments for _, arguments in calls)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("text", ["(", "1+", "my ", "what ", "2 ", '"', "did i ", "((1", "my a is ", "tell me "])
def test_no_text_keeps_the_rules_busy_for_long(text: str) -> None:
    """Read whole, such texts keep some of the patterns busy for minutes."""
    hostile = text * (1_000_000 // len(text))
    respond({"messages": [user(hostile), user(hostile)], "tools": TOOLS})


@pytest.mark.parametrize("others", [[], [said("Hello.")], after("x", ("calculator", {"expression": "1+1"}, "2"))[1:]])
def test_a_system_message_is_never_taken_for_the_question(others: list[dict[str, Any]]) -> None:
    prompt = {"role": "system", "content": "Be brief. What is 2+2? My secret is blue."}
    text, calls = respond({"messages": [prompt, *others], "tools": TOOLS})
    assert text
    assert (calls, "brief" in text, "blue" in text, "You asked" in text) == ([], False, False, False)


def test_a_tools_error_is_told_as_one_and_not_as_the_value_of_the_expression() -> None:
    messages = after("What is 1/0?", ("calculator", {"expression": "1/0"}, "Error: Division by zero has no result."))
    assert told(*messages) == "calculator failed: Division by zero has no result."


@pytest.mark.parametrize("stream", [False, True])
async def test_several_answers_are_refused_rather_than_silently_one(tmp_path: Path, stream: bool) -> None:
    async with inference(tmp_path) as app:
        with pytest.raises(InvalidBody, match=r"n: is 2, and model 'builtin' gives one answer; leave it out") as raised:
            await ask(app, "/v1/chat/completions", {**QUESTION, "model": "builtin", "n": 2, "stream": stream})
        assert raised.value.param == "$.n"
        for one in (1, None):
            assert content_of(await events(app, "builtin", n=one))
