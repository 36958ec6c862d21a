"""Agents at work over HTTP: runs (JSON, server-sent events, or over a WebSocket), and chat completions of ``agent/<name>``."""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.body import JSONAnswer, read_json, validator
from app.services.agents.agent import Agent
from app.services.agents.asking import question_of, session_of
from app.services.agents.chat import Chat, agent_name, question
from app.services.agents.editor import Editor
from app.services.agents.events import Emit, Event, listen, silence
from app.services.agents.idempotency import RunRecord, digest_of, digest_of_key, prefers_to_wait
from app.services.agents.run import Question, Runner
from app.services.agents.talk import Desk, Talk
from app.services.contract import NodeContext
from app.session import new_session_id
from app.sse import EventStream, encode


class Routes:
    """The handlers. A session that is made here, for a run that came without one, names the store that this node begins sessions in."""

    def __init__(self, editor: Editor, runner: Runner, node: NodeContext, message_bytes: int) -> None:
        self._editor, self._runner, self._node = editor, runner, node
        requests: Mapping[str, Any] = json.loads(files(__package__).joinpath("schema.json").read_bytes())["requests"]
        self._run_schema, self._chat_schema = validator(requests["run"]), validator(requests["chat"])
        self._desk = Desk(editor, runner, self._run_schema, node, message_bytes)

    def all(self) -> Sequence[BaseRoute]:
        return [
            Route("/v1/agents/{name}/run", self.run, methods=["POST"]),
            Route("/v1/ws/agent/{name}", self.talk, methods=["GET"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]

    async def run(self, request: Request) -> Response:
        agent = await self._editor.find(request.path_params["name"])
        body = await read_json(request, self._run_schema)
        session = session_of(body) or new_session_id(self._node.store_for_new_session())
        streaming = _accepts_events(request)
        record = await self._record(request, agent, session, body)
        if record and record.answer is not None:
            return _replayed(record.answer, record.headers, streaming)
        headers = record.headers if record else {}
        asked = question_of(body, session, streaming)
        if streaming:
            return _Streamed(EventStream(self._run_events(agent, asked, record), headers))
        return JSONAnswer(await self._answer(agent, asked, silence, record), headers=headers)

    async def _record(self, request: Request, agent: Agent, session: str, body: Mapping[str, Any]) -> RunRecord | None:
        """The record of a run that has an Idempotency-Key, begun or with its answer."""
        given = request.headers.get("idempotency-key")
        if given is None:
            return None
        record = RunRecord(self._node.locate, agent.name, session, digest_of_key(given), digest_of(body, session))
        await record.begin(wait=prefers_to_wait(request.headers.getlist("prefer")))
        return record

    async def _answer(self, agent: Agent, asked: Question, emit: Emit, record: RunRecord | None) -> dict[str, Any]:
        async def run() -> dict[str, Any]:
            return (await self._runner.run(agent, asked, emit)).as_json()

        return await (record.keep(run) if record else run())

    async def _run_events(self, agent: Agent, asked: Question, record: RunRecord | None) -> AsyncGenerator[bytes, None]:
        async def work(emit: Emit) -> None:
            await emit(Event("done", await self._answer(agent, asked, emit, record)))

        async with aclosing(listen(work)) as events:
            async for event in events:
                yield encode(event.data, event.kind)

    async def talk(self, request: Request) -> Response:
        name = request.path_params["name"]
        await self._editor.find(name)  # a socket to nobody is not opened
        return _Streamed(Talk(self._desk, name))

    async def chat(self, request: Request) -> Response:
        body = await read_json(request, self._chat_schema)
        agent = await self._editor.find(agent_name(body["model"]))
        asked = question(body, agent, session_of(body))
        chat = Chat(body["model"])
        if not asked.streaming:
            return JSONAnswer(chat.completion(await self._runner.run(agent, asked, silence)))
        include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return _Streamed(EventStream(chat.stream(lambda emit: self._runner.run(agent, asked, emit), include_usage)))


def _replayed(answer: Mapping[str, Any], headers: dict[str, str], streaming: bool) -> Response:
    """An answer given before: as a stream it is its end alone."""

    async def done() -> AsyncGenerator[bytes, None]:
        yield encode(answer, "done")

    return _Streamed(EventStream(done(), headers)) if streaming else JSONAnswer(answer, headers=headers)


class _Streamed(Response):
    """An ASGI app as what a handler returns."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _accepts_events(request: Request) -> bool:
    accepted = (part.split(";")[0].strip().lower() for part in request.headers.get("accept", "").split(","))
    return "text/event-stream" in accepted
