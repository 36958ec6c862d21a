"""The laws of a conversation store, over one store alone and over three that share a data directory."""

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import Conflict
from app.services.memory.conversation import Conversation, MemorySettings, Part
from app.services.memory.sqlite_conversations import ConversationStore

OF = Conversation("assistant", "", "s1")
Next = Callable[[], ConversationStore]


@pytest.fixture(params=[1, 3], ids=["alone", "shared"])
def turn_about(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Next]:
    """Each call gives the next of the stores of one directory."""
    with ExitStack() as stack:
        stores = [opened(stack, tmp_path) for _ in range(request.param)]
        yield itertools.cycle(stores).__next__


def opened(stack: ExitStack, folder: Path, **limits: int) -> ConversationStore:
    store = ConversationStore(folder, MemorySettings(**limits))
    store.open()
    stack.callback(store.close)
    return store


def said(text: str) -> bytes:
    return b'[{"role":"user","content":"%s"}]' % text.encode()


def ids(store: ConversationStore, of: Conversation = OF, max_turns: int | None = None) -> list[str]:
    return [turn.turn_id for turn in store.history(of, Part(max_turns)).turns]


def test_turns_come_back_whole_and_in_order(turn_about: Next) -> None:
    for number in range(20):
        assert turn_about().append(OF, f"t{number}", said(str(number)))
    turns = turn_about().history(OF).turns
    assert [turn.messages for turn in turns] == [said(str(number)) for number in range(20)]
    assert [turn.sequence for turn in turns] == list(range(1, 21))


def test_a_window_is_the_last_whole_turns(turn_about: Next) -> None:
    for number in range(7):
        turn_about().append(OF, f"t{number}", said("x"))
    assert ids(turn_about(), max_turns=3) == ["t4", "t5", "t6"]
    assert ids(turn_about(), max_turns=1) == ["t6"]
    assert ids(turn_about(), max_turns=100) == [f"t{number}" for number in range(7)]


def test_agents_principals_and_sessions_do_not_mix(turn_about: Next) -> None:
    keys = [Conversation(agent, principal, session) for agent in "ab" for principal in ("", "team") for session in ("s", "t")]
    for key in keys:
        turn_about().append(key, "same-id", said("/".join((key.agent, key.principal, key.session))))
    for key in keys:
        (turn,) = turn_about().history(key).turns
        assert turn.messages == said("/".join((key.agent, key.principal, key.session)))
    turn_about().clear(keys[0])
    assert [len(turn_about().history(key).turns) for key in keys] == [0, 1, 1, 1, 1, 1, 1, 1]


def test_the_same_turn_again_changes_nothing(turn_about: Next) -> None:
    assert turn_about().append(OF, "t", said("x"))
    assert not turn_about().append(OF, "t", said("x"))
    assert not turn_about().append(OF, "t", b'[ {"content": "x", "role": "user"} ]')
    assert ids(turn_about()) == ["t"]


def test_another_turn_under_the_same_id_is_refused(turn_about: Next) -> None:
    turn_about().append(OF, "t", said("x"))
    with pytest.raises(Conflict, match="'t' is there with other messages"):
        turn_about().append(OF, "t", said("y"))
    assert turn_about().history(OF).turns[0].messages == said("x")


def test_a_deleted_conversation_is_empty_and_starts_anew(turn_about: Next) -> None:
    for number in range(5):
        turn_about().append(OF, f"t{number}", said("x"))
    assert turn_about().clear(OF) == 5
    assert ids(turn_about()) == []
    assert turn_about().clear(OF) == 0
    turn_about().append(OF, "t0", said("another"))
    turn_about().append(OF, "t9", said("y"))
    assert ids(turn_about()) == ["t0", "t9"]
    assert turn_about().history(OF).turns[0].messages == said("another")


def test_what_was_deleted_leaves_every_file_with_the_next_sweeps(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stores = [opened(stack, tmp_path) for _ in range(3)]
        for number in range(6):
            stores[number % 3].append(OF, f"t{number}", b'[{"role":"user","content":"secret words"}]')
        stores[0].clear(OF)
        for _ in range(2):
            for store in stores:
                store.sweep()
        assert [counts(file) for file in sorted(tmp_path.glob("*.sqlite"))] == [(0, 0)] * 3
    assert not any(b"secret words" in file.read_bytes() for file in tmp_path.iterdir())


def test_a_delete_removes_the_rows_of_processes_that_are_gone(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = opened(stack, tmp_path)
        with ExitStack() as gone:
            opened(gone, tmp_path).append(OF, "t1", said("x"))
        assert first.clear(OF) == 1
        assert [counts(file) for file in sorted(tmp_path.glob("*.sqlite"))] == [(0, 0)] * 2


def test_a_session_keeps_its_newest_turns(tmp_path: Path) -> None:
    with ExitStack() as stack:
        store = opened(stack, tmp_path, max_turns_per_session=3)
        for number in range(10):
            store.append(OF, f"t{number}", said("x"))
        assert ids(store) == ["t7", "t8", "t9"]
        assert counts(tmp_path / "conversations-0.sqlite") == (3, 0)


def test_a_history_too_large_for_one_answer_is_its_newest_turns_and_says_so(tmp_path: Path) -> None:
    with ExitStack() as stack:
        store = opened(stack, tmp_path, max_history_bytes=1000)
        for number in range(10):
            store.append(OF, f"t{number}", said("x" * 400))
        assert ids(store) == ["t8", "t9"]
        assert store.history(OF).truncated
        assert not store.history(OF, Part(2)).truncated
        store.append(OF, "large", said("x" * 5000))
        assert ids(store) == ["large"]


def test_a_restarted_node_takes_its_slot_again_and_the_next_one_the_next(tmp_path: Path) -> None:
    with ExitStack() as stack:
        opened(stack, tmp_path).append(OF, "t1", said("x"))
    with ExitStack() as stack:
        first, _ = opened(stack, tmp_path), opened(stack, tmp_path)
        assert ids(first) == ["t1"]
        assert sorted(file.name for file in tmp_path.glob("*.sqlite")) == ["conversations-0.sqlite", "conversations-1.sqlite"]


@settings(max_examples=30, deadline=None)
@given(
    actions=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.one_of(
                st.tuples(st.just("append"), st.sampled_from("uvwxyz"), st.sampled_from("12")),
                st.tuples(st.sampled_from(["clear", "sweep", "restart"]), st.just(""), st.sampled_from("12")),
            ),
        ),
        max_size=25,
    )
)
def test_three_stores_of_one_directory_behave_as_one_list_of_turns(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[int, tuple[str, str, str]]]
) -> None:
    folder = tmp_path_factory.mktemp("model")
    model: dict[str, list[str]] = {"1": [], "2": []}
    stores = [ConversationStore(folder, MemorySettings()) for _ in range(3)]
    with ExitStack() as stack:
        for store in stores:
            store.open()
            stack.callback(store.close)
        for which, (action, turn_id, session) in actions:
            store, of = stores[which], Conversation("a", "p", session)
            if action == "append":
                assert store.append(of, turn_id, said(turn_id)) is (turn_id not in model[session])
                model[session] += [turn_id] if turn_id not in model[session] else []
            elif action == "clear":
                assert store.clear(of) == len(model[session])
                model[session] = []
            elif action == "sweep":
                store.sweep()
            else:
                store.close()
                store.open()
            for key, expected in model.items():
                assert [ids(each, Conversation("a", "p", key)) for each in stores] == [expected] * 3


def counts(file: Path) -> tuple[int, int]:
    """Turns and marks in one slot file."""
    with closing(sqlite3.connect(file)) as connection:
        turns, marks = (connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("turns", "cleared"))
        return turns, marks
