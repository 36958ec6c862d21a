import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Forbidden, Unauthorized
from app.services.channels.http import Client
from app.services.channels.split import split
from app.services.channels.whatsapp import WhatsApp
from tests.services.channels.graph import PHONE, SECRET, TOKEN, payload, signed, text_message

SECTION = {"verify_token": TOKEN, "access_token": "a", "phone_number_id": PHONE, "app_secret": SECRET}


def whatsapp() -> WhatsApp:
    return WhatsApp(SECTION, Client())


def headers(raw: bytes, secret: str = SECRET) -> dict[str, str]:
    return {name.lower(): value for name, value in signed(raw, secret).items()}


def test_the_handshake_gives_the_raw_challenge_back_to_who_knows_the_token() -> None:
    query = {"hub.mode": "subscribe", "hub.verify_token": TOKEN, "hub.challenge": "1158201444"}
    assert whatsapp().handshake(query) == "1158201444"


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"hub.mode": "subscribe", "hub.verify_token": "another", "hub.challenge": "1"},
        {"hub.mode": "unsubscribe", "hub.verify_token": TOKEN, "hub.challenge": "1"},
        {"hub.mode": "subscribe", "hub.verify_token": "ä\udce4", "hub.challenge": "1"},
    ],
)
def test_who_does_not_know_the_token_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(Forbidden):
        whatsapp().handshake(query)


def test_a_body_is_believed_only_with_the_signature_of_its_very_bytes() -> None:
    raw = payload(text_message("wamid.1", "hello"))
    whatsapp().verify(headers(raw), raw)
    for wrong in (headers(raw, "another secret"), headers(raw + b" "), {}, {"x-hub-signature-256": "sha256="}):
        with pytest.raises(Unauthorized):
            whatsapp().verify(wrong, raw)


def test_every_entry_and_every_change_is_read() -> None:
    one = json.loads(payload(text_message("wamid.1", "one"), text_message("wamid.2", "two", sender="44")))
    other = json.loads(payload(text_message("wamid.3", "three")))
    one["entry"][0]["changes"] += other["entry"][0]["changes"]
    one["entry"] += json.loads(payload(text_message("wamid.4", "four")))["entry"]
    found = whatsapp().read(one)
    assert [(each.message_id, each.text) for each in found.messages] == [
        ("wamid.1", "one"), ("wamid.2", "two"), ("wamid.3", "three"), ("wamid.4", "four"),
    ]  # fmt: skip
    assert {each.account for each in found.messages} == {PHONE}
    assert found.messages[0].details["name"] == "Kim"


@pytest.mark.parametrize(
    ("kind", "content", "text", "told"),
    [
        ("image", {"id": "m1", "mime_type": "image/jpeg", "caption": "what is this?"}, "what is this?", {"media"}),
        ("audio", {"id": "m2", "mime_type": "audio/ogg", "voice": True}, "[audio]", {"media"}),
        ("interactive", {"type": "button_reply", "button_reply": {"id": "yes", "title": "Yes, please"}}, "Yes, please", {"choice"}),
        ("interactive", {"type": "list_reply", "list_reply": {"id": "7", "title": "Row 7"}}, "Row 7", {"choice"}),
        ("button", {"text": "Stop", "payload": "stop"}, "Stop", {"choice"}),
        ("location", {"latitude": 52.5, "longitude": 13.4, "name": "Berlin"}, "[location] Berlin 52.5 13.4", {"location"}),
        ("reaction", {"message_id": "wamid.0", "emoji": "+1"}, "", {"content"}),
    ],
)
def test_media_and_replies_become_words_for_the_agent_and_details_in_its_context(
    kind: str, content: Any, text: str, told: set[str]
) -> None:
    [message] = whatsapp().read(json.loads(payload({"from": "49", "id": "wamid.1", "type": kind, kind: content}))).messages
    assert (message.text, message.kind) == (text, kind)
    assert told <= set(message.details)


def test_a_person_with_a_user_name_and_no_number_is_known_by_the_user_id() -> None:
    body = json.loads(payload({"id": "wamid.1", "type": "text", "text": {"body": "hello"}}))
    value = body["entry"][0]["changes"][0]["value"]
    value["contacts"] = [{"user_id": "US.13491208655302741918", "profile": {"name": "Kim", "username": "kim"}}]
    [message] = whatsapp().read(body).messages
    assert (message.sender, message.details["name"]) == ("US.13491208655302741918", "Kim")
    value["messages"][0]["from_user_id"] = "US.2"
    assert whatsapp().read(body).messages[0].sender == "US.2"
    value["messages"][0]["from"] = "4915112345"
    assert whatsapp().read(body).messages[0].sender == "4915112345"


def test_halves_of_surrogate_pairs_are_replaced_in_what_is_kept() -> None:
    [message] = whatsapp().read(json.loads(payload(text_message("wamid.\ud83d", "h\ud83di", sender="4\ude00")))).messages
    assert (message.message_id, message.text, message.sender) == ("wamid.\ufffd", "h\ufffdi", "4\ufffd")


def test_what_makes_no_sense_is_told_without_its_content() -> None:
    told = whatsapp().read(json.loads(payload({"type": "text", "text": {"body": "a private matter"}}))).skipped
    assert len(told) == 1
    assert "private" not in told[0]


def test_statuses_are_receipts_and_no_messages() -> None:
    status = {"id": "wamid.9", "status": "delivered", "recipient_id": "49", "biz_opaque_callback_data": "token-1"}
    failed = {"id": "wamid.8", "status": "failed", "errors": [{"code": 131026, "title": "Message undeliverable"}]}
    found = whatsapp().read(json.loads(payload(statuses=(status, failed, {"id": "x", "status": "deleted"}))))
    assert not found.messages
    assert [(each.status, each.token, each.provider_id, each.error) for each in found.receipts] == [
        ("delivered", "token-1", "wamid.9", ""),
        ("failed", "", "wamid.8", "Message undeliverable"),
    ]


KEYS = st.sampled_from(
    (
        *("entry", "changes", "value", "messages", "statuses", "contacts", "id", "from", "type", "text", "body", "status", "errors"),
        *("field", "metadata", "phone_number_id", "interactive", "image", "context", "profile", "wa_id"),
    )
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12) | KEYS, inner, max_size=6),
    max_leaves=25,
)


@given(JSON)
def test_no_shape_of_a_body_breaks_the_reading(body: Any) -> None:
    found = whatsapp().read(body)
    assert all(message.message_id and message.sender for message in found.messages)


@given(st.text(max_size=400), st.integers(min_value=1, max_value=60))
def test_a_split_answer_keeps_every_word_in_order_and_no_part_is_too_long(text: str, limit: int) -> None:
    parts = split(text, limit)
    assert all(0 < len(part) <= limit for part in parts)
    assert "".join("".join(part.split()) for part in parts) == "".join(text.split())


def test_an_answer_is_split_at_the_end_of_a_sentence() -> None:
    text = "First sentence. " * 5 + "The last one is here."
    parts = split(text, 50)
    assert all(part.endswith(".") for part in parts)
    assert " ".join(parts) == text
