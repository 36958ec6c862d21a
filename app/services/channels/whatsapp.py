"""WhatsApp Cloud API (Graph API, /<phone_number_id>/messages and its webhooks)."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from app.errors import Forbidden
from app.services.channels.http import Answer, Client
from app.services.channels.message import Delivery, Inbound, NotAcceptedError, Outbound, Receipt
from app.services.channels.signature import check, same
from app.services.channels.untrusted import at, items, text

_RATE_LIMITS = frozenset({4, 80007, 130429, 131048, 131056})
"""Graph error codes that mean "too fast", answered with 400."""
_TEMPORARY = frozenset({1, 2, 131000, 131016, 133004})
OUTSIDE_WINDOW = 131047
_MEDIA = ("image", "video", "audio", "document", "sticker")
_STATUSES = ("sent", "delivered", "read", "played", "failed")
_DAY_S = 24 * 3_600.0
_USER_ID = re.compile(r"[A-Z]{2}\.[A-Za-z0-9.]+")
"""A business-scoped user id, such as US.13491208655302741918: what is told of people with a user name instead of their number."""


class WhatsApp:
    max_chars = 4_096
    window_s: float | None = _DAY_S

    def __init__(self, section: Mapping[str, Any], client: Client) -> None:
        self._verify_token, self._app_secret = section["verify_token"], section["app_secret"]
        self._phone_number_id = str(section["phone_number_id"])
        base = section.get("api_base_url", "https://graph.facebook.com").rstrip("/")
        self._base = f"{base}/{section.get('api_version', 'v23.0')}"
        self._headers = {"Authorization": f"Bearer {section['access_token']}"}
        self._template = section.get("template")
        self.has_template = self._template is not None
        self._client = client

    def handshake(self, query: Mapping[str, str]) -> str:
        mode, token = query.get("hub.mode", ""), query.get("hub.verify_token", "")
        if mode != "subscribe" or not same(token, self._verify_token):
            raise Forbidden("hub.mode has to be subscribe, and hub.verify_token the channel's verify_token; enter the same on both sides.")
        return query.get("hub.challenge", "")

    def verify(self, headers: Mapping[str, str], raw: bytes) -> None:
        check(self._app_secret, headers, raw)

    def read(self, body: Any) -> Delivery:
        messages, receipts, skipped = list[Inbound](), list[Receipt](), list[str]()
        for value in _values(body):
            account = text(value, "metadata", "phone_number_id") or self._phone_number_id
            contacts = items(value, "contacts")
            names = {text(each, key): text(each, "profile", "name") for each in contacts for key in ("user_id", "wa_id")}
            only = text(contacts[0], "user_id") if len(contacts) == 1 else ""
            for each in items(value, "messages"):
                sender = text(each, "from") or text(each, "from_user_id") or only
                if message := _message(each, account, sender, names):
                    messages.append(message)
                else:
                    skipped.append("a message without id or sender")
            receipts += [_receipt(each) for each in items(value, "statuses") if at(each, "status") in _STATUSES]
        return Delivery(tuple(messages), tuple(receipts), tuple(skipped))

    async def send(self, message: Outbound) -> str:
        content = {"type": "template", "template": self._template} if message.template else _body(message.text)
        body = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "recipient" if _USER_ID.fullmatch(message.person.sender) else "to": message.person.sender,
            "biz_opaque_callback_data": message.token,
            **({"context": {"message_id": message.in_reply_to}} if message.in_reply_to and message.part == 1 else {}),
            **content,
        }
        answer = await self._post(message.person.account, body)
        if answer.status // 100 != 2:
            raise _refusal(answer)
        return text(next(iter(items(answer.body, "messages")), None), "id")

    async def attend(self, message: Inbound) -> None:
        body = {
            "messaging_product": "whatsapp",
            "status": "read",
            "message_id": message.message_id,
            "typing_indicator": {"type": "text"},
        }
        answer = await self._post(message.account, body)
        if answer.status // 100 != 2:
            raise _refusal(answer)

    async def _post(self, account: str, body: Mapping[str, Any]) -> Answer:
        url = f"{self._base}/{quote(account or self._phone_number_id, safe='')}/messages"
        return await self._client.post(url, json.dumps(body).encode(), self._headers)


def _body(words: str) -> dict[str, Any]:
    return {"type": "text", "text": {"body": words, "preview_url": False}}


def _refusal(answer: Answer) -> NotAcceptedError:
    error = at(answer.body, "error") or {}
    code = code if isinstance(code := at(error, "code"), int) else None
    told = text(error, "error_data", "details") or text(error, "message") or "no reason is given"
    if code == OUTSIDE_WINDOW:
        return answer.error(f"outside the 24-hour window ({told}); only a template may be sent", again=False, too_late=True)
    known = True if code in _RATE_LIMITS | _TEMPORARY else None
    return answer.error(f"{told} (code {code})" if code is not None else told, again=known)


def _values(body: Any) -> Iterator[Any]:
    for entry in items(body, "entry"):
        for change in items(entry, "changes"):
            if at(change, "field") in (None, "messages"):
                yield at(change, "value")


def _message(each: Any, account: str, sender: str, names: Mapping[str, str]) -> Inbound | None:
    message_id, kind = text(each, "id"), text(each, "type") or "unknown"
    if not (message_id and sender):
        return None
    words, details = _content(each, kind)
    if name := names.get(sender):
        details["name"] = name
    if reply_to := at(each, "context", "id"):
        details["reply_to"] = reply_to
    return Inbound(message_id, account, sender, words, kind, details)


def _content(each: Any, kind: str) -> tuple[str, dict[str, Any]]:
    """What the agent is asked, and what it is told besides; nothing where there is nothing to answer."""
    content = at(each, kind)
    if kind == "text":
        return text(content, "body"), {}
    if kind == "interactive":
        chosen = at(content, text(content, "type")) or {}
        return text(chosen, "title") or text(chosen, "body"), {"choice": chosen}
    if kind == "button":
        return text(content, "text"), {"choice": content}
    if kind in _MEDIA:
        kept = {name: at(content, name) for name in ("id", "mime_type", "filename", "voice") if at(content, name) is not None}
        return text(content, "caption") or f"[{kind}]", {"media": {"type": kind, **kept}}
    if kind == "location":
        where = (text(content, name) for name in ("name", "address", "latitude", "longitude"))
        return " ".join(("[location]", *filter(None, where))), {"location": content}
    if kind == "contacts":
        return "[contacts]", {"contacts": content}
    return "", {"content": content}  # a reaction, a system message, a kind of tomorrow: kept, and answered by nobody


def _receipt(each: Any) -> Receipt:
    error = next(iter(items(each, "errors")), None)
    told = text(error, "error_data", "details") or text(error, "title") or text(error, "message")
    return Receipt(text(each, "status"), text(each, "biz_opaque_callback_data"), text(each, "id"), told[:500])
