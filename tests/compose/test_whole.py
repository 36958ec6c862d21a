"""The whole, once: a WhatsApp message comes to the gateway, an agent on a worker searches its knowledge and calculates, with a model on the
inference node, and one reply goes out; also when the worker is killed in the middle."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compose.stack import ROOT, Stack, ask, docker, healthy, opened, stack, wait_until
from tests.services.channels.graph import channels_yaml, payload, signed, text_message

pytestmark = [pytest.mark.compose, pytest.mark.timeout(180)]
HERE = Path(__file__).parent / "whole"
TRACE, PARENT = "1234567890abcdef1234567890abcdef", "00f067aa0ba902b7"
FEE = "The shipping fee is 12 euros for each parcel."
REPLY = f"{FEE} For four that is 48 (shipping)."


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack with two workers that share a store, and a price list in a collection."""
    config = tmp_path_factory.mktemp("whole") / "config"
    shutil.copytree(ROOT / "config", config)
    shutil.copy(HERE / "clerk.agent.yaml", config / "agents")
    channels = channels_yaml("http://servers:9000").replace("default_agent: assistant", "default_agent: clerk")
    (config / "channels.yaml").write_text(channels)
    for path in (config.parent, *config.rglob("*"), config):
        path.chmod(0o755 if path.is_dir() else 0o644)
    with stack("tests/compose/whole/stack.yaml", workers=2, WHOLE_CONFIG=str(config)) as made:
        wait_until(lambda: list(made.members().values()).count("alive") == 4, "four members are alive")
        prices = {
            "collection": "prices",
            "create": True,
            "documents": [{"id": "shipping", "text": FEE}, {"id": "opening", "text": "We open at 9."}],
        }
        assert ask(made.url(), "/v1/rag/ingest", prices).status == 200
        yield made


def write(made: Stack, message_id: str, text: str) -> None:
    """What WhatsApp does when a person writes: it tells the gateway, and is told that the message is kept."""
    raw = payload(text_message(message_id, text))
    headers = {**signed(raw), "traceparent": f"00-{TRACE}-{PARENT}-01"}
    with opened(made.url(), "/v1/channels/whatsapp/webhook", raw, headers) as response:
        assert response.status == 200, response.read()


def seen(made: Stack) -> Any:
    return ask(made.url("servers", 9000), "/seen").json


def sent(made: Stack, count: int) -> list[Any]:
    """What people have got, when it is so many messages."""
    found: list[Any] = wait_until(lambda: rows if len(rows := seen(made)["sent"]) >= count else None, f"{count} replies", 60)
    return found


def spans(made: Stack) -> list[dict[str, Any]]:
    """All spans of the trace, told by any node."""

    def flat(nodes: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for node in nodes:
            yield node
            yield from flat(node["children"])

    return list(flat(ask(made.url(), f"/v1/traces/{TRACE}").json["spans"]))


def test_a_message_is_answered_by_knowledge_and_arithmetic_in_one_trace_over_all_nodes(whole: Stack) -> None:
    write(whole, "wamid.in.1", "What does shipping four parcels cost?")
    assert sent(whole, 1) == [{"to": "4915112345", "text": REPLY}]
    assert seen(whole)["embedded"] >= 3, "the inference node embedded two documents and a question"
    wanted = {"execute_tool knowledge_search", "execute_tool calculator", "retrieval", "invoke_agent clerk"}

    def complete() -> list[dict[str, Any]]:
        found = spans(whole)
        return found if wanted <= {span["name"] for span in found} else []

    found = wait_until(complete, "the trace is whole")
    nodes = {str(span["node"]).partition("-")[0] for span in found}
    assert {"gateway", "worker", "inference"} <= nodes, nodes


def test_a_worker_that_is_killed_in_the_middle_costs_no_reply_and_makes_none_twice(whole: Stack) -> None:
    before = seen(whole)
    write(whole, "wamid.in.2", "Please wait, then tell what shipping four parcels costs.")
    wait_until(lambda: seen(whole)["held"] > before["held"], "the model has the question")
    victim = whole.container_at("worker", wait_until(lambda: busy(whole), "a worker has the run"), 2)
    docker("kill", victim)
    wait_until(lambda: seen(whole)["held"] > before["held"] + 1, "another worker has asked the model again", 60)
    ask(whole.url("servers", 9000), "/release", {})
    replies = sent(whole, len(before["sent"]) + 1)
    docker("start", victim)
    wait_until(lambda: healthy(victim), "the worker is back")
    write(whole, "wamid.in.2", "Please wait, then tell what shipping four parcels costs.")  # WhatsApp is not sure that we know
    write(whole, "wamid.in.3", "And what does shipping four parcels cost now?")
    assert sent(whole, len(replies) + 1)[len(before["sent"]) :] == [{"to": "4915112345", "text": REPLY}] * 2


def busy(made: Stack) -> str:
    """The URL of the worker that the gateway waits for."""
    peers = ask(made.url(), "/v1/system/status").json["peers"]
    return next((str(peer["url"]) for peer in peers if peer["in_flight"]), "")
