"""The shipped stack with deploy/shared.env: workers with volumes of their own, as on several hosts, are equal in one PostgreSQL."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from app.session import store_of
from tests.compose.stack import Stack, ask, docker, run, stack, wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def workers() -> Iterator[Stack]:
    arguments = [part for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST") for part in ("--build-arg", name)]
    docker("build", "--quiet", "--tag", "astromesh:all", "--build-arg", "LOCK=requirements-all.lock", *arguments, ".", timeout_s=240)
    docker("build", "--quiet", "--tag", "astromesh-databases:test", "tests/databases", timeout_s=240)
    with stack("tests/compose/shared.yaml", env_file="deploy/shared.env") as made:
        wait_until(lambda: list(made.members().values()).count("alive") == 4, "all four have met")
        for name in ("worker", "other"):
            wait_until(lambda name=name: told(made, name, "status")["store_id"], f"{name} has reached the database")  # type: ignore[misc]
        yield made


def told(workers: Stack, name: str, what: str) -> Any:
    """What a worker says of itself at /v1/system; only the gateway is reachable from outside."""
    script = f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/v1/system/{what}').read().decode())"
    return json.loads(docker("exec", workers.container(name), "python", "-c", script).stdout)


def test_a_conversation_goes_on_at_the_other_worker_when_its_worker_is_killed(workers: Stack) -> None:
    url = workers.url()
    first = run(url, "My name is Ada.")
    assert first.status == 200, first.json
    session, served = first.json["session_id"], first.headers["x-astromesh-node"]
    assert served in {"worker", "other"}
    docker("kill", workers.container(served))
    second = wait_until(lambda: (found := run(url, "Who am I?", session)).status == 200 and found, "the other worker goes on")
    assert second.headers["x-astromesh-node"] == ({"worker", "other"} - {served}).pop()
    assert "Ada" in second.json["answer"]
    history = ask(url, f"/v1/memory/assistant/history/{session}")
    assert len(history.json["turns"]) == 2
    docker("start", workers.container(served))
    workers.wait_listening(served)


def test_a_worker_says_that_the_database_keeps_its_conversations(workers: Stack) -> None:
    for name in ("worker", "other"):
        assert "PostgreSQL at postgres:5432/astromesh" in told(workers, name, "doctor")["checks"]["memory"]["message"]
    session = run(workers.url(), "hello").json["session_id"]
    assert {told(workers, name, "status")["store_id"] for name in ("worker", "other")} == {store_of(session)}


def test_workers_wait_for_a_database_that_is_away_and_go_on_when_it_is_back(workers: Stack) -> None:
    url, database = workers.url(), workers.container("postgres")
    session = run(url, "My name is Ada.").json["session_id"]
    docker("exec", database, "pg_ctlcluster", "17", "main", "stop", "-m", "immediate")
    away = run(url, "Who am I?", session)
    assert (away.status, away.code) == (503, "store_unavailable"), away.json
    assert int(away.headers["retry-after"]) > 0
    docker("exec", database, "pg_ctlcluster", "17", "main", "start")
    again = wait_until(lambda: (found := run(url, "Who am I?", session)).status == 200 and found, "the workers go on")
    assert "Ada" in again.json["answer"]
