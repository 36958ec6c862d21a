"""Several real processes, one data directory: one is frozen in a transaction, one is killed while it writes."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.services.memory.conversation import Conversation, MemorySettings
from app.services.memory.sqlite_conversations import ConversationStore
from tests.services.memory import sqlite_processes as processes

OF = Conversation("a", "", "s")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ConversationStore]:
    """Closed again at the end; a test opens it when its other processes have their slots."""
    store = ConversationStore(tmp_path, MemorySettings())
    yield store
    store.close()


def ids(store: ConversationStore) -> list[str]:
    return [turn.turn_id for turn in store.history(OF).turns]


def said(text: str) -> bytes:
    return json.dumps([{"role": "user", "content": text}]).encode()


def test_others_read_write_and_delete_while_one_is_frozen_in_a_transaction(tmp_path: Path, store: ConversationStore) -> None:
    with processes.process(processes.STOP_INSIDE_A_TRANSACTION, tmp_path) as frozen:
        processes.wait_until_stopped(frozen)
        store.open()
        assert ids(store) == ["before"]
        store.append(OF, "ours", said("ours"))
        store.probe()
        assert ids(store) == ["before", "ours"]
        assert store.clear(OF) == 2
        assert ids(store) == []
        store.append(OF, "later", said("later"))

        os.kill(frozen.pid, signal.SIGCONT)
        assert processes.line(frozen) == "committed"
        assert ids(store) == ["later"], "what was written before the delete stays deleted"
        processes.go_on(frozen)
        assert processes.line(frozen) == "swept"
        store.sweep()
        assert ids(store) == ["later"]
        assert store._own.marks() == {}, "the mark goes when the thawed process has removed its rows"


def test_a_process_killed_in_a_transaction_leaves_nothing_locked_and_nothing_half(tmp_path: Path, store: ConversationStore) -> None:
    with processes.process(processes.STOP_INSIDE_A_TRANSACTION, tmp_path) as frozen:
        processes.wait_until_stopped(frozen)
        frozen.kill()
        frozen.wait()
        store.open()
        assert store._slot.path.name == "conversations-0.sqlite"
        assert ids(store) == ["before"]
        store.append(OF, "after", said("after"))
        assert ids(store) == ["before", "after"]


@pytest.mark.parametrize("many", [1, 50, 200])
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, store: ConversationStore, many: int) -> None:
    with processes.process(processes.WRITE_FOR_EVER, tmp_path) as writer:
        acknowledged = [processes.line(writer) for _ in range(many)]
        writer.kill()
        assert writer.stdout
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    store.open()
    assert store._slot.path.name == "conversations-0.sqlite"
    turns = store.history(OF).turns
    assert [turn.turn_id for turn in turns][: len(acknowledged)] == acknowledged
    assert len(turns) <= len(acknowledged) + 1, "at most the one turn that was under way"
    assert all([message["role"] for message in json.loads(turn.messages)] == ["user", "assistant"] for turn in turns)


def test_several_writers_at_once_lose_nothing(tmp_path: Path, store: ConversationStore) -> None:
    store.open()
    with (
        processes.process(processes.WRITE_FOR_EVER, tmp_path) as one,
        processes.process(processes.WRITE_FOR_EVER.replace('f"t{number}"', 'f"u{number}"'), tmp_path) as two,
    ):
        for number in range(50):
            store.append(OF, f"v{number}", said("x"))
            assert processes.line(one) == f"t{number}"
            assert processes.line(two) == f"u{number}"
        found = ids(store)
    for prefix in "tuv":
        mine = [turn_id for turn_id in found if turn_id[0] == prefix]
        assert mine[:50] == [f"{prefix}{number}" for number in range(50)], "each writer's turns are all there, in its own order"
    assert len(found) == len(set(found))
