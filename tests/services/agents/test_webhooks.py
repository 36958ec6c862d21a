"""Webhook tools and permissions: what an agent may use, and what of it is never shown."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route, Router

from app.errors import ConfigError
from app.services.agents import Agents
from app.services.agents.library import Library
from app.services.agents.settings import Orchestration
from tests.services.agents.world import ScriptedModel, Tools, agent_file, ask, calculator, calls, told
from tests.support import Neighbours, mounted, node_context, serve

SECRET = "a-secret-of-the-shop"


class Shop:
    """A web server with hooks that notes what it gets."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, str], Any]] = []

    async def _note(self, request: Request) -> None:
        self.asked.append(({name: ", ".join(request.headers.getlist(name)) for name in request.headers}, await request.json()))

    async def status(self, request: Request) -> Response:
        await self._note(request)
        return JSONResponse({"order": "A7", "state": "sent"})

    async def text(self, request: Request) -> Response:
        return PlainTextResponse("it is on its way")

    async def nan(self, request: Request) -> Response:
        return Response('{"price": NaN}', media_type="application/json")

    async def broken(self, request: Request) -> Response:
        return PlainTextResponse("out of order", 500)

    async def away(self, request: Request) -> Response:
        return RedirectResponse("/status", 307)

    async def repeating(self, request: Request) -> Response:
        return JSONResponse({"you_sent": request.headers["authorization"]}, 401 if request.query_params else 200)

    def app(self) -> Router:
        pages = (self.status, self.text, self.nan, self.broken, self.away, self.repeating)
        return Router([Route(f"/{page.__name__}", page, methods=["POST"]) for page in pages])


@pytest.fixture
async def shop() -> AsyncIterator[tuple[Shop, str]]:
    made = Shop()
    async with serve(made.app()) as url:
        yield made, url


async def run(folder: Path, model: ScriptedModel, environ: dict[str, str] | None = None) -> Any:
    neighbours = Neighbours(inference=model, tools=Tools({"calculator": calculator}))
    async with mounted(Agents({}, node_context(folder, neighbours, environ))) as app:
        return await ask(app)


def hook(url: str, **more: Any) -> dict[str, Any]:
    return {"name": "order_status", "type": "webhook", "url": url, "parameters": {"order": {"type": "string", "required": True}}, **more}


async def test_a_webhook_gets_the_arguments_and_its_answer_is_the_result(tmp_path: Path, shop: tuple[Shop, str]) -> None:
    server, url = shop
    written = {"Authorization": "Bearer ${SHOP_TOKEN}", "content-type": "application/vnd.shop+json", "user-agent": "clerk"}
    agent_file(tmp_path, tools=[hook(f"{url}/status", headers=written)])
    (tmp_path / "token").write_text(SECRET + "\n")
    model = ScriptedModel([calls(("order_status", {"order": "A7"})), "It was sent."])
    result = await run(tmp_path, model, {"SHOP_TOKEN_FILE": str(tmp_path / "token")})
    [(headers, body)] = server.asked
    assert (headers["content-type"], headers["user-agent"]) == ("application/vnd.shop+json", "clerk")
    assert (headers["authorization"], body) == (f"Bearer {SECRET}", {"order": "A7"})
    assert result["steps"][0]["tool_calls"][0]["result"] == {"order": "A7", "state": "sent"}
    assert model.requests[0]["tools"][0]["function"]["parameters"]["required"] == ["order"]
    assert SECRET not in json.dumps([result, model.requests])
    assert url not in json.dumps([result, model.requests])


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("text", "it is on its way"),
        ("nan", '{"price": NaN}'),
        ("broken", "Error: The webhook answered 500: out of order"),
        ("away", "Error: The webhook answered 307: "),
    ],
)
async def test_whatever_a_webhook_answers_the_model_is_told(tmp_path: Path, shop: tuple[Shop, str], path: str, said: str) -> None:
    agent_file(tmp_path, tools=[hook(f"{shop[1]}/{path}")])
    model = ScriptedModel([calls(("order_status", {"order": "A7"})), "Done."])
    await run(tmp_path, model)
    assert told(model.requests[1]) == [said]
    assert not shop[0].asked


@pytest.mark.parametrize("path", ["repeating", "repeating?refuse=1"])
async def test_a_secret_that_a_webhook_repeats_is_not_shown(tmp_path: Path, shop: tuple[Shop, str], path: str) -> None:
    agent_file(tmp_path, tools=[hook(f"{shop[1]}/{path}", headers={"Authorization": "Bearer ${SHOP_TOKEN}"})])
    model = ScriptedModel([calls(("order_status", {"order": "A7"})), "Done."])
    result = await run(tmp_path, model, {"SHOP_TOKEN": SECRET})
    assert "you_sent" in told(model.requests[1])[0]
    assert SECRET not in json.dumps([result, model.requests])


async def test_arguments_that_do_not_fit_are_told_to_the_model_and_not_posted(tmp_path: Path, shop: tuple[Shop, str]) -> None:
    server, url = shop
    model = ScriptedModel([calls(("order_status", {"order": 7}), ("order_status", {})), "Done."])
    agent_file(tmp_path, tools=[hook(f"{url}/status")])
    await run(tmp_path, model)
    wrong, missing = told(model.requests[1])
    assert wrong == "Error: $.order: 7 is not of type 'string'"
    assert missing.startswith("Error: $: 'order' is a required property")
    assert not server.asked


async def test_a_schema_that_refers_elsewhere_fetches_nothing(tmp_path: Path, shop: tuple[Shop, str]) -> None:
    server, url = shop
    fetched = f"{url}/status"
    agent_file(tmp_path, tools=[{**hook(fetched), "parameters": {"order": {"$ref": fetched}}}])
    model = ScriptedModel([calls(("order_status", {"order": "A7"})), "Done."])
    await run(tmp_path, model)
    assert f"the schema refers to '{fetched}', which is not in it" in told(model.requests[1])[0]
    assert not server.asked


async def test_a_webhook_that_is_away_is_told_without_its_path(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[hook("http://127.0.0.1:1/hooks/T00/very-secret")])
    model = ScriptedModel([calls(("order_status", {"order": "A7"})), "Done."])
    await run(tmp_path, model)
    assert told(model.requests[1])[0].startswith("Error: http://127.0.0.1:1 cannot be reached: ")
    assert "very-secret" not in told(model.requests[1])[0]


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ({"name": "h", "type": "webhook"}, "spec.tools[0].url: is missing; write the URL"),
        ({"name": "h", "type": "webhook", "url": "shop"}, "spec.tools[0].url: "),
        ({"name": "h", "type": "webhook", "url": "http://x", "headers": {"A": "${NONE}"}}, "names ${NONE}, which is not set; set NONE"),
        (
            {"name": "h", "type": "webhook", "url": "http://x", "headers": {"A": "${ASTROMESH_MESH_KEY}"}},
            "the node's own keys go nowhere else",
        ),
        ({"name": "h", "type": "webhook", "url": "http://x", "headers": {"A B": "x"}}, "write a header's name, such as Authorization"),
        ({"name": "h", "type": "webhook", "url": "http://x", "headers": {"Host": "x"}}, "write a header's name, such as Authorization"),
    ],
)
def test_a_webhook_that_cannot_work_is_a_broken_file(tmp_path: Path, tool: dict[str, Any], said: str) -> None:
    agent_file(tmp_path, "hooked", tools=[tool])
    loaded = Library(tmp_path / "config" / "agents", Orchestration(), {"ASTROMESH_MESH_KEY": "the-nodes-own-key"})
    loaded.load()
    with pytest.raises(Exception, match="broken") as raised:
        loaded.find("hooked")
    assert not isinstance(raised.value, ConfigError)
    assert said in str(raised.value)


async def test_a_tool_that_is_not_permitted_is_not_announced_and_refused_when_called(tmp_path: Path, shop: tuple[Shop, str]) -> None:
    server, url = shop
    tools = [{"name": "calculator", "type": "builtin"}, hook(f"{url}/status")]
    agent_file(tmp_path, tools=tools, permissions={"allowed_actions": ["calculator"]})
    model = ScriptedModel([calls(("order_status", {"order": "A7"}), ("calculator", {"expression": "2+2"})), "Done."])
    result = await run(tmp_path, model)
    assert [tool["function"]["name"] for tool in model.requests[0]["tools"]] == ["calculator"]
    refused, carried_out = result["steps"][0]["tool_calls"]
    assert "not permitted to this agent (spec.permissions)" in refused["error"]
    assert carried_out["result"] == 4
    assert not server.asked


@pytest.mark.parametrize(
    ("permissions", "left"),
    [
        ({}, {"calculator", "http_request", "read_file", "order_status"}),
        ({"network": False}, {"calculator", "read_file"}),
        ({"filesystem": False}, {"calculator", "http_request", "order_status"}),
        ({"network": False, "allowed_actions": ["http_request", "calculator"]}, {"calculator"}),
        ({"allowed_actions": []}, set()),
    ],
)
def test_permissions_take_tools_away(tmp_path: Path, permissions: dict[str, Any], left: set[str]) -> None:
    builtin = [{"name": name, "type": "builtin"} for name in ("calculator", "http_request", "read_file")]
    agent_file(tmp_path, "bounded", tools=[*builtin, hook("http://x")], permissions=permissions)
    loaded = Library(tmp_path / "config" / "agents", Orchestration())
    loaded.load()
    agent = loaded.find("bounded")
    assert {tool.name for tool in agent.tools if agent.may_call(tool.name)} == left
    assert not agent.warnings


def test_permissions_that_mean_nothing_are_warned_of(tmp_path: Path) -> None:
    agent_file(
        tmp_path, "odd", tools=[{"name": "calculator", "type": "builtin"}], permissions={"allowed_actions": ["calculater"], "network": {}}
    )
    loaded = Library(tmp_path / "config" / "agents", Orchestration())
    loaded.load()
    warnings = loaded.agents["odd"].warnings
    assert any("names `calculater`, which is no tool of this agent; did you mean `calculator`?" in each for each in warnings)
    assert any("`spec.permissions.network` is acted on only as true or false" in each for each in warnings)


async def test_parameters_that_take_too_long_to_check_are_an_error_for_the_model(
    tmp_path: Path, shop: tuple[Shop, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.agents.patience.CPU_S", 0.05)
    doubling = {f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(40)} | {"d40": True}
    parameters = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": doubling}
    agent_file(tmp_path, tools=[{"name": "hook", "type": "webhook", "url": f"{shop[1]}/status", "parameters": parameters}])
    model = ScriptedModel([calls(("hook", {"a": 1})), "Done."])
    await run(tmp_path, model)
    assert "The arguments cannot be checked by the tool's parameters: checking takes more than 0.05 s" in told(model.requests[1])[0]
    assert shop[0].asked == []
