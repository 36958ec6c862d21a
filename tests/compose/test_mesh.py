"""The stack as it is shipped, on the mesh, with three workers: nodes are killed, paused, cut off and restarted while a client asks."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

import pytest

from tests.compose.stack import Answer, Stack, ask, docker, healthy, opened, run, stack, wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(180)]
WORKERS = 3
CHAT = {"model": "paced", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def scaled() -> Iterator[Stack]:
    """Three workers, an inference node with an attached model, and the gateway; each test brings back what it takes away."""
    with stack("tests/compose/with-model.yaml", workers=WORKERS) as made:
        wait_until(lambda: run(made.url(), "hello").json["answer"] == "first last", "the attached model answers")
        whole(made)
        yield made


def whole(made: Stack, within_s: float = 30.0) -> dict[str, str]:
    """Until the gateway sees five members alive and nobody else."""

    def complete() -> dict[str, str]:
        members = made.members()
        return members if sorted(members.values()) == ["alive"] * 5 else {}

    found: dict[str, str] = wait_until(complete, "five members are alive, and no other is there", within_s)
    return found


def revive(made: Stack, container: str) -> None:
    docker("start", container)
    wait_until(lambda: healthy(container), "it listens")
    whole(made)


def worker_of(made: Stack, answer: Answer) -> str:
    """The container of the worker that served an answer."""
    nodes = ask(made.url(), "/v1/mesh/state").json["nodes"]
    return made.container_at("worker", next(node["url"] for node in nodes if node["name"] == answer.headers["x-astromesh-node"]), WORKERS)


@contextmanager
def asking(made: Stack) -> Iterator[list[Answer]]:
    """A client that asks the gateway for chat completions, one after the other, for the time of the block; all must be answered."""
    answers, stop = list[Answer](), threading.Event()
    url, failures = made.url(), list[str]()

    def go_on() -> None:
        while not stop.is_set():
            try:
                answers.append(ask(url, "/v1/chat/completions", CHAT))
            except (OSError, HTTPException, ValueError) as error:
                failures.append(repr(error))

    client = threading.Thread(target=go_on)
    client.start()
    try:
        yield answers
    finally:
        stop.set()
        client.join(60)
    assert not failures
    assert [answer.json for answer in answers if answer.status != 200] == []
    assert len(answers) > 10


def test_five_nodes_are_one_mesh_and_each_is_reached_at_the_address_it_tells(scaled: Stack) -> None:
    members = whole(scaled)
    assert not [url for url in members if any(bad in url for bad in ("0.0.0.0", "127.", "localhost"))]
    script = "import sys, urllib.request; [urllib.request.urlopen(u + '/livez', timeout=5).read() for u in sys.argv[1:]]"
    for service, number in (("gateway", 1), ("worker", 1), ("worker", 3), ("inference", 1)):
        docker("exec", scaled.container(service, number), "python", "-c", script, *members)


def test_a_worker_that_is_killed_under_a_conversation_is_replaced_and_nothing_that_was_acknowledged_is_lost(scaled: Stack) -> None:
    first = run(scaled.url(), "hello")
    victim = worker_of(scaled, first)
    with asking(scaled):
        docker("kill", victim)
        for turn in range(2, 6):
            again = run(scaled.url(), "hello", first.json["session_id"])
            assert again.status == 200, again.json
            history = ask(scaled.url(), f"/v1/memory/assistant/history/{first.json['session_id']}").json
            assert len(history["turns"]) == turn
    revive(scaled, victim)


def test_a_run_in_a_killed_workers_hands_ends_in_peer_lost_at_once(scaled: Stack) -> None:
    outcome = list[Answer]()
    waiting = threading.Thread(target=lambda: outcome.append(run(scaled.url(), "wait for the release")))
    waiting.start()

    def busy() -> str:
        peers = ask(scaled.url(), "/v1/system/status").json["peers"]
        return next((str(peer["url"]) for peer in peers if peer["in_flight"]), "")

    victim = scaled.container_at("worker", wait_until(busy, "a worker has the run"), WORKERS)
    begun = time.monotonic()
    docker("kill", victim)
    waiting.join(10)
    assert [(answer.status, answer.code) for answer in outcome] == [(502, "peer_lost")]
    assert time.monotonic() - begun < 5
    revive(scaled, victim)


def test_a_paused_worker_hangs_nobody_and_its_conversation_goes_on_elsewhere(scaled: Stack) -> None:
    first = run(scaled.url(), "hello")
    victim = worker_of(scaled, first)
    with asking(scaled):
        docker("pause", victim)
        try:
            begun = time.monotonic()
            wait_until(lambda: "suspect" in scaled.members().values(), "the gateway has noticed", 15)
            assert run(scaled.url(), "hello", first.json["session_id"]).status == 200
            assert time.monotonic() - begun < 15
            for _ in range(5):
                begun = time.monotonic()
                assert run(scaled.url(), "hello", first.json["session_id"]).status == 200
                assert time.monotonic() - begun < 3, "once it is known, nobody waits for it"
        finally:
            docker("unpause", victim)
    whole(scaled)


def test_the_gateway_the_only_seed_restarts_and_the_mesh_is_the_same_without_duplicates(scaled: Stack) -> None:
    before = whole(scaled)
    docker("kill", scaled.container("gateway"))
    revive(scaled, scaled.container("gateway"))
    assert set(whole(scaled)) == set(before)
    scaled.wait_answering()


def test_a_worker_that_is_cut_off_from_the_network_comes_back_when_it_is_joined_again(scaled: Stack) -> None:
    victim, network = scaled.container("worker", 2), f"{scaled.project}_default"
    with asking(scaled):
        docker("network", "disconnect", network, victim)
        try:
            wait_until(lambda: sorted(scaled.members().values()).count("dead") == 1, "the lost worker is dead", 45)
            assert run(scaled.url(), "hello").status == 200
        finally:
            docker("network", "connect", network, victim)
    whole(scaled, 60)


def test_workers_restart_one_after_the_other_and_no_completion_fails(scaled: Stack) -> None:
    with asking(scaled):
        for number in range(1, WORKERS + 1):
            docker("restart", "--time", "12", scaled.container("worker", number))
            whole(scaled)


def test_a_stopped_worker_is_out_of_the_view_without_suspicion(scaled: Stack) -> None:
    victim = scaled.container("worker", 3)
    docker("stop", "--time", "12", victim)
    assert sorted(scaled.members().values()) == ["alive"] * 4, "it has left: nobody had to notice"
    revive(scaled, victim)


def test_a_stream_from_a_worker_that_is_killed_ends_in_an_error_event(scaled: Stack) -> None:
    events = {"Accept": "text/event-stream"}
    with opened(scaled.url(), "/v1/agents/assistant/run", {"query": "wait for the release"}, events) as response:
        while not response.readline().startswith(b"event: token"):
            pass
        for number in range(1, WORKERS + 1):
            docker("kill", scaled.container("worker", number))
        assert b"event: error" in response.read()
    scaled.compose("up", "--no-build", "--detach", "--scale", f"worker={WORKERS}")
    whole(scaled)
