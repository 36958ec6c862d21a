"""Runs under a key: one at a time gets it, whoever asks, and what it answered is there afterwards."""

import dataclasses
import itertools
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from app.errors import Conflict, KeyReused, NodeError, RunUnderWay
from app.services.memory.conversation import Conversation, MemorySettings
from app.services.memory.runs import Run, RunKey
from app.services.memory.sqlite_runs import RunStore
from tests.services.memory import sqlite_processes as processes

KEY = RunKey("assistant", "", "0" * 64)
SAME, OTHER = "a" * 64, "b" * 64
ANSWER = b'{"answer":"yes"}'

CLAIM_AND_STOP = """
import os, signal, sys
from pathlib import Path
from app.services.memory.conversation import MemorySettings
from app.services.memory.runs import RunKey
from app.services.memory.sqlite_runs import RunStore

store = RunStore(Path(sys.argv[1]), MemorySettings())
store.open()
store.claim(RunKey("assistant", "", "0" * 64), "s", "theirs", "a" * 64)
print("claimed", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def opened(stack: ExitStack, folder: Path, **limits: float) -> RunStore:
    store = RunStore(folder, dataclasses.replace(MemorySettings(), **limits))  # type: ignore[arg-type]
    store.open()
    stack.callback(store.close)
    return store


def claim(store: RunStore, token: str, fingerprint: str = SAME, of: RunKey = KEY) -> Run:
    return store.claim(of, "s", token, fingerprint)


@pytest.mark.parametrize("count", [1, 3])
def test_a_key_is_claimed_once_and_answers_afterwards_wherever_it_is_asked(tmp_path: Path, stack: ExitStack, count: int) -> None:
    stores = itertools.cycle([opened(stack, tmp_path) for _ in range(count)])
    assert (claim(next(stores), "t1").state, claim(next(stores), "t1").attempt) == ("running", 1)
    with pytest.raises(RunUnderWay) as under_way:
        claim(next(stores), "t2")
    assert under_way.value.headers == {"Retry-After": "2"}
    with pytest.raises(KeyReused):
        claim(next(stores), "t2", OTHER)
    next(stores).finish(KEY, "t1", ANSWER)
    for _ in range(3):
        done = claim(next(stores), "t3")
        assert (done.state, done.answer, done.token) == ("done", ANSWER, "t1")
    with pytest.raises(KeyReused):
        claim(next(stores), "t4", OTHER)


def test_keys_of_other_agents_and_principals_are_others(tmp_path: Path, stack: ExitStack) -> None:
    store = opened(stack, tmp_path)
    claim(store, "t1")
    for of in (RunKey("other", "", KEY.key), RunKey("assistant", "team", KEY.key), RunKey("assistant", "", "1" * 64)):
        assert claim(store, "t1", OTHER, of).state == "running"


def test_a_released_or_abandoned_key_may_be_claimed_again_and_the_attempts_are_counted(tmp_path: Path, stack: ExitStack) -> None:
    mine, late = opened(stack, tmp_path), opened(stack, tmp_path, run_lease_s=0)
    claim(mine, "t1")
    mine.release(KEY, "t1")
    assert claim(mine, "t2").attempt == 2
    assert claim(late, "t3").attempt == 3  # to whom every lease is over
    with pytest.raises(Conflict, match="lease ran out"):
        claim(mine, "t2")
    with pytest.raises(Conflict, match="lease ran out"):
        mine.finish(KEY, "t2", ANSWER)


def test_of_many_that_claim_at_once_at_most_one_begins(tmp_path: Path, stack: ExitStack) -> None:
    stores = [opened(stack, tmp_path) for _ in range(4)]
    together = threading.Barrier(len(stores))

    def race(number: int, store: RunStore) -> list[bool]:
        won = []
        for turn in range(40):
            together.wait()
            try:
                won.append(claim(store, f"t{number}", of=RunKey("a", "", f"{turn:064x}")).state == "running")
            except RunUnderWay:
                won.append(False)
        return won

    with ThreadPoolExecutor(len(stores)) as pool:
        results = [future.result() for future in [pool.submit(race, number, store) for number, store in enumerate(stores)]]
    winners = [sum(turn) for turn in zip(*results, strict=True)]
    assert set(winners) <= {0, 1}
    assert sum(winners) > 0


def test_what_a_killed_process_claimed_is_under_way_until_its_lease_is_over(tmp_path: Path, stack: ExitStack) -> None:
    with processes.process(CLAIM_AND_STOP, tmp_path) as other:
        assert processes.line(other) == "claimed"
        other.kill()
        other.wait()
        with pytest.raises(RunUnderWay):
            claim(opened(stack, tmp_path), "ours")
        assert claim(opened(stack, tmp_path, run_lease_s=0), "ours").attempt == 2


def test_an_answer_that_is_too_large_is_remembered_as_given(tmp_path: Path, stack: ExitStack) -> None:
    store = opened(stack, tmp_path, max_run_bytes=10)
    claim(store, "t1")
    store.finish(KEY, "t1", ANSWER)
    assert (claim(store, "t2").state, claim(store, "t2").answer) == ("done", None)


def test_a_cleared_conversation_takes_its_answers_along_also_from_other_nodes_files(tmp_path: Path, stack: ExitStack) -> None:
    mine, other = opened(stack, tmp_path), opened(stack, tmp_path)
    claim(mine, "t1")
    mine.finish(KEY, "t1", ANSWER)
    other.clear(Conversation("assistant", "", "s"))
    assert (claim(mine, "t2").state, claim(mine, "t2").answer) == ("done", None)
    assert kept(tmp_path) == [ANSWER]
    mine.sweep()
    assert kept(tmp_path) == [None]
    assert not any(ANSWER in path.read_bytes() for path in tmp_path.glob("runs-*"))


def test_what_is_old_or_too_much_goes_also_from_files_of_the_dead(tmp_path: Path, stack: ExitStack) -> None:
    with ExitStack() as life:
        dead, mine = opened(life, tmp_path), opened(stack, tmp_path, max_runs=2)
        claim(dead, "t", of=RunKey("dead", "", "0"))
    for number in range(5):
        claim(mine, "t", of=RunKey("a", "", str(number)))
    mine.sweep()
    assert len(kept(tmp_path)) == 3
    opened(stack, tmp_path / "x").sweep()
    mine._settings = dataclasses.replace(mine._settings, run_ttl_s=0.0)
    mine.sweep()
    assert kept(tmp_path) == []


def test_a_key_is_forgotten_after_its_time(tmp_path: Path, stack: ExitStack) -> None:
    claim(opened(stack, tmp_path), "t1")
    assert claim(opened(stack, tmp_path, run_ttl_s=0), "t2", OTHER).attempt == 1


def test_a_run_that_is_not_there_cannot_be_finished_and_may_be_released(tmp_path: Path, stack: ExitStack) -> None:
    store = opened(stack, tmp_path)
    store.release(KEY, "nobody")
    with pytest.raises(NodeError):
        store.finish(KEY, "nobody", ANSWER)


def kept(folder: Path) -> list[bytes | None]:
    """The answers in all files, as they stand there."""
    found: list[bytes | None] = []
    for path in folder.glob("runs-*.sqlite"):
        with closing(sqlite3.connect(path)) as connection:
            found += [answer for (answer,) in connection.execute("SELECT answer FROM runs")]
    return found
