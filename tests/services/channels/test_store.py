import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import StoreUnavailable
from app.services.channels import settings
from app.services.channels import store as module
from app.services.channels.message import Inbound, Outbound, Person, Receipt
from app.services.channels.settings import session_of
from app.services.channels.store import Limit, Store
from app.session import check_session_id

PERSON = Person("whatsapp", "1065", "49")
NAMES = ("whatsapp",)
PART = st.text("a:b =", max_size=4)
PERSONS = st.builds(Person, st.just("crm"), PART, PART.filter(bool))


def message(number: int, text: str = "hello", sender: str = "49") -> Inbound:
    return Inbound(f"wamid.{number}", "1065", sender, text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "channels" / "messages.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    made = Store(path)
    made.open()
    yield made
    made.close()


@pytest.fixture
def other(path: Path, store: Store) -> Iterator[Store]:
    """Another process with the same data directory."""
    made = Store(path)
    made.open()
    yield made
    made.close()


def take(store: Store, *messages: Inbound, limit: Limit | None = None) -> int:
    return store.take("whatsapp", messages, (), "00-" + "1" * 32 + "-" + "2" * 16 + "-01", limit)


def answer(store: Store, *texts: str) -> None:
    """Settle the first question with these parts."""
    question = store.question(PERSON, merged=False)
    assert question
    parts = [Outbound(f"t{n}-{text}", PERSON, "wamid.1", text, n, len(texts)) for n, text in enumerate(texts, start=1)]
    assert store.settle(question, parts, "done", "")


def test_a_message_is_new_once_however_often_and_wherever_it_comes(store: Store, other: Store) -> None:
    assert take(store, message(1), message(2)) == 2
    assert take(other, message(2), message(3)) == 1
    assert take(store, message(1), message(2), message(3)) == 0


def test_of_simultaneous_duplicates_in_several_processes_one_is_new(path: Path, store: Store) -> None:
    stores = [Store(path) for _ in range(4)]
    for each in stores:
        each.open()
    gate, new = threading.Barrier(len(stores)), list[int]()

    def work(own: Store) -> None:
        gate.wait()
        new.extend(take(own, message(number)) for number in range(25))

    threads = [threading.Thread(target=work, args=(each,)) for each in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in stores:
        each.close()
    assert sum(new) == 25


def test_a_conversation_is_one_processs_at_a_time(store: Store, other: Store) -> None:
    take(store, message(1))
    assert store.claim(NAMES) == PERSON
    assert other.claim(NAMES) is None
    store.release(PERSON)
    assert other.claim(NAMES) == PERSON


def test_what_a_dead_process_held_is_free_at_the_next_start_and_what_a_living_one_holds_is_not(path: Path, store: Store) -> None:
    take(store, message(1))
    take(store, message(2, sender="44"))
    assert store.claim(NAMES) == PERSON
    dead = Store(path)
    dead.open()
    assert dead.claim(NAMES) == Person("whatsapp", "1065", "44")
    os.close(dead._process._lock)  # as the end of a process does, whichever way it ends
    fresh = Store(path)
    fresh.open()
    assert fresh.claim(NAMES) == Person("whatsapp", "1065", "44")
    assert fresh.claim(NAMES) is None
    fresh.close()
    dead._database.close()


def test_conversations_of_channels_that_are_not_configured_wait(store: Store) -> None:
    take(store, message(1))
    assert store.claim(("telegram",)) is None
    assert store.next_due(("telegram",)) is None


def test_who_lost_the_lease_changes_nothing(store: Store, other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE_S", -1.0)  # it has run out as soon as it is given
    take(store, message(1))
    assert store.claim(NAMES) == PERSON
    question = store.question(PERSON, merged=False)
    assert question
    monkeypatch.setattr(module, "LEASE_S", settings.LEASE_S)
    assert other.claim(NAMES) == PERSON
    assert not store.renew(PERSON)
    assert not store.settle(question, [Outbound("t1", PERSON, "wamid.1", "mine")], "done", "")
    assert other.parcel(PERSON) is None
    answer(other, "the other's")
    parcel = other.parcel(PERSON)
    assert parcel
    assert not store.sending(parcel)
    assert other.sending(parcel)


def test_a_conversation_in_work_is_not_taken_again_by_its_own_process(store: Store, other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process, or the disk, stood still for longer than a lease, or the clock was set."""
    monkeypatch.setattr(module, "LEASE_S", -1.0)
    take(store, message(1), message(2, sender="50"))
    assert store.claim(NAMES) == PERSON
    assert store.claim(NAMES) == Person("whatsapp", "1065", "50")
    assert store.claim(NAMES) is None
    assert store.next_due(NAMES) is None
    store.release(PERSON)
    assert store.claim(NAMES) == PERSON
    assert other.claim(NAMES)


def test_what_was_given_up_is_taken_again_when_its_lease_has_run_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    take(store, message(1))
    store.claim(NAMES)
    store.give_up(PERSON)
    assert store.claim(NAMES) is None
    later = time.time() + settings.LEASE_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert store.claim(NAMES) == PERSON


def test_that_a_message_was_taken_is_kept_though_the_lease_is_lost(store: Store, other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE_S", -1.0)
    take(store, message(1))
    store.claim(NAMES)
    answer(store, "a")
    parcel = store.parcel(PERSON)
    assert parcel
    assert store.sending(parcel)
    assert other.claim(NAMES) == PERSON
    left = other.parcel(PERSON)
    assert left
    other.uncertain(left, "it stood still", 60)
    store.sent(parcel, "wamid.out")
    assert store.letters.counts("whatsapp")["outbox"] == {"sent": 1}


def test_a_status_that_comes_late_brings_a_letter_back_that_was_given_up_for_want_of_one(store: Store) -> None:
    take(store, message(1))
    store.claim(NAMES)
    answer(store, "a", "b")
    for token in ("t1-a", "t2-b"):
        parcel = store.parcel(PERSON)
        assert parcel
        store.sending(parcel)
        if token == "t1-a":
            store.dead(parcel, "not known")
        else:
            store.sent(parcel, "wamid.b")
            store.take("whatsapp", (), (Receipt("failed", token=token, provider_id="wamid.b"),), "", None)
    receipts = (Receipt("delivered", token="t1-a"), Receipt("sent", token="t2-b"))
    store.take("whatsapp", (), receipts, "", None)
    states = {row["token"]: row["state"] for row in store.letters.rows("outbox", "whatsapp", None, 10)}
    assert states == {"t1-a": "sent", "t2-b": "dead"}  # "sent" before "failed" came after it


def test_a_status_of_what_is_sent_gives_a_conversation_nothing_to_do(store: Store) -> None:
    take(store, message(1))
    store.claim(NAMES)
    answer(store, "a")
    parcel = store.parcel(PERSON)
    assert parcel
    store.sending(parcel)
    store.sent(parcel, "wamid.out")
    store.release(PERSON)
    store.take("whatsapp", (), (Receipt("read", provider_id="wamid.out"),), "", None)
    assert store.claim(NAMES) is None


def test_a_failure_told_twice_does_not_undo_the_retry_of_an_operator(store: Store) -> None:
    take(store, message(1))
    store.claim(NAMES)
    answer(store, "a")
    parcel = store.parcel(PERSON)
    assert parcel
    store.sending(parcel)
    store.sent(parcel, "wamid.out")
    failed = (Receipt("failed", token=parcel.message.token, provider_id="wamid.out"),)
    store.take("whatsapp", (), failed, "", None)
    store.letters.retry("outbox", "whatsapp", parcel.message.token)
    store.take("whatsapp", (), failed, "", None)
    [row] = store.letters.rows("outbox", "whatsapp", None, 10)
    assert (row["state"], row["status"], row["provider_id"]) == ("ready", "", "")


@given(PERSONS, PERSONS)
@example(Person("crm", "a", "b"), Person("crm", "", "a:b"))
def test_no_two_persons_have_one_session(one: Person, another: Person) -> None:
    assert check_session_id(session_of(one))
    assert (session_of(one) == session_of(another)) is (one == another)


def test_who_calls_themselves_as_anothers_session_ends_gets_another_one() -> None:
    victim = Person("crm", "", "kim@example.org/home")
    for person in (Person("crm", "", session_of(victim).removeprefix("crm:")), Person("crm", "", session_of(victim)[5:])):
        assert session_of(person) != session_of(victim)


def test_nothing_overtakes_in_a_conversation(store: Store) -> None:
    take(store, message(1, "one"), message(2, "two"))
    store.claim(NAMES)
    answer(store, "first part", "second part")
    first = store.parcel(PERSON)
    assert first
    assert first.message.text == "first part"
    store.sending(first)
    store.postponed(first, "429", 60)
    again = store.parcel(PERSON)
    assert again
    assert (again.message.text, again.state, again.attempts) == ("first part", "ready", 1)
    store.release(PERSON)
    due = store.next_due(NAMES)
    assert due
    assert due > time.time() + 50  # also the question that waits behind it


def test_merged_questions_are_settled_together(store: Store) -> None:
    take(store, message(1, "one"), message(2, "two"))
    store.claim(NAMES)
    question = store.question(PERSON, merged=True)
    assert question
    assert [each.text for each in question.messages] == ["one", "two"]
    take(store, message(3, "three"))
    assert store.settle(question, [], "done", "")
    rest = store.question(PERSON, merged=True)
    assert rest
    assert [each.text for each in rest.messages] == ["three"]


def test_a_status_settles_what_is_uncertain_and_lets_the_rest_go_on(store: Store) -> None:
    take(store, message(1))
    store.claim(NAMES)
    answer(store, "a", "b")
    parcel = store.parcel(PERSON)
    assert parcel
    store.sending(parcel)
    store.uncertain(parcel, "the connection broke", 3_600)
    store.release(PERSON)
    assert store.claim(NAMES) is None
    store.take("whatsapp", (), (Receipt("delivered", token=parcel.message.token, provider_id="wamid.out"),), "", None)
    assert store.claim(NAMES) == PERSON
    following = store.parcel(PERSON)
    assert following
    assert following.message.text == "b"
    assert {row["token"]: row["state"] for row in store.letters.rows("outbox", "whatsapp", "sent", 10)} == {parcel.message.token: "sent"}


def test_a_failed_status_makes_a_dead_letter_of_what_was_sent_and_it_can_be_tried_again(store: Store) -> None:
    take(store, message(1))
    store.claim(NAMES)
    answer(store, "a")
    parcel = store.parcel(PERSON)
    assert parcel
    store.sending(parcel)
    store.sent(parcel, "wamid.out")
    store.take("whatsapp", (), (Receipt("failed", provider_id="wamid.out", error="undeliverable"),), "", None)
    [row] = store.letters.rows("outbox", "whatsapp", "dead", 10)
    assert row["error"] == "undeliverable"
    assert store.letters.retry("outbox", "whatsapp", parcel.message.token) == "dead"
    ready = store.parcel(PERSON)
    assert ready
    assert (ready.state, ready.attempts) == ("ready", 0)
    assert store.letters.retry("outbox", "whatsapp", "nothing") is None


def test_who_writes_too_much_is_kept_and_not_answered(store: Store) -> None:
    limit = Limit(window_s=60, messages=2)
    take(store, *(message(number) for number in range(5)), limit=limit)
    assert store.letters.counts("whatsapp")["inbox"] == {"waiting": 2, "limited": 3}
    take(store, message(9, sender="44"), limit=limit)
    assert store.letters.counts("whatsapp")["inbox"] == {"waiting": 3, "limited": 3}


def test_a_sweep_forgets_what_is_settled_and_keeps_what_is_not(store: Store) -> None:
    take(store, message(1), message(2))
    store.claim(NAMES)
    answer(store, "a")
    assert store.letters.sweep(older_than_s=-1) == 1  # the answered message; the part that is not sent stays
    assert store.letters.counts("whatsapp") == {"inbox": {"waiting": 1}, "outbox": {"ready": 1}}


def test_a_sweep_forgets_people_of_whom_nothing_is_left(store: Store) -> None:
    take(store, message(1), message(2, sender="50"))
    store.claim(NAMES)
    question = store.question(PERSON, merged=False)
    assert question
    store.settle(question, [], "done", "")
    store.release(PERSON)
    store.letters.sweep(older_than_s=-1)
    assert store._sql.execute("SELECT sender FROM conversations").fetchall() == [("50",)]


def test_a_file_of_a_newer_build_is_refused_by_name(path: Path, store: Store) -> None:
    store._sql.execute("PRAGMA user_version = 99")
    late = Store(path)
    with pytest.raises(StoreUnavailable, match=r"has version 99"):
        late.open()
