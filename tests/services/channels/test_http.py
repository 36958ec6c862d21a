"""What the client of all channels says of answers, and Telegram's use of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from app.services.channels.http import Client
from app.services.channels.message import NotAcceptedError, Outbound, Person, UncertainError
from app.services.channels.telegram import Telegram
from app.services.channels.whatsapp import WhatsApp
from tests.support import serve

MESSAGE = Outbound("token-1", Person("telegram", "", "42"), "42:1", "hello")


@asynccontextmanager
async def bot(*answers: Response) -> AsyncIterator[Telegram]:
    """A Telegram channel whose Bot API gives these answers."""
    given = iter(answers)

    async def answer(request: Request) -> Response:
        return next(given)

    async with serve(Router([Route("/{path:path}", answer, methods=["POST"])])) as url, Client() as client:
        yield Telegram({"secret_token": "s", "bot_token": "123:very-secret", "api_base_url": url, "default_agent": "a"}, client)


async def test_an_answer_that_comes_in_pieces_is_read_whole() -> None:
    told = {"ok": True, "result": {"message_id": 7, "text": "x" * 250_000}}
    async with bot(JSONResponse(told)) as telegram:
        assert await telegram.send(MESSAGE) == "7"


async def test_a_message_that_was_taken_is_sent_whatever_the_answer_says_besides() -> None:
    async with bot(Response(b"<html>")) as telegram:
        assert not await telegram.send(MESSAGE)


@pytest.mark.parametrize(("wait", "after_s"), [(7, 7.0), (10**9, 3_600.0), ("soon", None), ([], None), (-1, None)])
async def test_a_refusal_for_now_says_when_to_come_back_where_that_makes_sense(wait: Any, after_s: float | None) -> None:
    async with bot(JSONResponse({"ok": False, "description": "Too Many Requests", "parameters": {"retry_after": wait}}, 429)) as telegram:
        with pytest.raises(NotAcceptedError, match="Too Many Requests") as raised:
            await telegram.send(MESSAGE)
    assert (raised.value.again, raised.value.after_s) == (True, after_s)


@pytest.mark.parametrize("code", [[], {}, "131047", None, 1.5])
async def test_a_refusal_of_any_shape_is_a_refusal(code: Any) -> None:
    async def refuse(request: Request) -> Response:
        return JSONResponse({"error": {"message": "no", "code": code}}, 400)

    async with serve(Router([Route("/{path:path}", refuse, methods=["POST"])])) as url, Client() as client:
        section = {"verify_token": "v", "access_token": "a", "phone_number_id": "1", "app_secret": "s", "api_base_url": url}
        with pytest.raises(NotAcceptedError, match="no") as raised:
            await WhatsApp(section, client).send(MESSAGE)
    assert not raised.value.again


async def test_whoever_has_no_number_is_answered_by_the_user_id() -> None:
    asked = list[Any]()

    async def take(request: Request) -> Response:
        asked.append((request.url.path, json.loads(await request.body())))
        return JSONResponse({"messages": [{"id": "wamid.out"}]})

    async with serve(Router([Route("/{path:path}", take, methods=["POST"])])) as url, Client() as client:
        section = {"verify_token": "v", "access_token": "a", "phone_number_id": "1", "app_secret": "s", "api_base_url": url}
        for sender in ("US.13491208655302741918", "4915112345"):
            await WhatsApp(section, client).send(Outbound("t", Person("whatsapp", "../1065", sender), "wamid.1", "hello"))
    (path, first), (_, second) = asked
    assert path == "/v23.0/../1065/messages"  # one step of the path, whatever is in it; the server shows it decoded
    assert (first["recipient"], "to" in first) == ("US.13491208655302741918", False)
    assert (second["to"], "recipient" in second) == ("4915112345", False)


async def test_an_answer_that_is_no_http_is_uncertain_and_shows_no_token() -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SPAM SPAM SPAM\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(nonsense, "127.0.0.1", 0) as server, Client() as client:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        telegram = Telegram({"secret_token": "s", "bot_token": "123:very-secret", "api_base_url": url}, client)
        with pytest.raises(UncertainError) as uncertain:
            await telegram.send(MESSAGE)
        unusable = Telegram({"secret_token": "s", "bot_token": "123:very-secret", "api_base_url": "http://[::1/"}, client)
        with pytest.raises(NotAcceptedError) as refused:
            await unusable.send(MESSAGE)
    assert "very-secret" not in f"{uncertain.value} {refused.value}"
