"""Agents among small neighbours: a model that follows a script, tools that are Python functions, a memory that is a dict."""

import asyncio
import inspect
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from app.call import call
from app.context import RequestContext, background, current
from app.errors import NodeError
from app.services.agents import Agents
from app.sse import EventStream, decode, encode, encode_error
from tests.support import Neighbours, mounted, node_context

Body = dict[str, Any]
CALCULATOR = {"name": "calculator", "type": "builtin"}


def calls(*wanted: tuple[str, Any]) -> Body:
    """A model's message that calls tools: (name, arguments) each; text arguments go as they are."""
    texts = [arguments if isinstance(arguments, str) else json.dumps(arguments) for _, arguments in wanted]
    functions = [{"name": name, "arguments": text} for (name, _), text in zip(wanted, texts, strict=True)]
    return {"content": None, "tool_calls": [{"id": f"call_{i}", "type": "function", "function": f} for i, f in enumerate(functions)]}


@dataclass
class ScriptedModel:
    """An inference service. ``script`` holds, in order: text, a message, a NodeError to raise, or a function of the request; or, for each
    model by its name, such a list."""

    script: list[Any] | dict[str, list[Any]]
    requests: list[Body] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"] == "/v1/chat/completions"
        body = await Request(scope, receive).json()
        self.requests.append(body)
        self.depths.append(current().agent_depth)
        entry = (self.script[body["model"]] if isinstance(self.script, dict) else self.script).pop(0)
        if callable(entry):
            entry = entry(body)
            entry = await entry if inspect.isawaitable(entry) else entry
        if isinstance(entry, NodeError):
            raise entry
        message = {"content": entry} if isinstance(entry, str) else entry
        if body.get("stream"):
            await EventStream(self._chunks(body["model"], message))(scope, receive, send)
        else:
            await JSONResponse(_completion(body["model"], message))(scope, receive, send)

    def asked(self, model: str) -> list[Body]:
        """The requests that a model has had."""
        return [request for request in self.requests if request["model"] == model]

    async def _chunks(self, model: str, message: Body) -> AsyncGenerator[bytes, None]:
        """The message in small pieces: words, and tool calls whose arguments come in two halves."""
        if "raw" in message:
            yield encode(message["raw"])
            return
        if error := message.get("breaks_at_once"):
            yield encode_error(error)
            return
        yield _chunk(model, {"role": "assistant", "content": ""})
        for word in (message.get("content") or "").split(" ") if message.get("content") else ():
            yield _chunk(model, {"content": word if word == message["content"].split(" ")[0] else f" {word}"})
        if error := message.get("breaks"):
            yield encode_error(error)
            return
        for index, tool_call in enumerate(message.get("tool_calls", ())):
            text = tool_call["function"]["arguments"]
            first = {**tool_call, "index": index, "function": {**tool_call["function"], "arguments": text[:3]}}
            yield _chunk(model, {"tool_calls": [first]})
            yield _chunk(model, {"tool_calls": [{"index": index, "function": {"arguments": text[3:]}}]})
        yield _chunk(model, {}, _finish(message))
        yield encode({"model": model, "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 3}})
        yield encode("[DONE]")


def _finish(message: Body) -> str:
    return str(message.get("finish_reason") or ("tool_calls" if message.get("tool_calls") else "stop"))


def _chunk(model: str, delta: Body, finish: str | None = None) -> bytes:
    return encode({"model": model, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def _completion(model: str, message: Body) -> Body:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": _finish(message)}
    return {"model": model, "choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 3}}


@dataclass
class Tools:
    """A tools service of functions; one that raises NodeError fails before it runs, one that raises ValueError ends in an error."""

    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    asked_for_list: int = 0
    executed: list[Body] = field(default_factory=list)
    description: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/v1/tools/builtin":
            self.asked_for_list += 1
            schema = {"type": "object", "properties": {"expression": {"type": "string"}}}
            told = [(name, self.description or f"The {name}.") for name in self.functions]
            rows = [{"name": name, "description": text, "parameters": schema, "type": "builtin"} for name, text in told]
            await JSONResponse({"tools": rows, "count": len(rows)})(scope, receive, send)
            return
        body = await Request(scope, receive).json()
        self.executed.append(body)
        try:
            result = self.functions[body["tool_name"]](**body["arguments"])
            answer = {"result": await result if inspect.isawaitable(result) else result, "status": "ok"}
        except ValueError as error:
            answer = {"result": None, "status": "error", "error": str(error)}
        await JSONResponse({"tool": body["tool_name"], "duration_ms": 0.1, **answer})(scope, receive, send)


@dataclass
class Memory:
    """A memory service in a dict: (agent, session) -> turns. ``fails`` is raised when a turn is stored."""

    turns: dict[tuple[str, str], list[list[Body]]] = field(default_factory=dict)
    fails: NodeError | None = None
    requests: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = "/v1/memory/{agent}/history/{session}"
        routes = [Route(path, self._read, methods=["GET"]), Route(path + "/turns/{turn}", self._store, methods=["PUT"])]
        self.requests.append(f"{scope['method']} {scope['path']}")
        await Router(routes)(scope, receive, send)

    async def _read(self, request: Request) -> Response:
        key = (request.path_params["agent"], request.path_params["session"])
        if key not in self.turns:
            return JSONResponse({"error": {"message": "none", "type": "", "code": "session_not_found", "param": None}}, 404)
        kept = self.turns[key][-int(request.query_params["max_turns"]) :]
        return JSONResponse({"turns": [{"turn_id": f"t{number}", "messages": turn} for number, turn in enumerate(kept)]})

    async def _store(self, request: Request) -> Response:
        if self.fails:
            raise self.fails
        key = (request.path_params["agent"], request.path_params["session"])
        self.turns.setdefault(key, []).append((await request.json())["messages"])
        return JSONResponse({}, 201)


def calculator(expression: str) -> int:
    return {"17*23": 391, "2+2": 4}[expression]


def plays(*roles: str) -> Body:
    """The ``model`` section of an agent file in which each role has a model of its own name."""
    return {"roles": {role: {"candidates": [{"model": role}]} for role in roles}}


def said(request: Body, role: str = "user") -> str:
    """What the last message of a role in a model request says."""
    return str([message["content"] for message in request["messages"] if message["role"] == role][-1])


def told(request: Body) -> list[str]:
    """The tool results that a model request shows."""
    return [message["content"] for message in request["messages"] if message["role"] == "tool"]


def agent_file(folder: Path, name: str = "tester", **spec: Any) -> Path:
    """Write an agent file into a node's folder."""
    path = folder / "config" / "agents" / f"{name}.agent.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"apiVersion": "astromesh/v1", "kind": "Agent", "metadata": {"name": name}, "spec": spec}
    path.write_text(yaml.safe_dump(document))
    return path


@asynccontextmanager
async def agents(folder: Path, neighbours: Neighbours, config: Mapping[str, Any] | None = None) -> AsyncIterator[ASGIApp]:
    """The agents of a folder, served, and known to each other."""
    async with mounted(Agents(config or {}, node_context(folder, neighbours))) as app:
        neighbours.apps.setdefault("agents", app)
        yield app


async def post(app: ASGIApp, path: str, body: Any, context: RequestContext | None = None) -> Body:
    async with call(app, "POST", path, body=body, context=context or background()) as reply:
        assert reply.status == 200
        answer: Body = await reply.json()
        return answer


async def ask(app: ASGIApp, query: str = "Go.", name: str = "tester", **more: Any) -> Body:
    """Run an agent to its JSON result."""
    return await post(app, f"/v1/agents/{name}/run", {"query": query, **more})


async def events(app: ASGIApp, query: str = "Go.", name: str = "tester", **more: Any) -> list[tuple[str, Body]]:
    """Run an agent as a stream: the events, parsed."""
    accept = [(b"accept", b"text/event-stream")]
    target = f"/v1/agents/{name}/run"
    async with call(app, "POST", target, body={"query": query, **more}, headers=accept, context=background()) as reply:
        assert (reply.status, reply.header("content-type")) == (200, "text/event-stream; charset=utf-8")
        return [(event.name, json.loads(event.data)) async for event in decode(reply.chunks())]


class Stuck:
    """A function that never returns: ``entered`` is set when it is called, ``cancelled`` when its caller has left."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, *_: Any, **__: Any) -> Any:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
