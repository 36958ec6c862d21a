"""Tools over their paths, and the bounds around any tool."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from app.body import validator
from app.call import call
from app.errors import InvalidBody, NodeError, ToolNotFound, UnsupportedMediaType
from app.services.tools import Tools
from app.services.tools.builtin import CONFIGURED
from app.services.tools.builtin.http_request import HttpRequestSettings
from app.services.tools.builtin.read_file import ReadFile
from app.services.tools.builtin.text_summarize import TextSummarize
from app.services.tools.registry import Registry, ToolSettings
from tests.support import mounted, node_context


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[ASGIApp]:
    async with mounted(Tools({}, node_context(tmp_path))) as routes:
        yield routes


async def ask(app: ASGIApp, method: str, path: str, body: Any = None) -> Any:
    async with call(app, method, path, body=body) as reply:
        assert reply.status == 200
        return await reply.json()


async def execute(app: ASGIApp, tool_name: str, **arguments: Any) -> Any:
    return await ask(app, "POST", "/v1/tools/execute", {"tool_name": tool_name, "arguments": arguments})


@pytest.mark.parametrize("path", ["/v1/tools", "/v1/tools/builtin"])
async def test_tools_are_listed_with_their_parameters(app: ASGIApp, path: str) -> None:
    answer = await ask(app, "GET", path)
    assert answer["count"] == len(answer["tools"])
    assert {tool["name"] for tool in answer["tools"]} == {"calculator", "datetime_now", *CONFIGURED, "json_transform", "knowledge_search"}
    for tool in answer["tools"]:
        assert tool.keys() - {"reason"} == {"name", "description", "parameters", "type", "available"}
        assert tool["available"] is (tool["name"] not in {"http_request", "read_file"})
        assert tool["type"] == "builtin"
        assert tool["parameters"]["additionalProperties"] is False
        validator(tool["parameters"])


async def test_an_execution_answers_with_result_status_and_duration(app: ASGIApp) -> None:
    answer = await execute(app, "calculator", expression="17*23")
    assert answer.pop("duration_ms") > 0
    assert answer == {"tool": "calculator", "status": "ok", "result": {"expression": "17*23", "result": 391}}


async def test_what_a_tool_cannot_do_is_an_answer_with_its_reason(app: ASGIApp) -> None:
    answer = await execute(app, "calculator", expression="1/0")
    assert (answer["status"], answer["result"], answer["error"]) == ("error", None, "Division by zero has no result.")
    assert (await execute(app, "datetime_now", timezone="Mars"))["status"] == "error"


async def test_arguments_may_be_left_out_where_none_is_required(app: ASGIApp) -> None:
    assert (await ask(app, "POST", "/v1/tools/execute", {"tool_name": "datetime_now"}))["result"]["timezone"] == "UTC"


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"expression": 5}, "$.arguments.expression"),
        ({}, "$.arguments"),
        ({"expression": "1", "precision": 3}, "$.arguments"),
        ({"expression": "1" * 1001}, "$.arguments.expression"),
    ],
)
async def test_bad_arguments_are_refused_with_their_path(app: ASGIApp, arguments: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidBody) as caught:
        await execute(app, "calculator", **arguments)
    assert caught.value.param == path
    assert caught.value.message.startswith(path + ":")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"arguments": {}}, InvalidBody),
        ({"tool_name": "calculator", "arguments": "1+1"}, InvalidBody),
        ({"tool_name": "calculator", "argument": {}}, InvalidBody),
        ([], InvalidBody),
        (b"{}", UnsupportedMediaType),
    ],
)
async def test_a_request_of_another_shape_is_refused(app: ASGIApp, body: Any, error: type[NodeError]) -> None:
    with pytest.raises(error):
        await ask(app, "POST", "/v1/tools/execute", body)


async def test_an_unknown_tool_is_not_found_and_the_nearest_is_named(app: ASGIApp) -> None:
    with pytest.raises(ToolNotFound, match=r"There is no tool 'calculater' here; did you mean `calculator`\?"):
        await execute(app, "calculater", expression="1")


async def test_half_a_surrogate_pair_in_arguments_is_answered_as_json(app: ASGIApp) -> None:
    answer = await execute(app, "calculator", expression="\ud800")
    assert answer["status"] == "error"


@dataclass(frozen=True, slots=True)
class Made:
    """A tool for these tests: it answers what it is told to."""

    answer: Callable[[], Any]
    name: str = "made"
    description: str = "made for a test"
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "additionalProperties": False})

    async def run(self, arguments: Mapping[str, Any]) -> Any:
        answer = self.answer()
        return await answer if asyncio.isfuture(answer) or asyncio.iscoroutine(answer) else answer


async def test_a_tool_that_takes_too_long_is_stopped() -> None:
    stopped = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    outcome = await Registry([Made(forever)], ToolSettings(execute_timeout_s=0.01)).execute("made", {})
    assert outcome.error == "made took longer than 0.01 s (spec.tools.execute_timeout_s); ask for less."
    assert stopped.is_set()
    assert outcome.duration_ms >= 10


async def test_a_result_that_is_too_large_is_not_passed_on() -> None:
    outcome = await Registry([Made(lambda: "x" * 2000)], ToolSettings(max_result_bytes=1024)).execute("made", {})
    assert outcome.result is None
    assert outcome.error == "made gave 2002 bytes, more than 1024 (spec.tools.max_result_bytes); ask for less."


@pytest.mark.parametrize("result", [object(), {1, 2}, float("nan"), {"a": float("inf")}])
async def test_a_result_that_json_cannot_carry_is_an_error_of_the_tool(result: Any) -> None:
    outcome = await Registry([Made(lambda: result)], ToolSettings()).execute("made", {})
    assert outcome.error is not None
    assert "JSON cannot carry" in outcome.error


async def test_a_timeout_of_the_callers_own_stays_the_callers() -> None:
    running = Registry([Made(lambda: asyncio.Event().wait())], ToolSettings(execute_timeout_s=30))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await running.execute("made", {})


async def test_the_check_names_the_tools(tmp_path: Path) -> None:
    service = Tools({}, node_context(tmp_path))
    told = (await service.check())["tools"].message
    assert told.startswith("there is calculator, datetime_now, json_transform, knowledge_search, text_summarize; http_request is off: ")
    assert service.facts().keys is None


def test_schema_settings_and_reference_agree() -> None:
    root = Path(__file__).parents[3]
    schema = json.loads((root / "app/services/tools/schema.json").read_bytes())["configuration"]
    validator(schema)
    fields = {each.name: each.default for each in dataclasses.fields(ToolSettings)}
    assert schema["properties"].keys() == fields.keys() | set(CONFIGURED)
    assert schema["additionalProperties"] is False
    reference = (root / "docs/tools.md").read_text()
    for name, default in fields.items():
        assert f"| `{name}` | {default} |" in reference


@pytest.mark.parametrize(
    ("tool", "settings"), [("http_request", HttpRequestSettings), ("read_file", ReadFile), ("text_summarize", TextSummarize)]
)
def test_schema_settings_and_reference_of_a_tool_agree(tool: str, settings: Any) -> None:
    root = Path(__file__).parents[3]
    schema = json.loads((root / "app/services/tools/schema.json").read_bytes())["configuration"]["properties"][tool]
    fields = {each.name: each.default for each in dataclasses.fields(settings) if each.name != "locate"}
    assert schema["properties"].keys() == fields.keys()
    assert schema["additionalProperties"] is False
    section = (root / "docs/tools.md").read_text().split(f"## `{tool}")[1].split("\n## ")[0]
    for name, default in fields.items():
        shown = default if isinstance(default, int | float | str) else "all" if name == "methods" else "none"
        assert f"| `{name}` | {shown} |" in section


@pytest.mark.parametrize(
    "host", ["example.org", "*.example.org", "*", "*:8443", "intranet:8080", "10.0.0.1", "[2001:db8::1]:8080", "[::1]"]
)
def test_a_host_may_be_allowed(host: str) -> None:
    assert not list(_configuration().iter_errors({"http_request": {"allow": [host]}}))


@pytest.mark.parametrize(
    "host", ["", "https://example.org", "example.org/path", "a b", "::1", "*:*", "user@host", "bücher.example", "host:"]
)
def test_what_would_never_match_a_host_cannot_be_allowed(host: str) -> None:
    assert list(_configuration().iter_errors({"http_request": {"allow": [host]}}))


def _configuration() -> Any:
    return validator(json.loads((Path(__file__).parents[3] / "app/services/tools/schema.json").read_bytes())["configuration"])


async def test_the_reference_names_every_tool(app: ASGIApp) -> None:
    reference = (Path(__file__).parents[3] / "docs/tools.md").read_text()
    for tool in (await ask(app, "GET", "/v1/tools"))["tools"]:
        assert f"## `{tool['name']}" in reference
