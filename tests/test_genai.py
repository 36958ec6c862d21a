"""Messages as spans keep them."""

from typing import Any

from app.genai import as_text, shaped
from app.tracing import Recorder, span


def test_messages_become_roles_and_parts() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "calculator", "arguments": '{"expression": "1+1"}'}}
    told = shaped(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:…"}}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
            {"role": "assistant", "content": "Two.", "finish_reason": "stop"},
        ]
    )
    assert told == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "What is this?"}, {"type": "image_url"}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c1", "name": "calculator", "arguments": '{"expression": "1+1"}'}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "2"}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "Two."}], "finish_reason": "stop"},
    ]


def test_no_shape_makes_it_fail() -> None:
    odd: list[Any] = [
        None,
        5,
        "text",
        [],
        {},
        {"role": 5, "content": {"a": 1}},
        {"tool_calls": 7},
        {"tool_calls": [7, {"function": 3}]},
        {"content": [7]},
    ]
    assert len(shaped(odd)) == len(odd)


def test_what_is_nested_too_deeply_is_not_shown_and_does_no_harm() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert "too deeply" in as_text(deep)
    assert "too deeply" in shaped([{"content": deep}, {"role": "user", "content": {"a": deep}}])[1]["parts"][0]["content"]
    recorder = Recorder(content=True)
    with recorder.accept(f"00-{1:032x}-{1:016x}-01", ""), span("x") as told:
        told.tell("a", deep)
    assert told.content == {"a": "(nested too deeply to be shown)"}
