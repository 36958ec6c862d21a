"""Model servers that answer as scripted and note what they were asked, and the service over them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.call import call
from app.errors import NodeError
from app.services.inference import Inference
from tests.support import mounted, node_context, serve

SCHEMA: Mapping[str, Any] = json.loads((Path(__file__).parents[3] / "app/services/inference/schema.json").read_bytes())
QUESTION = {"messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Seen:
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeServer:
    """Answers by "METHOD /path"; what has no answer is FastAPI's 404. ``left`` is set when a client went away before the end."""

    answers: dict[str, Callable[["FakeServer", Receive, Send], Awaitable[None]]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def on(self, target: str, answer: Callable[["FakeServer", Receive, Send], Awaitable[None]]) -> "FakeServer":
        self.answers[target] = answer
        return self

    def asked_for(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        self.seen.append(Seen(scope["path"], headers, json.loads(body) if body else None))
        self.asked.set()
        answer = self.answers.get(f"{scope['method']} {scope['path']}", replies({"detail": "Not Found"}, 404))
        await answer(self, receive, send)


def replies(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Callable[[FakeServer, Receive, Send], Awaitable[None]]:
    """One whole answer; bytes as they are, anything else as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = [(key.lower().encode(), value.encode()) for key, value in (headers or {}).items()]

    async def answer(server: FakeServer, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [*sent, (b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": raw})

    return answer


def streams(*parts: bytes, then: str = "end") -> Callable[[FakeServer, Receive, Send], Awaitable[None]]:
    """An answer in parts, which then ends cleanly ("end"), is cut off ("break"), or falls silent until the client leaves ("hang")."""

    async def answer(server: FakeServer, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if then == "hang":
            await receive()
            server.left.set()
        elif then == "break":
            raise ConnectionAbortedError("as scripted")
        else:
            await send({"type": "http.response.body", "body": b""})

    return answer


async def hangs(server: FakeServer, receive: Receive, send: Send) -> None:
    """No status line, until the client leaves."""
    await receive()
    server.left.set()


def delta(content: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    """One server-sent chunk as OpenAI-compatible servers write it."""
    choice = {"index": 0, "delta": {**({} if content is None else {"content": content}), **more}, "finish_reason": finish}
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m1", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def completion(content: str, model: str = "m1") -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    used = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": used}


def openai_server(*models: str) -> FakeServer:
    """A fake OpenAI-compatible server that lists ``models``."""
    rows = [{"id": model, "object": "model"} for model in models or ("m1",)]
    return FakeServer().on("GET /v1/models", replies({"object": "list", "data": rows}))


CHAT = "POST /v1/chat/completions"
DONE = b"data: [DONE]\n\n"


@asynccontextmanager
async def inference(
    folder: Path, config: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None, **servers: FakeServer
) -> AsyncIterator[ASGIApp]:
    """The service, with the fake servers of that names attached as openai_compat, unless ``environ`` or files say more."""
    async with AsyncExitStack() as stack:
        urls = {name: await stack.enter_async_context(serve(server)) for name, server in servers.items()}
        if urls:
            lines = [f"    {name}: {{type: openai_compat, endpoint: '{url}'}}" for name, url in urls.items()]
            write_providers(folder, "\n".join(lines))
        service = Inference(config or {}, node_context(folder, environ=environ))
        yield await stack.enter_async_context(mounted(service))


def write_providers(folder: Path, providers: str, more: str = "") -> None:
    (folder / "config").mkdir(exist_ok=True)
    text = f"apiVersion: astromesh/v1\nkind: ProviderConfig\nspec:\n  providers:\n{providers}\n{more}"
    (folder / "config" / "providers.yaml").write_text(text)


async def ask(app: ASGIApp, path: str, body: Any = None) -> Any:
    """The JSON answer; raises what the service raises."""
    async with call(app, "GET" if body is None else "POST", path, body=body) as reply:
        await reply.raise_for_status()
        return await reply.json()


async def chat(app: ASGIApp, model: str = "m1", **more: Any) -> str:
    found = await ask(app, "/v1/chat/completions", {**QUESTION, "model": model, **more})
    return str(found["choices"][0]["message"]["content"])


async def events(app: ASGIApp, model: str = "m1", **more: Any) -> list[str]:
    """The lines of a streamed answer that are not empty."""
    async with call(app, "POST", "/v1/chat/completions", body={**QUESTION, "model": model, "stream": True, **more}) as reply:
        assert reply.status == 200
        return [line for line in (await reply.read()).decode().split("\n") if line]


def content_of(lines: list[str]) -> str:
    """The text that a stream's chunks add up to."""
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))


def answering_errors(app: ASGIApp) -> ASGIApp:
    """What a node's edge does with an error: the one shape."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except NodeError as error:
            await JSONResponse(error.body(), error.status, error.headers)(scope, receive, send)

    return wrapped
