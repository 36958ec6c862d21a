"""Answers as validated data: what the model is told, how an answer is repaired, and what happens when it cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import BadRequest, OutputInvalid
from tests.services.agents.test_chat import client
from tests.services.agents.test_files import library
from tests.services.agents.world import CALCULATOR, Memory, ScriptedModel, Tools, agent_file, agents, ask, calculator, calls, events
from tests.support import Neighbours

FIELDS = {"city": {"type": "string"}, "people": {"type": "integer", "minimum": 0}, "note": {"type": "string", "required": False}}
GOOD = {"city": "Oslo", "people": 7}
GOOD_TEXT = json.dumps(GOOD)


async def test_a_valid_answer_is_data_and_the_model_was_told_the_form_in_both_ways(tmp_path: Path) -> None:
    agent_file(tmp_path, output_schema=FIELDS, prompts={"system": "Be brief."})
    model = ScriptedModel([GOOD_TEXT])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        result = await ask(app)
    assert (result["data"], json.loads(result["answer"]), result["outcome"]) == (GOOD, GOOD, "answered")
    schema = model.requests[0]["response_format"]["json_schema"]["schema"]
    assert (schema["required"], schema["additionalProperties"]) == (["city", "people"], False)
    [system, _] = model.requests[0]["messages"]
    assert system["content"].startswith("Be brief.\n\n")
    assert json.dumps(schema) in system["content"]


@pytest.mark.parametrize("wrapped", [f"```json\n{GOOD_TEXT}\n```", f"Here you are: {GOOD_TEXT} Anything else?"])
async def test_an_answer_in_a_wrapping_is_unwrapped(tmp_path: Path, wrapped: str) -> None:
    agent_file(tmp_path, output_schema=FIELDS)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([wrapped]))) as app:
        result = await ask(app)
    assert (result["data"], result["answer"]) == (GOOD, GOOD_TEXT)


async def test_an_invalid_answer_is_repaired_and_memory_keeps_the_good_one_alone(tmp_path: Path) -> None:
    agent_file(tmp_path, output_schema=FIELDS, memory={"conversational": {}})
    model, memory = ScriptedModel(["No JSON at all", '{"city": 5, "people": -1, "x": 1}', GOOD_TEXT]), Memory()
    async with agents(tmp_path, Neighbours(inference=model, memory=memory)) as app:
        result = await ask(app, "Where?", session_id="s")
    assert (result["data"], len(result["steps"]), result["usage"]["tokens_out"]) == (GOOD, 3, 9)
    complaint = model.requests[2]["messages"][-1]["content"]
    assert "$.city" in complaint
    assert "$.people" in complaint
    assert [message["content"] for message in memory.turns["tester", "s"][0]] == ["Where?", GOOD_TEXT]


async def test_an_answer_that_stays_invalid_is_an_error_that_says_what_is_wrong(tmp_path: Path) -> None:
    agent_file(tmp_path, output_schema=FIELDS, memory={"conversational": {}})
    memory = Memory()
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(['{"city": "Oslo"}'] * 3), memory=memory)) as app:
        with pytest.raises(OutputInvalid, match=r"after 2 repairs: .*'people' is a required property") as raised:
            await ask(app)
    assert (raised.value.status, raised.value.code, memory.turns) == (502, "output_invalid", {})


async def test_with_tools_the_form_is_asked_for_by_words_until_the_repair(tmp_path: Path) -> None:
    agent_file(tmp_path, output_schema=FIELDS, tools=[CALCULATOR])
    model = ScriptedModel([calls(("calculator", {"expression": "2+2"})), "Four.", GOOD_TEXT])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))) as app:
        assert (await ask(app))["data"] == GOOD
    assert ["response_format" in request for request in model.requests] == [False, False, True]


async def test_a_server_that_refuses_the_response_format_is_asked_without_it(tmp_path: Path) -> None:
    agent_file(tmp_path, output_schema=FIELDS)
    answers = ["No.", GOOD_TEXT]

    def answer(request: Any) -> Any:
        return BadRequest("response_format is unknown here") if "response_format" in request else answers.pop(0)

    async with agents(tmp_path, Neighbours(inference=ScriptedModel([answer] * 4))) as app:
        assert (await ask(app))["data"] == GOOD


async def test_streams_tell_the_valid_answer_alone(tmp_path: Path) -> None:
    agent_file(tmp_path, output_schema=FIELDS)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["Not yet.", GOOD_TEXT]))) as app:
        streamed = await events(app)
    assert [data["text"] for kind, data in streamed if kind == "token"] == [GOOD_TEXT]
    assert (streamed[-1][0], streamed[-1][1]["data"]) == ("done", GOOD)


async def test_a_chat_completion_is_the_json_streaming_and_not(tmp_path: Path) -> None:
    agent_file(tmp_path, output_schema=FIELDS)
    asked: list[Any] = [{"role": "user", "content": "Go."}]
    async with client(tmp_path, Neighbours(inference=ScriptedModel(["Hm.", GOOD_TEXT, "Hm.", GOOD_TEXT]))) as sdk:
        whole = await sdk.chat.completions.create(model="agent/tester", messages=asked)
        stream = await sdk.chat.completions.create(model="agent/tester", messages=asked, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (GOOD_TEXT, "stop")
    assert "".join(chunk.delta.content or "" for chunk in chunks) == GOOD_TEXT
    assert chunks[-1].finish_reason == "stop"


async def test_an_escape_in_the_json_hides_nothing_from_the_guardrails(tmp_path: Path) -> None:
    schema = {"mail": {"type": "string"}}
    agent_file(tmp_path, output_schema=schema, guardrails={"output": [{"type": "pii_detection", "action": "redact"}]})
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(['{"mail": "ada\\u0040example.com"}']))) as app:
        result = await ask(app)
    assert (result["data"], result["answer"]) == ({"mail": "[EMAIL_REDACTED]"}, '{"mail": "[EMAIL_REDACTED]"}')


@pytest.mark.parametrize(
    ("schema", "told"),
    [({"a": {"type": "strin"}}, "is no JSON Schema"), ({"a": {"$ref": "http://127.0.0.1:1/x"}}, "which is not in it")],
)
def test_a_schema_that_cannot_be_used_is_an_error_of_the_file(tmp_path: Path, schema: dict[str, Any], told: str) -> None:
    agent_file(tmp_path, output_schema=schema)
    [broken] = library(tmp_path).broken
    assert "spec.output_schema" in str(broken.problems[0])
    assert told in str(broken.problems[0])


def test_a_whole_object_schema_is_taken_as_it_is(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}}
    agent_file(tmp_path, output_schema=schema)
    assert library(tmp_path).describe("tester")["output_schema"] == schema


async def test_an_answer_that_takes_too_long_to_check_is_an_error_and_not_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.agents.patience.CPU_S", 0.05)
    doubling = {f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(40)} | {"d40": True}
    agent_file(tmp_path, output_schema={"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": doubling})
    model = ScriptedModel(['{"a": 1}'])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        with pytest.raises(OutputInvalid, match=r"checking takes more than 0\.05 s; make the schema simpler"):
            await ask(app)
    assert len(model.requests) == 1
