"""A Graph API server of our own: takes messages as WhatsApp's does, refuses them as scripted, and signs webhook calls."""

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.services.channels.signature import HEADER, sign

SECRET, TOKEN, PHONE, ACCESS = "an-app-secret-of-tests", "a-verify-token", "1065", "an-access-token"
CONFIG = """
channels:
  whatsapp:
    verify_token: {token}
    access_token: {access}
    phone_number_id: "{phone}"
    app_secret: {secret}
    default_agent: assistant
    api_base_url: {url}
{more}
"""


def channels_yaml(url: str, more: str = "") -> str:
    return CONFIG.format(token=TOKEN, access=ACCESS, phone=PHONE, secret=SECRET, url=url, more=more)


def text_message(message_id: str, text: str, sender: str = "4915112345") -> dict[str, Any]:
    return {"from": sender, "id": message_id, "timestamp": "1760000000", "type": "text", "text": {"body": text}}


def payload(*messages: dict[str, Any], statuses: tuple[dict[str, Any], ...] = ()) -> bytes:
    """A webhook call with one entry and one change, as the platform writes it."""
    value: dict[str, Any] = {"messaging_product": "whatsapp", "metadata": {"display_phone_number": "49", "phone_number_id": PHONE}}
    if messages:
        value["contacts"] = [{"wa_id": each["from"], "profile": {"name": "Kim"}} for each in messages if "from" in each]
        value["messages"] = list(messages)
    if statuses:
        value["statuses"] = list(statuses)
    return json.dumps(
        {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [{"field": "messages", "value": value}]}]}
    ).encode()


def signed(raw: bytes, secret: str = SECRET) -> dict[str, str]:
    return {"Content-Type": "application/json", HEADER: sign(secret, raw)}


@dataclass
class FakeGraph:
    """``script`` holds what becomes of the next messages, in order: (status, body) refuses, "hang" takes it and never answers, "wait"
    takes it and answers when the gate is open, "break" takes it and cuts the connection; without one they are taken. ``taken`` are those
    that a person would have got."""

    script: list[Any] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    read: list[dict[str, Any]] = field(default_factory=list)
    authorizations: set[str] = field(default_factory=set)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.json()
        self.authorizations.add(request.headers.get("authorization", ""))
        answer: ASGIApp
        if body.get("status") == "read":
            self.read.append(body)
            await JSONResponse({"success": True})(scope, receive, send)
            return
        self.asked += 1
        fate = self.script.pop(0) if self.script else "take"
        if isinstance(fate, tuple):
            answer = JSONResponse(fate[1], fate[0], headers=fate[2] if len(fate) > 2 else None)
        else:
            self.taken.append(body)
            answer = JSONResponse({"messaging_product": "whatsapp", "messages": [{"id": f"wamid.out{next(self._ids)}"}]})
        async with self._changed:
            self._changed.notify_all()
        if fate == "hang":
            await asyncio.Event().wait()
        if fate == "wait":
            await self.gate.wait()
        if fate == "break":  # the server has no way to end an answer that it has not finished but to cut the connection
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
            return
        await answer(scope, receive, send)

    @property
    def texts(self) -> list[str]:
        return [body["text"]["body"] for body in self.taken if body["type"] == "text"]

    async def until(self, reached: Callable[["FakeGraph"], bool], timeout_s: float = 30.0) -> None:
        """Return once it is so; looked at whenever a message came."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: reached(self))
