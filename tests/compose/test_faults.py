"""Nodes that are killed, paused and stopped: clear errors at once, nothing hangs, nothing is lost, and all is back by itself."""

import subprocess
import time
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest

from tests.compose.conftest import WAYS
from tests.compose.stack import Stack, ask, docker, opened, run, stack, wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(120)]
EVENTS = {"Accept": "text/event-stream"}
WAITING = {"query": "wait for the release"}


@pytest.fixture(scope="module", params=list(WAYS.values()), ids=list(WAYS))
def troubled(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack of these tests' own; each of them brings back what it takes away."""
    with stack("tests/compose/with-model.yaml", ASTROMESH_MESH_ENABLED=request.param) as made:
        wait_until(lambda: run(made.url(), "hello").json["answer"] == "first last", "the attached model answers")
        yield made


def release(troubled: Stack) -> None:
    assert ask(troubled.url("model", 9000), "/release", {}).status == 200


def events_until(response: HTTPResponse, name: str) -> list[str]:
    """Names of the events up to ``name``, or up to the stream's end."""
    names = []
    while line := response.readline().decode():
        if line.startswith("event: "):
            names.append(line.removeprefix("event: ").strip())
            if names[-1] == name:
                break
    return names


@pytest.mark.parametrize("service", ["worker", "inference"])
def test_while_a_node_is_killed_the_gateway_says_so_at_once_and_goes_on_when_it_is_back(troubled: Stack, service: str) -> None:
    session = run(troubled.url(), "hello").json["session_id"]
    docker("kill", troubled.container(service))
    begun = time.monotonic()
    answer = run(troubled.url(), "hello", session)
    assert (answer.status, answer.code) == (503, "service_unavailable")
    assert time.monotonic() - begun < 5
    troubled.compose("start", service)
    troubled.wait_answering()
    history = ask(troubled.url(), f"/v1/memory/assistant/history/{session}").json
    assert [message["content"] for message in history["messages"]] == ["hello", "first last"], "what was acknowledged is still there"


@pytest.mark.parametrize("service", ["worker", "inference"])
def test_a_paused_node_hangs_nobody_and_is_back_when_it_goes_on(troubled: Stack, service: str) -> None:
    troubled.compose("pause", service)
    try:
        begun = time.monotonic()
        answer = run(troubled.url(), "hello")
        assert (answer.status, answer.code) in {(502, "peer_lost"), (503, "service_unavailable"), (504, "deadline_exceeded")}
        assert time.monotonic() - begun < 15
        begun = time.monotonic()
        assert run(troubled.url(), "hello").status >= 500
        assert time.monotonic() - begun < 5, "once it is known, nobody waits for it"
    finally:
        troubled.compose("unpause", service)
    troubled.wait_answering()


def test_a_worker_that_is_killed_under_a_stream_ends_it_with_an_error_event(troubled: Stack) -> None:
    with opened(troubled.url(), "/v1/agents/assistant/run", WAITING, EVENTS) as response:
        assert events_until(response, "token")[-1] == "token"
        docker("kill", troubled.container("worker"))
        assert events_until(response, "error")[-1] == "error"
    troubled.compose("start", "worker")
    troubled.wait_answering()


def draining(troubled: Stack, service: str) -> bool:
    """Whether the node has begun its drain, as one sees it at the gateway."""
    if service == "gateway":
        return bool(ask(troubled.url(), "/readyz").json["status"] == "draining")
    return any(peer["state"] == "draining" for peer in ask(troubled.url(), "/v1/system/status").json["peers"])


@pytest.mark.parametrize("service", ["gateway", "worker"])
def test_a_node_that_is_stopped_under_a_stream_finishes_it_first(troubled: Stack, service: str) -> None:
    with opened(troubled.url(), "/v1/agents/assistant/run", WAITING, EVENTS) as response:
        assert events_until(response, "token")[-1] == "token"
        stopping = subprocess.Popen(("docker", "stop", "--time", "12", troubled.container(service)), stdout=subprocess.DEVNULL)
        wait_until(lambda: draining(troubled, service), f"{service} drains", 5)
        release(troubled)
        assert events_until(response, "done")[-1] == "done"
    assert stopping.wait(15) == 0
    assert troubled.exit_code(service) == 0
    troubled.compose("start", service)
    troubled.wait_answering()


@pytest.mark.parametrize("service", ["gateway", "worker", "inference"])
def test_a_stream_that_outlasts_the_drain_ends_with_an_error_event_and_the_node_exits_cleanly(troubled: Stack, service: str) -> None:
    with opened(troubled.url(), "/v1/agents/assistant/run", WAITING, EVENTS) as response:
        assert events_until(response, "token")[-1] == "token"
        stopping = subprocess.Popen(("docker", "stop", "--time", "12", troubled.container(service)), stdout=subprocess.DEVNULL)
        assert events_until(response, "error")[-1] == "error"
    assert stopping.wait(15) == 0
    assert troubled.exit_code(service) == 0
    troubled.compose("start", service)
    troubled.wait_answering()
