"""The channels service over its paths, between a fake Graph API and agents that are functions."""

import asyncio
import dataclasses
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from app.body import JSONAnswer
from app.call import Reply, call
from app.context import CURRENT, background, current
from app.errors import AgentNotFound, BadRequest, ConfigError, Conflict, Forbidden, NodeError, NotFound, PeerLost, Unauthorized
from app.services.channels import Channels
from app.services.channels.message import Person
from app.services.channels.settings import Settings, session_of
from app.services.channels.signature import HEADER, sign
from app.tracing import OFF, Recorder, active
from tests.services.channels.graph import ACCESS, PHONE, TOKEN, FakeGraph, channels_yaml, payload, signed, text_message
from tests.support import Neighbours, mounted, node_context, serve

HOOK = "/v1/channels/whatsapp/webhook"


@dataclass
class FakeAgents:
    """An agents service: ``answer`` makes the answer of a run from its body."""

    answer: Callable[[dict[str, Any]], Any] = lambda body: f"You said: {body['query']}"
    runs: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    principals: set[str] = field(default_factory=set)
    traces: list[str] = field(default_factory=list)
    spans: list[str] = field(default_factory=list)

    async def run(self, request: Request) -> Response:
        body = await request.json()
        self.runs.append(body)
        self.keys.append(request.headers["idempotency-key"])
        self.principals.add(current().principal)
        self.traces.append(current().trace_id)
        self.spans.append(active().span_id)
        answer = self.answer(body)
        return JSONAnswer({"answer": await answer if isinstance(answer, Awaitable) else answer, "session_id": body["session_id"]})

    def app(self) -> Router:
        return Router([Route("/v1/agents/{name}/run", self.run, methods=["POST"])])


@dataclass
class World:
    app: ASGIApp
    graph: FakeGraph
    agents: FakeAgents
    service: Channels
    draining: asyncio.Event
    folder: Path

    def owned(self) -> int:
        """How many conversations are being worked on."""
        with closing(sqlite3.connect(self.folder / "channels" / "messages.sqlite")) as file:
            return int(file.execute("SELECT count(*) FROM conversations WHERE owner != ''").fetchone()[0])

    async def deliver(self, raw: bytes) -> Any:
        return await get(self.app, "POST", HOOK, raw, signed(raw))


async def get(app: ASGIApp, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
    sent = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    reply: Reply
    async with call(app, method, path, body=body, headers=sent) as reply:
        assert reply.status == 200
        raw = await reply.read()
        return json.loads(raw) if raw[:1] in b"{[" else raw.decode()


@asynccontextmanager
async def world(
    folder: Path,
    agents: FakeAgents | None = None,
    *,
    more: str = "",
    config: Mapping[str, Any] | None = None,
    graph: FakeGraph | None = None,
    traces: Recorder = OFF,
) -> AsyncIterator[World]:
    graph, agents = graph or FakeGraph(), agents or FakeAgents()
    async with serve(graph) as url:
        (folder / "config").mkdir(exist_ok=True)
        (folder / "config" / "channels.yaml").write_text(channels_yaml(url, more))
        draining = asyncio.Event()
        node = replace(node_context(folder, Neighbours(agents=agents.app())), traces=traces, draining=draining)
        service = Channels(config or {}, node)
        async with mounted(service) as app:
            yield World(app, graph, agents, service, draining, folder)


async def test_a_message_is_answered_by_the_agent_in_a_session_of_channel_number_and_sender(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        assert await there.deliver(payload(text_message("wamid.1", "hello"))) == {"received": 1, "new": 1, "receipts": 0}
        await there.graph.until(lambda graph: len(graph.taken) == 1)
    [run] = there.agents.runs
    assert (run["query"], run["session_id"]) == ("hello", session_of(Person("whatsapp", PHONE, "4915112345")))
    assert "4915112345" not in run["session_id"]
    assert run["context"]["channel"]["messages"] == [{"name": "Kim"}]
    assert there.agents.principals == {"channel.whatsapp"}
    [sent] = there.graph.taken
    assert (sent["to"], sent["text"]["body"], sent["context"]["message_id"]) == ("4915112345", "You said: hello", "wamid.1")
    assert sent["biz_opaque_callback_data"]
    assert there.graph.authorizations == {f"Bearer {ACCESS}"}
    assert there.graph.read[0]["message_id"] == "wamid.1"
    assert there.graph.read[0]["typing_indicator"] == {"type": "text"}


async def test_the_answer_goes_on_in_the_trace_of_the_call_that_brought_the_message(tmp_path: Path) -> None:
    trace, hook = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    recorder = Recorder()
    async with world(tmp_path, traces=recorder) as there:
        token = CURRENT.set(replace(background(), traceparent=f"00-{trace}-{hook}-01"))
        await there.deliver(payload(text_message("wamid.1", "hello")))
        CURRENT.reset(token)
        await there.graph.until(lambda graph: len(graph.taken) == 1)
    [told] = recorder.spans(trace)
    assert (told.name, told.kind, told.parent_id, told.status) == ("answer whatsapp", "internal", hook, "ok")
    assert there.agents.spans == [told.span_id], "what the agent does is below it"


async def test_the_same_message_delivered_again_and_at_once_is_answered_once(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        raw = payload(text_message("wamid.1", "hello"))
        told = await asyncio.gather(*(there.deliver(raw) for _ in range(20)))
        assert sum(each["new"] for each in told) == 1
        await there.deliver(payload(text_message("wamid.2", "bye")))
        await there.graph.until(lambda graph: len(graph.taken) == 2)
    assert there.graph.texts == ["You said: hello", "You said: bye"]


async def test_a_thousand_updates_in_one_call_are_kept_and_each_person_is_answered(tmp_path: Path) -> None:
    messages = [text_message(f"wamid.{number}", f"m{number}", sender=f"49{number % 50}") for number in range(1_000)]
    async with world(tmp_path, config={"concurrency": 50}) as there:
        assert (await there.deliver(payload(*messages)))["new"] == 1_000
        await there.graph.until(lambda graph: len(graph.taken) >= 100)
    by_person: dict[str, list[int]] = {}
    for run in there.agents.runs:
        by_person.setdefault(run["session_id"], []).append(int(run["query"][1:]))
    assert all(order == sorted(order) for order in by_person.values())


async def test_statuses_and_reactions_wake_no_agent(tmp_path: Path) -> None:
    reaction = {"from": "49", "id": "wamid.1", "type": "reaction", "reaction": {"message_id": "x", "emoji": "+1"}}
    async with world(tmp_path) as there:
        await there.deliver(payload(reaction, statuses=({"id": "wamid.o", "status": "read"},)))
        await there.deliver(payload(text_message("wamid.2", "hello")))
        await there.graph.until(lambda graph: len(graph.taken) == 1)
        [row] = (await get(there.app, "GET", "/v1/channels"))["channels"]
    assert [run["query"] for run in there.agents.runs] == ["hello"]
    assert row["inbox"] == {"done": 1, "ignored": 1}


async def test_what_comes_while_an_answer_is_on_its_way_waits_its_turn_or_is_merged(tmp_path: Path) -> None:
    for mode, expected in (("queue", ["one", "two", "three"]), ("merge", ["one", "two\nthree"])):
        folder = tmp_path / mode
        folder.mkdir()
        busy, gate = asyncio.Event(), asyncio.Event()

        async def slow(body: dict[str, Any], busy: asyncio.Event = busy, gate: asyncio.Event = gate) -> str:
            busy.set()
            await gate.wait()
            return f"re: {body['query']}"

        async with world(folder, FakeAgents(slow), more=f"    while_busy: {mode}") as there:
            await there.deliver(payload(text_message("wamid.1", "one")))
            await busy.wait()
            await there.deliver(payload(text_message("wamid.2", "two"), text_message("wamid.3", "three")))
            gate.set()
            await there.graph.until(lambda graph, expected=expected: len(graph.taken) == len(expected))  # type: ignore[misc]
        assert [run["query"] for run in there.agents.runs] == expected


async def test_a_long_answer_goes_out_in_parts_and_in_order(tmp_path: Path) -> None:
    text = "This is a sentence of a long answer. " * 300
    async with world(tmp_path, FakeAgents(lambda _: text)) as there:
        await there.deliver(payload(text_message("wamid.1", "tell me")))
        await there.graph.until(lambda graph: len(graph.taken) == 3)
    assert all(len(part) <= 4_096 and part.endswith(".") for part in there.graph.texts)
    assert " ".join(there.graph.texts) == text.strip()
    assert ["context" in sent for sent in there.graph.taken] == [True, False, False]


@pytest.mark.parametrize(
    "refusal",
    [
        (429, {"error": {"message": "slow down"}}),
        (503, {"error": {"message": "later"}}),
        (400, {"error": {"message": "Rate limit hit", "code": 130429}}),
    ],
)
async def test_a_refusal_for_now_is_tried_again_until_it_is_taken(
    tmp_path: Path, refusal: tuple[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.channels.conversation.back_off_s", lambda attempts: 0.01)
    async with world(tmp_path, graph=FakeGraph([refusal, refusal])) as there:
        await there.deliver(payload(text_message("wamid.1", "hello")))
        await there.graph.until(lambda graph: len(graph.taken) == 1)
        assert there.graph.asked == 3


async def test_a_refusal_for_good_is_a_dead_letter_that_an_operator_sees_and_retries(tmp_path: Path) -> None:
    refused = (400, {"error": {"message": "x", "code": 131026, "error_data": {"details": "Message undeliverable."}}})
    async with world(tmp_path, graph=FakeGraph([refused])) as there:
        await there.deliver(payload(text_message("wamid.1", "hello")))
        await there.graph.until(lambda graph: graph.asked == 1)
        [letter] = await letters(there, "outbox", "dead")
        assert "Message undeliverable. (code 131026)" in letter["error"]
        assert (await there.service.check())["channels"].status == "degraded"
        retried = await get(there.app, "POST", f"/v1/channels/whatsapp/outbox/{letter['token']}/retry")
        assert retried == {"id": letter["token"], "state": "ready"}
        await there.graph.until(lambda graph: len(graph.taken) == 1)
        await letters(there, "outbox", "sent")
        with pytest.raises(Conflict, match="is sent; only dead letters"):
            await get(there.app, "POST", f"/v1/channels/whatsapp/outbox/{letter['token']}/retry")
        with pytest.raises(NotFound):
            await get(there.app, "POST", "/v1/channels/whatsapp/outbox/none/retry")


async def letters(there: World, box: str, state: str) -> list[Any]:
    """The letters in that state, once there are some."""
    async with asyncio.timeout(10):
        while True:
            found: list[Any] = (await get(there.app, "GET", f"/v1/channels/whatsapp/{box}?state={state}"))[box]
            if found:
                return found


async def test_what_nobody_knows_to_be_taken_is_settled_by_its_status_and_not_sent_again(tmp_path: Path) -> None:
    async with world(tmp_path, graph=FakeGraph(["break"]), config={"uncertain_after_s": 600}) as there:
        await there.deliver(payload(text_message("wamid.1", "hello"), text_message("wamid.2", "and?")))
        [letter] = await letters(there, "outbox", "uncertain")
        status = {"id": "wamid.o1", "status": "delivered", "biz_opaque_callback_data": letter["token"]}
        await there.deliver(payload(statuses=(status,)))
        await there.graph.until(lambda graph: len(graph.taken) == 2)
    assert there.graph.texts == ["You said: hello", "You said: and?"]


@pytest.mark.parametrize(("choice", "texts"), [("send_again", 2), ("dead_letter", 1)])
async def test_without_a_status_the_configured_choice_settles_it(tmp_path: Path, choice: str, texts: int) -> None:
    config = {"uncertain_after_s": 0.05, "uncertain": choice}
    async with world(tmp_path, graph=FakeGraph(["break"]), config=config) as there:
        await there.deliver(payload(text_message("wamid.1", "hello")))
        await letters(there, "outbox", "sent" if choice == "send_again" else "dead")
    assert there.graph.texts == ["You said: hello"] * texts


async def test_an_agent_that_is_away_is_asked_again_and_one_that_is_none_is_a_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.channels.conversation.back_off_s", lambda attempts: 0.01)
    script: list[NodeError | str] = [PeerLost("gone"), PeerLost("gone"), "Here I am.", AgentNotFound("There is no agent.")]

    def answer(body: dict[str, Any]) -> str:
        entry = script.pop(0)
        if isinstance(entry, NodeError):
            raise entry
        return entry

    async with world(tmp_path, FakeAgents(answer), more="    failure_reply: Sorry, not now.") as there:
        await there.deliver(payload(text_message("wamid.1", "hello")))
        await there.graph.until(lambda graph: len(graph.taken) == 1)
        await there.deliver(payload(text_message("wamid.2", "hello?")))
        await there.graph.until(lambda graph: len(graph.taken) == 2)
        [letter] = await letters(there, "inbox", "dead")
    assert there.graph.texts == ["Here I am.", "Sorry, not now."]
    assert letter["error"] == "agent_not_found: There is no agent."
    assert len(set(there.agents.keys[:3])) == 1  # the same run, however often it is asked for


async def test_an_agent_that_breaks_is_asked_as_seldom_as_one_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.channels.conversation.back_off_s", lambda attempts: 0.01)

    def answer(body: dict[str, Any]) -> str:
        raise KeyError("a defect")

    async with world(tmp_path, FakeAgents(answer), config={"max_attempts": 3}) as there:
        await there.deliver(payload(text_message("wamid.1", "hello")))
        [letter] = await letters(there, "inbox", "dead")
    assert (len(there.agents.runs), letter["attempts"]) == (3, 3)
    assert letter["error"] == "internal_error: asking the agent failed: KeyError"


async def test_halves_of_surrogate_pairs_go_through_in_both_directions(tmp_path: Path) -> None:
    async with world(tmp_path, FakeAgents(lambda body: f"\ud83d {body['query']}")) as there:
        await there.deliver(payload({**text_message("wamid.1", "a\ude00"), "context": {"id": "\ud83d"}}))
        await there.graph.until(lambda graph: len(graph.taken) == 1)
    assert there.graph.texts == ["\ufffd a\ufffd"]


async def test_the_key_of_a_run_is_one_whatever_the_messages_are_called(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await there.deliver(payload(text_message("wamid." + "\u00e4" * 3_000, "hello")))
        await there.graph.until(lambda graph: len(graph.taken) == 1)
    [key] = there.agents.keys
    assert len(key) <= 255
    assert key.isascii()


async def test_a_conversation_is_worked_on_once_though_its_lease_could_not_be_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds the file for longer than the lease."""
    for module in ("conversation", "store"):
        monkeypatch.setattr(f"app.services.channels.{module}.LEASE_S", 0.2)
    monkeypatch.setattr("app.services.channels.database.BUSY_TIMEOUT_S", 0.05)
    asked, gate = asyncio.Event(), asyncio.Event()

    async def slow(body: dict[str, Any]) -> str:
        asked.set()
        await gate.wait()
        return "here"

    async with world(tmp_path, FakeAgents(slow)) as there:
        await there.deliver(payload(text_message("wamid.1", "hello")))
        await asyncio.wait_for(asked.wait(), 10)
        with held(tmp_path), warned("could not be renewed") as failed:
            for _ in range(5):
                failed.clear()
                await asyncio.wait_for(failed.wait(), 10)
        await there.deliver(payload(text_message("wamid.2", "hello?", sender="50")))
        gate.set()
        await there.graph.until(lambda graph: len(graph.taken) == 2)
    assert len(there.agents.runs) == 2


async def test_that_a_message_was_taken_is_noted_though_the_file_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.channels.database.BUSY_TIMEOUT_S", 0.05)
    graph = FakeGraph(["wait"])
    async with world(tmp_path, graph=graph) as there:
        await there.deliver(payload(text_message("wamid.1", "hello")))
        await graph.until(lambda graph: len(graph.taken) == 1)
        with held(tmp_path), warned("cannot be noted yet") as failed:
            graph.gate.set()
            await asyncio.wait_for(failed.wait(), 10)
        await letters(there, "outbox", "sent")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Another process writes, and does not come to an end."""
    with closing(sqlite3.connect(folder / "channels" / "messages.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def warned(text: str) -> Iterator[asyncio.Event]:
    """Set whenever a conversation logs that."""
    came = asyncio.Event()

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                came.set()

    log, told = logging.getLogger("app.services.channels.conversation"), Told()
    log.addHandler(told)
    yield came
    log.removeHandler(told)


async def test_what_is_being_sent_when_the_node_stops_is_sent_to_the_end(tmp_path: Path) -> None:
    graph = FakeGraph(["wait"])
    async with world(tmp_path, graph=graph) as there:
        await there.deliver(payload(text_message("wamid.1", "hello")))
        await graph.until(lambda graph: len(graph.taken) == 1)
        asyncio.get_running_loop().call_soon(graph.gate.set)
    async with world(tmp_path, graph=graph) as again:
        assert (await get(again.app, "GET", "/v1/channels"))["channels"][0]["outbox"] == {"sent": 1}


async def test_a_draining_node_delivers_what_it_has_and_asks_for_no_more(tmp_path: Path) -> None:
    busy, gate = asyncio.Event(), asyncio.Event()

    async def slow(body: dict[str, Any]) -> str:
        busy.set()
        await gate.wait()
        return f"re: {body['query']}"

    async with world(tmp_path, FakeAgents(slow)) as there:
        await there.deliver(payload(text_message("wamid.1", "one"), text_message("wamid.2", "two")))
        await asyncio.wait_for(busy.wait(), 10)
        there.draining.set()
        gate.set()
        await letters(there, "outbox", "sent")
        async with asyncio.timeout(10):
            while there.owned():
                await get(there.app, "GET", "/v1/channels")
    assert (there.graph.texts, len(there.agents.runs)) == (["re: one"], 1)


async def test_a_template_stands_for_a_whole_answer_and_for_one_that_the_platform_finds_too_late(tmp_path: Path) -> None:
    template = "    template: {name: we_have_news, language: {code: en}}"
    late = (400, {"error": {"message": "Re-engagement message", "code": 131047}})
    text = "This is a sentence of a long answer. " * 200
    async with world(tmp_path, FakeAgents(lambda _: text), more=template, graph=FakeGraph([late, None, late])) as there:
        await there.deliver(payload(text_message("wamid.1", "tell me")))
        [letter] = await letters(there, "outbox", "dead")
        await letters(there, "outbox", "sent")
    assert [sent["type"] for sent in there.graph.taken] == ["template"]
    assert (letter["part"], letter["parts"]) == (2, 2)


async def test_outside_the_window_a_template_goes_out_or_the_letter_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.channels.whatsapp.WhatsApp.window_s", 0.0)
    template = "    template: {name: we_have_news, language: {code: en}}"
    for more, expected in ((template, ["template"]), ("", [])):
        folder = tmp_path / (more[:12].strip() or "bare")
        folder.mkdir()
        async with world(folder, more=more) as there:
            await there.deliver(payload(text_message("wamid.1", "hello")))
            [letter] = await letters(there, "outbox", "sent" if more else "dead")
        assert [sent["type"] for sent in there.graph.taken] == expected
        assert ("window" in letter["error"]) is not bool(more)


async def test_nothing_is_believed_without_a_signature_and_nothing_malformed_breaks_anything(tmp_path: Path) -> None:
    raw = payload(text_message("wamid.1", "hello"))
    async with world(tmp_path) as there:
        with pytest.raises(Unauthorized):
            await get(there.app, "POST", HOOK, raw, {"Content-Type": "application/json"})
        with pytest.raises(Unauthorized):
            await get(there.app, "POST", HOOK, raw, signed(raw, "another secret"))
        for odd in (b"[]", b'{"entry": 1}', payload({"id": "wamid.2", "type": "text"})):
            assert (await get(there.app, "POST", HOOK, odd, signed(odd)))["new"] == 0
        assert await get(there.app, "GET", f"{HOOK}?hub.mode=subscribe&hub.verify_token={TOKEN}&hub.challenge=42") == "42"
        with pytest.raises(Forbidden):
            await get(there.app, "GET", f"{HOOK}?hub.mode=subscribe&hub.verify_token=no&hub.challenge=42")
        with pytest.raises(BadRequest, match="limit is"):
            await get(there.app, "GET", f"/v1/channels/whatsapp/inbox?limit={'0' * 8}1{'0' * 20}")
        with pytest.raises(NotFound, match="there is whatsapp"):
            await get(there.app, "POST", "/v1/channels/sms/webhook", raw, signed(raw))
    assert not there.agents.runs


async def test_what_was_kept_before_a_stop_is_answered_after_the_next_start(tmp_path: Path) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def stuck(body: dict[str, Any]) -> str:
        asked.set()
        await never.wait()
        return "never"

    async with world(tmp_path, FakeAgents(stuck)) as there:
        await there.deliver(payload(text_message("wamid.1", "hello")))
        async with asyncio.timeout(10):
            await asked.wait()
    async with world(tmp_path) as again:
        await again.graph.until(lambda graph: len(graph.taken) == 1)
    assert again.graph.texts == ["You said: hello"]


async def test_two_gateways_with_one_store_answer_each_message_once(tmp_path: Path) -> None:
    raws = [payload(text_message(f"wamid.{number}", f"m{number}", sender=f"49{number % 5}")) for number in range(40)]
    async with world(tmp_path) as there:
        other = Channels({}, node_context(tmp_path, Neighbours(agents=there.agents.app())))
        async with mounted(other) as second:
            for raw in raws:
                await asyncio.gather(there.deliver(raw), get(second, "POST", HOOK, raw, signed(raw)))
            await there.graph.until(lambda graph: len(graph.taken) == 40)
            await letters(there, "outbox", "sent")
    assert sorted(there.graph.texts) == sorted(f"You said: m{number}" for number in range(40))


async def test_a_node_without_channels_says_where_to_configure_them(tmp_path: Path) -> None:
    service = Channels({}, node_context(tmp_path))
    async with mounted(service) as app:
        with pytest.raises(NotFound, match=r"none; configure it in channels\.yaml"):
            await get(app, "POST", HOOK, b"{}")
        assert await get(app, "GET", "/v1/channels") == {"channels": []}
        assert (await service.check())["channels"].status == "ok"
    assert not (tmp_path / "channels").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "channels:\n  whatsapp:\n    app_secret: ${NONE}\n",
            ["names ${NONE}, which is not set; set NONE, or NONE_FILE", "verify_token: is missing"],
        ),
        ("channels:\n  sms:\n    a: b\n", ["is of type 'sms', which there is not"]),
        ("channels:\n  Bad Name: {type: telegram}\n", ["cannot be a channel's name", "bot_token: is missing"]),
        ("channels:\n  caf\u00e9: {type: telegram}\n", ["cannot be a channel's name"]),  # it goes into headers
        (
            "channels:\n  hook: {type: webhook, secret: 1, callback_url: x, default_agent: a, extra: 1}\n",
            ["channels.hook.secret", "extra"],
        ),
        ("chanels: {}\n", ["chanels"]),
    ],
)
async def test_every_problem_of_the_file_is_told_at_once(tmp_path: Path, text: str, told: list[str]) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "channels.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        async with Channels({}, node_context(tmp_path)).open():
            pass
    assert all(each in str(raised.value) for each in told), str(raised.value)


class Callback:
    """The other side of the generic webhook."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.came = asyncio.Event()

    async def take(self, request: Request) -> Response:
        self.got.append((dict(request.headers), await request.body()))
        self.came.set()
        return JSONResponse({"id": "theirs-1"})


async def test_any_system_is_attached_by_the_signed_webhook(tmp_path: Path) -> None:
    secret, callback = "a-secret-of-sixteen-or-more", Callback()
    async with serve(Router([Route("/answers", callback.take, methods=["POST"])])) as url:
        (tmp_path / "config").mkdir()
        section = {"type": "webhook", "secret": "${CRM_SECRET}", "callback_url": f"{url}/answers", "default_agent": "assistant"}
        (tmp_path / "config" / "channels.yaml").write_text(json.dumps({"channels": {"crm": section}}))
        agents = FakeAgents()
        node = node_context(tmp_path, Neighbours(agents=agents.app()), {"CRM_SECRET": secret})
        async with mounted(Channels({}, node)) as app:
            raw = json.dumps({"id": "m-1", "sender": "kim@example.org", "text": "hello", "metadata": {"ticket": 7}}).encode()
            told = await get(app, "POST", "/v1/channels/crm/webhook", raw, {HEADER: sign(secret, raw)})
            assert told["new"] == 1
            async with asyncio.timeout(10):
                await callback.came.wait()
    [(headers, body)] = callback.got
    assert headers[HEADER.lower()] == sign(secret, body)
    answer = json.loads(body)
    assert headers["idempotency-key"] == answer["id"]
    assert (answer["recipient"], answer["in_reply_to"], answer["text"]) == ("kim@example.org", "m-1", "You said: hello")
    assert agents.runs[0]["context"]["channel"]["messages"] == [{"metadata": {"ticket": 7}}]
    assert agents.runs[0]["session_id"] == session_of(Person("crm", "", "kim@example.org"))


def test_settings_schema_and_reference_agree() -> None:
    root = Path(__file__).parents[3]
    schema = json.loads((root / "app/services/channels/schema.json").read_bytes())["configuration"]
    reference = (root / "docs/channels.md").read_text()
    defaults = {each.name: each.default for each in dataclasses.fields(Settings)}
    assert schema["properties"].keys() == defaults.keys()
    for name, default in defaults.items():
        assert f"| `{name}` | {default} |" in reference
