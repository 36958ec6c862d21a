"""Agents as OpenAI models: the OpenAI SDK over a socket, and what the shapes hold."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.call import call
from app.context import background
from app.errors import InvalidBody, ModelNotFound, NodeError, ProviderError, ProviderUnavailable, StoreUnavailable
from tests.services.agents.world import Memory, ScriptedModel, Tools, agent_file, agents, calls, post
from tests.support import Neighbours, serve

MODEL = "agent/tester"
ASKED: list[Any] = [{"role": "user", "content": "Go."}]
MAP = {"name": "show_map", "type": "client", "parameters": {"place": {"type": "string"}}}
REMEMBERS: dict[str, Any] = {"conversational": {}}


def errors_answered(app: ASGIApp) -> ASGIApp:
    """What a node's edge does with an error before the answer has begun."""

    async def edge(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except NodeError as error:
            await JSONResponse(error.body(), error.status)(scope, receive, send)

    return edge


@asynccontextmanager
async def client(folder: Path, neighbours: Neighbours) -> AsyncIterator[openai.AsyncOpenAI]:
    async with agents(folder, neighbours) as app, serve(errors_answered(app)) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
            yield made


async def test_the_openai_sdk_chats_with_an_agent(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[{"name": "dice", "type": "builtin"}])
    model = ScriptedModel([calls(("dice", {})), "A six."])
    async with client(tmp_path, Neighbours(inference=model, tools=Tools({"dice": lambda: 6}))) as sdk:
        answer = await sdk.chat.completions.create(model=MODEL, messages=ASKED, temperature=0.2, max_tokens=9)
    assert (answer.object, answer.model, answer.id[:9]) == ("chat.completion", MODEL, "chatcmpl-")
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "A six.", "stop")
    assert choice.message.tool_calls is None
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (20, 6, 26)
    assert (model.requests[0]["temperature"], model.requests[0]["max_tokens"]) == (0.2, 9)


async def test_the_openai_sdk_streams_an_agent(tmp_path: Path) -> None:
    agent_file(tmp_path)
    async with client(tmp_path, Neighbours(inference=ScriptedModel(["It is so."]))) as sdk:
        stream = await sdk.chat.completions.create(model=MODEL, messages=ASKED, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in chunks[1:-2]] == ["It", " is", " so."]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 13
    assert {(chunk.id, chunk.object, chunk.model) for chunk in chunks} == {(chunks[0].id, "chat.completion.chunk", MODEL)}


async def test_the_openai_sdk_sees_errors_as_its_own(tmp_path: Path) -> None:
    agent_file(tmp_path)
    async with client(tmp_path, Neighbours(inference=ScriptedModel([ProviderUnavailable("down")]))) as sdk:
        with pytest.raises(openai.NotFoundError) as missing:
            await sdk.chat.completions.create(model="agent/nobody", messages=ASKED)
        with pytest.raises(openai.InternalServerError, match="down"):
            await sdk.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
    assert missing.value.code == "agent_not_found"


async def test_a_stream_that_breaks_ends_in_an_error_that_the_sdk_raises(tmp_path: Path) -> None:
    agent_file(tmp_path)
    model = ScriptedModel([{"content": "Half of", "breaks": ProviderError("The provider went away.")}])
    async with client(tmp_path, Neighbours(inference=model)) as sdk:
        stream = await sdk.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
        with pytest.raises(openai.APIError, match="went away"):
            [chunk async for chunk in stream]


async def test_a_clients_tool_call_ends_the_answer_and_its_result_continues_it(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[MAP])
    model = ScriptedModel([calls(("show_map", {"place": "Oslo"})), "You see Oslo."])
    async with client(tmp_path, Neighbours(inference=model)) as sdk:
        first = await sdk.chat.completions.create(model=MODEL, messages=ASKED)
        [choice] = first.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        assert choice.message.tool_calls is not None
        [wanted] = choice.message.tool_calls
        assert wanted.type == "function"
        assert (wanted.function.name, json.loads(wanted.function.arguments)) == ("show_map", {"place": "Oslo"})
        shown: Any = {"role": "tool", "tool_call_id": wanted.id, "content": "shown"}
        again = [*ASKED, choice.message.model_dump(exclude_none=True), shown]
        second = await sdk.chat.completions.create(model=MODEL, messages=again)
    assert second.choices[0].message.content == "You see Oslo."
    assert [message["role"] for message in model.requests[1]["messages"]] == ["user", "assistant", "tool"]


async def test_a_clients_tool_call_is_streamed_without_the_agents_own_calls(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[MAP, {"name": "dice", "type": "builtin"}])
    tools = Tools({"dice": lambda: 6})
    model = ScriptedModel([calls(("dice", {}), ("show_map", {"place": "Oslo"}))])
    async with client(tmp_path, Neighbours(inference=model, tools=tools)) as sdk:
        stream = await sdk.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
        chunks = [chunk async for chunk in stream]
    [deltas] = [chunk.choices[0].delta.tool_calls for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert [(delta.index, delta.function and delta.function.name) for delta in deltas] == [(0, "show_map")]
    assert (chunks[-1].choices[0].finish_reason, tools.executed) == ("tool_calls", [])


async def test_without_a_session_the_messages_are_the_whole_history(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS, prompts={"system": "Be brief."})
    memory, model = Memory(), ScriptedModel(["Yes."])
    asked = [{"role": "developer", "content": "Be kind."}, *ASKED, {"role": "assistant", "content": "?"}, *ASKED]
    async with agents(tmp_path, Neighbours(inference=model, memory=memory)) as app:
        await post(app, "/v1/chat/completions", {"model": MODEL, "messages": asked})
    assert [message["role"] for message in model.requests[0]["messages"]] == ["system", "system", "user", "assistant", "user"]
    assert memory.requests == []


async def test_with_a_session_only_what_follows_the_last_answer_is_new(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS)
    memory, model = Memory(), ScriptedModel(["One.", "Two."])
    async with agents(tmp_path, Neighbours(inference=model, memory=memory)) as app:
        for messages in (ASKED, [*ASKED, {"role": "assistant", "content": "told otherwise"}, {"role": "user", "content": "And?"}]):
            await post(app, "/v1/chat/completions", {"model": MODEL, "messages": messages, "session_id": "s-1"})
    assert [message["content"] for message in model.requests[1]["messages"]] == ["Go.", "One.", "And?"]
    assert [[message["content"] for message in turn] for turn in memory.turns["tester", "s-1"]] == [["Go.", "One."], ["And?", "Two."]]


async def test_a_clients_tool_result_continues_a_remembered_session(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS, tools=[MAP])
    model = ScriptedModel([calls(("show_map", {"place": "Oslo"})), "You see it."])
    shown = {"role": "tool", "tool_call_id": "call_0", "content": "shown"}
    async with agents(tmp_path, Neighbours(inference=model, memory=Memory())) as app:
        for messages in (ASKED, [shown]):
            await post(app, "/v1/chat/completions", {"model": MODEL, "messages": messages, "session_id": "s-1"})
        with pytest.raises(InvalidBody, match="send a user message"):
            await post(app, "/v1/chat/completions", {"model": MODEL, "messages": [shown], "session_id": "s-2"})
    assert [message["content"] for message in model.requests[1]["messages"]] == ["Go.", "", "shown"]


async def test_a_stream_never_ends_well_when_its_turn_cannot_be_stored(tmp_path: Path) -> None:
    agent_file(tmp_path, memory=REMEMBERS)
    neighbours = Neighbours(inference=ScriptedModel(["Noted."]), memory=Memory(fails=StoreUnavailable("disk full")))
    body = {"model": MODEL, "messages": ASKED, "stream": True, "session_id": "s-1"}
    async with agents(tmp_path, neighbours) as app:
        async with call(app, "POST", "/v1/chat/completions", body=body, context=background()) as reply:
            stream = (await reply.read()).decode()
    assert "Noted." in stream
    assert "[DONE]" not in stream
    assert '"finish_reason":"stop"' not in stream
    assert stream.rstrip().splitlines()[-2] == "event: error"


async def test_words_of_several_steps_are_parted_in_a_stream(tmp_path: Path) -> None:
    agent_file(tmp_path, orchestration={"max_iterations": 1})
    again = calls(("ghost", {})) | {"content": "Trying."}
    body = {"model": MODEL, "messages": ASKED, "stream": True}
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([again, calls(("ghost", {}))]))) as app:
        async with call(app, "POST", "/v1/chat/completions", body=body, context=background()) as reply:
            lines = (await reply.read()).decode().split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line and "[DONE]" not in line]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == "Trying.\n\nThe agent stopped after 1 iterations without an answer."


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, InvalidBody, "has its own tools"),
        ({"n": 2}, InvalidBody, r"\$\.n"),
        ({"messages": []}, InvalidBody, r"\$\.messages"),
        ({"messages": [{"role": "robot", "content": ""}]}, InvalidBody, r"\$\.messages\[0\]\.role"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "!"}], "session_id": "s"}, InvalidBody, "no new message"),
        ({"model": "tester"}, ModelNotFound, "agent/<name>"),
    ],
)
async def test_a_chat_request_of_the_wrong_shape_is_refused(tmp_path: Path, more: Any, error: type[NodeError], said: str) -> None:
    agent_file(tmp_path, memory=REMEMBERS)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([]), memory=Memory())) as app:
        with pytest.raises(error, match=said):
            await post(app, "/v1/chat/completions", {"model": MODEL, "messages": ASKED, **more})


@pytest.mark.parametrize("own", ["max_tokens", "max_completion_tokens"])
async def test_the_callers_token_limit_replaces_the_agents_under_either_name(tmp_path: Path, own: str) -> None:
    agent_file(tmp_path, model={"primary": {"model": "m", "parameters": {own: 5, "temperature": 0.5}}})
    model = ScriptedModel(["Yes."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        await post(app, "/v1/chat/completions", {"model": MODEL, "messages": ASKED, "max_completion_tokens": 9})
    assert {key: value for key, value in model.requests[0].items() if key not in {"model", "messages"}} == {
        "max_completion_tokens": 9,
        "temperature": 0.5,
    }
