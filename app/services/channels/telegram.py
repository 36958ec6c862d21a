"""Telegram Bot API: updates by webhook (``setWebhook`` with ``secret_token``), answers by ``sendMessage``."""

import json
from collections.abc import Mapping
from typing import Any

from app.errors import MethodNotAllowed, Unauthorized
from app.services.channels.http import Answer, Client
from app.services.channels.message import Delivery, Inbound, NotAcceptedError, Outbound
from app.services.channels.signature import same
from app.services.channels.untrusted import at, text

_HEADER = "X-Telegram-Bot-Api-Secret-Token"
_MEDIA = ("photo", "video", "audio", "voice", "document", "sticker", "animation", "video_note")


class Telegram:
    max_chars = 4_096
    window_s: float | None = None
    has_template = False

    def __init__(self, section: Mapping[str, Any], client: Client) -> None:
        self._secret = section["secret_token"]
        base = section.get("api_base_url", "https://api.telegram.org").rstrip("/")
        self._base = f"{base}/bot{section['bot_token']}"
        self._client = client

    def handshake(self, query: Mapping[str, str]) -> str:
        raise MethodNotAllowed("This webhook takes POST alone.", headers={"Allow": "POST"})

    def verify(self, headers: Mapping[str, str], raw: bytes) -> None:
        """Telegram signs nothing; it shows the secret that setWebhook was given."""
        if not same(headers.get(_HEADER.lower(), ""), self._secret):
            raise Unauthorized(f"The header {_HEADER} is not the channel's secret_token; give setWebhook the same.")

    def read(self, body: Any) -> Delivery:
        message = at(body, "message")
        if message is None:  # edits, reactions, polls: nothing to answer
            return Delivery()
        chat, number = text(message, "chat", "id"), text(message, "message_id")
        if not (chat and number):
            return Delivery(skipped=("a message without chat or id",))
        words, kind, details = text(message, "text"), "text", dict[str, Any]()
        for media in _MEDIA:
            if found := at(message, media):
                largest = found[-1] if isinstance(found, list) else found
                words, kind = text(message, "caption") or f"[{media}]", media
                details["media"] = {"type": media, "id": text(largest, "file_id"), "mime_type": text(largest, "mime_type")}
        if name := text(message, "from", "first_name"):
            details["name"] = name
        return Delivery((Inbound(f"{chat}:{number}", "", chat, words, kind, details),))

    async def send(self, message: Outbound) -> str:
        answer = await self._post("sendMessage", {"chat_id": message.person.sender, "text": message.text})
        return text(answer.body, "result", "message_id")

    async def attend(self, message: Inbound) -> None:
        await self._post("sendChatAction", {"chat_id": message.sender, "action": "typing"})

    async def _post(self, method: str, body: Mapping[str, Any]) -> Answer:
        answer = await self._client.post(f"{self._base}/{method}", json.dumps(body).encode(), {})
        if answer.status // 100 != 2 or at(answer.body, "ok") is False:
            raise _refusal(answer)
        return answer


def _refusal(answer: Answer) -> NotAcceptedError:
    error = answer.error(text(answer.body, "description") or "no reason is given")
    wait = at(answer.body, "parameters", "retry_after")
    if isinstance(wait, int) and wait > 0:
        error.after_s = float(min(wait, 3_600))
    return error
