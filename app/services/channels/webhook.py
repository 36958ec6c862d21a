"""A channel for any system: JSON comes in signed, answers go out signed to a callback URL. Both sides know a message by its id, so
sending twice does no harm there."""

import json
from collections.abc import Mapping
from typing import Any

from app.errors import MethodNotAllowed
from app.services.channels.http import Client
from app.services.channels.message import Delivery, Inbound, Outbound
from app.services.channels.signature import HEADER, check, sign
from app.services.channels.untrusted import at, items, text


class Webhook:
    max_chars = 65_536
    window_s: float | None = None
    has_template = False

    def __init__(self, section: Mapping[str, Any], client: Client) -> None:
        self._secret, self._callback_url = section["secret"], section["callback_url"]
        self._client = client

    def handshake(self, query: Mapping[str, str]) -> str:
        raise MethodNotAllowed("This webhook takes POST alone.", headers={"Allow": "POST"})

    def verify(self, headers: Mapping[str, str], raw: bytes) -> None:
        check(self._secret, headers, raw)

    def read(self, body: Any) -> Delivery:
        """One message, or many under ``messages``: {id, sender, text, account?, metadata?}."""
        messages, skipped = list[Inbound](), list[str]()
        for each in items(body, "messages") if at(body, "messages") is not None else [body]:
            message_id, sender = text(each, "id"), text(each, "sender")
            if not (message_id and sender):
                skipped.append("a message without id or sender")
                continue
            metadata = at(each, "metadata")
            details = {"metadata": metadata} if isinstance(metadata, Mapping) else {}
            messages.append(Inbound(message_id, text(each, "account"), sender, text(each, "text"), "text", details))
        return Delivery(tuple(messages), (), tuple(skipped))

    async def send(self, message: Outbound) -> str:
        person = message.person
        body = {
            "id": message.token,
            "channel": person.channel,
            "account": person.account,
            "recipient": person.sender,
            "in_reply_to": message.in_reply_to,
            "text": message.text,
            "part": message.part,
            "parts": message.parts,
        }
        raw = json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace")
        answer = await self._client.post(self._callback_url, raw, {HEADER: sign(self._secret, raw), "Idempotency-Key": message.token})
        if answer.status // 100 != 2:
            raise answer.error("the callback URL did not take it")
        return text(answer.body, "id")

    async def attend(self, message: Inbound) -> None:
        """Nobody is shown anything."""
