"""The laws of a store of conversations and runs, over every implementation, with several stores that share one place."""

import asyncio
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import Conflict, KeyReused, RunUnderWay
from app.services.memory.conversation import WHOLE, Conversation, Part, Summary
from app.services.memory.runs import Run, RunKey
from app.services.memory.store import Store
from tests.services.memory.places import Place, postgres, redis, sqlite

OF = Conversation("assistant", "", "s1")
KEY = RunKey("assistant", "", "0" * 64)
SAME, OTHER = "a" * 64, "b" * 64
ANSWER = b'{"answer":"yes"}'
Next = Callable[[], Store]


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=pytest.mark.databases), pytest.param("redis", marks=pytest.mark.databases)]
)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            yield sqlite(tmp_path, stack)
        else:
            yield {"postgres": postgres, "redis": redis}[request.param](request.getfixturevalue(f"{request.param}_url"), stack)


@pytest.fixture
async def turn_about(place: Place) -> Next:
    """Each call gives the next of three stores of the place."""
    return itertools.cycle([await place.open() for _ in range(3)]).__next__


def said(text: str) -> bytes:
    return b'[{"role":"user","content":"%s"}]' % text.encode()


async def add(store: Store, turn_id: str, messages: bytes = said("x"), of: Conversation = OF, ttl_s: float | None = None) -> bool:
    return await store.append(of, turn_id, messages, ttl_s)


async def ids(store: Store, of: Conversation = OF, part: Part = WHOLE) -> list[str]:
    return [turn.turn_id for turn in (await store.history(of, part)).turns]


async def claim(store: Store, token: str, fingerprint: str = SAME, of: RunKey = KEY) -> Run:
    return await store.claim(of, "s1", token, fingerprint)


async def swept(store: Store, until: Callable[[], object]) -> None:
    """Sweep until it has happened: a time to live runs by the store's clock."""
    async with asyncio.timeout(20):
        while not await until():  # type: ignore[misc]
            await store.sweep()


# ---- turns


async def test_turns_come_back_whole_and_in_order(turn_about: Next) -> None:
    for number in range(20):
        assert await add(turn_about(), f"t{number}", said(str(number)))
    for _ in range(3):
        turns = (await turn_about().history(OF, WHOLE)).turns
        assert [turn.messages for turn in turns] == [said(str(number)) for number in range(20)]
        assert [turn.sequence for turn in turns] == list(range(1, 21))
        assert [turn.created_us for turn in turns] == sorted(turn.created_us for turn in turns)


async def test_a_part_is_the_newest_whole_turns(turn_about: Next) -> None:
    for number in range(7):
        await add(turn_about(), f"t{number}")
    assert await ids(turn_about(), part=Part(3)) == ["t4", "t5", "t6"]
    assert await ids(turn_about(), part=Part(1)) == ["t6"]
    assert await ids(turn_about(), part=Part(100)) == [f"t{number}" for number in range(7)]
    assert await ids(turn_about(), part=Part(max_bytes=2 * len(said("x")))) == ["t5", "t6"]
    assert (await turn_about().history(OF, Part(max_bytes=2 * len(said("x"))))).truncated
    assert await ids(turn_about(), part=Part(max_bytes=1)) == ["t6"], "the last turn is always there"
    assert (await turn_about().history(OF, Part(max_bytes=1))).truncated
    assert not (await turn_about().history(OF, Part(1, max_bytes=1))).truncated, "no more than one was asked for"
    assert not (await turn_about().history(OF, Part(2))).truncated


async def test_agents_principals_and_sessions_do_not_mix(turn_about: Next) -> None:
    keys = [Conversation(agent, principal, session) for agent in "ab" for principal in ("", "team") for session in ("s", "t")]
    keys += [Conversation("a:b", "c", "d"), Conversation("a", "b:c", "d"), Conversation("a", "b", "c:d"), Conversation("a", "*", "[d]?")]
    for key in keys:
        await add(turn_about(), "same-id", said("/".join((key.agent, key.principal, key.session))), key)
    for key in keys:
        (turn,) = (await turn_about().history(key, WHOLE)).turns
        assert turn.messages == said("/".join((key.agent, key.principal, key.session)))
    await turn_about().clear(keys[0])
    assert [len(await ids(turn_about(), key)) for key in keys] == [0, *[1] * 11]


async def test_the_same_turn_again_changes_nothing(turn_about: Next) -> None:
    assert await add(turn_about(), "t")
    assert not await add(turn_about(), "t")
    assert not await add(turn_about(), "t", b'[ {"content": "x", "role": "user"} ]')
    assert await ids(turn_about()) == ["t"]


async def test_another_turn_under_the_same_id_is_refused(turn_about: Next) -> None:
    await add(turn_about(), "t")
    with pytest.raises(Conflict, match="'t' is there with other messages"):
        await add(turn_about(), "t", said("y"))
    assert (await turn_about().history(OF, WHOLE)).turns[0].messages == said("x")


async def test_a_deleted_conversation_is_empty_for_all_and_starts_anew(turn_about: Next) -> None:
    for number in range(5):
        await add(turn_about(), f"t{number}")
    assert await turn_about().clear(OF) == 5
    assert [await ids(turn_about()) for _ in range(3)] == [[]] * 3
    assert await turn_about().clear(OF) == 0
    await add(turn_about(), "t0", said("another"))
    await add(turn_about(), "t9", said("y"))
    assert await ids(turn_about()) == ["t0", "t9"]
    assert (await turn_about().history(OF, WHOLE)).turns[0].messages == said("another")


async def test_what_several_append_at_once_is_all_there_once_and_in_one_order(turn_about: Next) -> None:
    stores = [turn_about() for _ in range(3)]

    async def write(which: int) -> None:
        for number in range(20):
            assert await add(stores[which], f"w{which}-{number}")
            await add(stores[which], f"all-{number}")

    await asyncio.gather(*(write(which) for which in range(3)))
    orders = [await ids(store) for store in stores]
    assert orders[0] == orders[1] == orders[2]
    assert sorted(orders[0]) == sorted(
        [f"w{which}-{number}" for which in range(3) for number in range(20)] + [f"all-{n}" for n in range(20)]
    )
    for which in range(3):
        assert [turn for turn in orders[0] if turn.startswith(f"w{which}")] == [f"w{which}-{number}" for number in range(20)]


async def test_a_caller_who_leaves_makes_no_half_turn_and_holds_up_nobody(turn_about: Next) -> None:
    for round_ in range(10):
        tasks = [asyncio.create_task(add(turn_about(), f"t{round_}-{number}")) for number in range(6)]
        for _ in range(round_):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert done[1::2] == [True] * 3
    turns = (await turn_about().history(OF, WHOLE)).turns
    assert all(turn.messages == said("x") for turn in turns)
    assert {f"t{round_}-{number}" for round_ in range(10) for number in (1, 3, 5)} <= {turn.turn_id for turn in turns}


async def test_a_session_keeps_its_newest_turns(place: Place) -> None:
    store = await place.open(max_turns_per_session=3)
    for number in range(10):
        await add(store, f"t{number}")
    assert await ids(store) == ["t7", "t8", "t9"]
    assert await ids(await place.open()) == ["t7", "t8", "t9"], "older ones are gone, not hidden"
    assert await store.clear(OF) == 3


async def test_a_history_too_large_for_one_answer_is_its_newest_turns_and_says_so(place: Place) -> None:
    store = await place.open(max_history_bytes=1000)
    for number in range(10):
        await add(store, f"t{number}", said("x" * 400))
    assert await ids(store) == ["t8", "t9"]
    assert (await store.history(OF, WHOLE)).truncated
    await add(store, "large", said("x" * 5000))
    assert await ids(store) == ["large"]


@pytest.mark.parametrize(
    "text", ["\0", "\ud83d", "\U0001f600 日本語", "\\u0000 \\ud83d", "x" * 1_000_000], ids=["NUL", "half", "wide", "escaped", "large"]
)
async def test_any_text_comes_back_as_it_was(turn_about: Next, text: str) -> None:
    messages = json.dumps([{"role": "user", "content": text}], ensure_ascii=False).encode("utf-8", "surrogatepass")
    escaped = json.dumps([{"role": "user", "content": text}]).encode()
    await add(turn_about(), "t1", messages)
    await add(turn_about(), "t2", escaped)
    assert not await add(turn_about(), "t1", escaped), "the same JSON, written otherwise"
    assert [turn.messages for turn in (await turn_about().history(OF, WHOLE)).turns] == [messages, escaped]
    assert await turn_about().summarise(OF, Summary("t2", text))
    assert (await turn_about().history(OF, WHOLE)).summary == Summary("t2", text)


async def test_what_is_stored_is_there_for_whoever_opens_the_place_later(place: Place) -> None:
    async with AsyncExitStack() as life:
        first = Place(place._make, life)
        store = await first.open()
        await add(store, "t1")
        await store.summarise(OF, Summary("t1", "short"))
        await claim(store, "mine")
        await store.finish(KEY, "mine", ANSWER)
        store_id = store.store_id
    later = await place.open()
    assert await later.history(OF, WHOLE) == await (await place.open()).history(OF, WHOLE)
    assert await ids(later) == ["t1"]
    assert (await claim(later, "other")).answer == ANSWER
    assert later.store_id == store_id
    assert store_id is not None
    assert len(store_id) == 12


# ---- summaries


async def test_a_summary_is_kept_until_one_covers_more(turn_about: Next) -> None:
    for number in range(6):
        await add(turn_about(), f"t{number}")
    assert (await turn_about().history(OF, WHOLE)).summary is None
    assert await turn_about().summarise(OF, Summary("t2", "up to 2"))
    assert not await turn_about().summarise(OF, Summary("t1", "up to 1"))
    assert not await turn_about().summarise(OF, Summary("t2", "up to 2, otherwise"))
    assert (await turn_about().history(OF, Part(1))).summary == Summary("t2", "up to 2")
    assert await turn_about().summarise(OF, Summary("t4", "up to 4"))
    assert (await turn_about().history(OF, WHOLE)).summary == Summary("t4", "up to 4")
    assert len(await ids(turn_about())) == 6


async def test_a_summary_of_what_is_not_there_is_not_kept(turn_about: Next) -> None:
    assert not await turn_about().summarise(OF, Summary("t1", "nothing"))
    await add(turn_about(), "t1")
    await turn_about().summarise(OF, Summary("t1", "said"))
    await turn_about().clear(OF)
    assert not await turn_about().summarise(OF, Summary("t1", "what was deleted"))
    await add(turn_about(), "t2")
    assert (await turn_about().history(OF, WHOLE)).summary is None
    await turn_about().clear(OF)
    await add(turn_about(), "t1")
    assert (await turn_about().history(OF, WHOLE)).summary is None


# ---- time to live


async def test_a_conversation_that_nobody_uses_goes_after_its_time_with_its_answers(turn_about: Next) -> None:
    other = Conversation("assistant", "", "s2")
    await add(turn_about(), "t1", ttl_s=1)
    await add(turn_about(), "t1", of=other, ttl_s=1000)
    await turn_about().summarise(OF, Summary("t1", "short"))
    await claim(turn_about(), "mine")
    await turn_about().finish(KEY, "mine", ANSWER)

    async def gone() -> bool:
        for store in (turn_about(), turn_about()):
            await store.sweep()
        return not await ids(turn_about())

    await swept(turn_about(), gone)
    assert await ids(turn_about(), other) == ["t1"]
    assert (await turn_about().history(OF, WHOLE)).summary is None

    async def answer_gone() -> bool:
        return (await claim(turn_about(), "later")).answer is None

    await swept(turn_about(), answer_gone)
    assert (await claim(turn_about(), "later")).state == "done", "that it was answered is remembered"


async def test_each_turn_says_anew_how_long_its_conversation_stays(turn_about: Next) -> None:
    other = Conversation("assistant", "", "s2")
    await add(turn_about(), "t1", ttl_s=0.05)
    await add(turn_about(), "t2")
    await add(turn_about(), "t1", of=other, ttl_s=0.05)

    async def gone() -> bool:
        for store in (turn_about(), turn_about()):
            await store.sweep()
        return not await ids(turn_about(), other)

    await swept(turn_about(), gone)
    for _ in range(3):
        await turn_about().sweep()
    assert await ids(turn_about()) == ["t1", "t2"]


# ---- runs


async def test_a_key_is_claimed_once_and_answers_afterwards_wherever_it_is_asked(turn_about: Next) -> None:
    begun = await claim(turn_about(), "t1")
    assert (begun.state, begun.attempt, begun.session) == ("running", 1, "s1")
    again = await claim(turn_about(), "t1")
    assert (again.state, again.attempt) == ("running", 1)
    with pytest.raises(RunUnderWay) as under_way:
        await claim(turn_about(), "t2")
    assert under_way.value.headers == {"Retry-After": "2"}
    with pytest.raises(KeyReused):
        await claim(turn_about(), "t2", OTHER)
    await turn_about().finish(KEY, "t1", ANSWER)
    for _ in range(3):
        done = await claim(turn_about(), "t3")
        assert (done.state, done.answer, done.token) == ("done", ANSWER, "t1")
    with pytest.raises(KeyReused):
        await claim(turn_about(), "t4", OTHER)
    with pytest.raises(Conflict):
        await claim(turn_about(), "t1")
    with pytest.raises(Conflict):
        await turn_about().finish(KEY, "t1", b"{}")


async def test_keys_of_other_agents_and_principals_are_others(turn_about: Next) -> None:
    await claim(turn_about(), "t1")
    for of in (RunKey("other", "", KEY.key), RunKey("assistant", "team", KEY.key), RunKey("assistant", "", "1" * 64)):
        assert (await claim(turn_about(), "t1", OTHER, of)).state == "running"


async def test_a_released_or_abandoned_key_may_be_claimed_again_and_the_attempts_are_counted(place: Place) -> None:
    mine, late = await place.open(), await place.open(run_lease_s=0)
    await claim(mine, "t1")
    await mine.release(KEY, "t1")
    assert (await claim(mine, "t2")).attempt == 2
    assert (await claim(late, "t3")).attempt == 3, "to whom every lease is over"
    with pytest.raises(Conflict, match="lease ran out"):
        await claim(mine, "t2")
    with pytest.raises(Conflict, match="lease ran out"):
        await mine.finish(KEY, "t2", ANSWER)
    await mine.release(KEY, "t2")
    with pytest.raises(RunUnderWay):
        await claim(mine, "t4")
    await late.finish(KEY, "t3", ANSWER)
    with pytest.raises(Conflict, match="lease ran out"):
        await claim(mine, "t2")
    assert (await claim(mine, "t4")).answer == ANSWER


async def test_a_run_that_was_taken_over_does_not_come_back_when_the_next_one_gives_up(place: Place) -> None:
    mine, late = await place.open(), await place.open(run_lease_s=0)
    await claim(mine, "t1")
    assert (await claim(late, "t2")).attempt == 2
    await late.release(KEY, "t2")
    with pytest.raises(Conflict, match="lease ran out"):
        await claim(mine, "t1")
    assert (await claim(late, "t3")).attempt == 3


async def test_of_many_that_claim_at_once_at_most_one_begins(place: Place) -> None:
    stores = [await place.open() for _ in range(4)]

    async def won(store: Store, token: str, of: RunKey) -> bool:
        try:
            return (await claim(store, token, of=of)).state == "running"
        except RunUnderWay:
            return False

    winners = []
    for turn in range(20):
        of = RunKey("a", "", f"{turn:064x}")
        winners.append(sum(await asyncio.gather(*(won(store, f"t{number}", of) for number, store in enumerate(stores)))))
    assert set(winners) <= {0, 1}
    assert sum(winners) > 0


async def test_an_answer_that_is_too_large_is_remembered_as_given(place: Place) -> None:
    store = await place.open(max_run_bytes=10)
    await claim(store, "t1")
    await store.finish(KEY, "t1", ANSWER)
    done = await claim(store, "t2")
    assert (done.state, done.answer) == ("done", None)


async def test_a_cleared_conversation_takes_its_answers_along(turn_about: Next) -> None:
    other = RunKey("assistant", "", "1" * 64)
    await claim(turn_about(), "t1")
    await turn_about().finish(KEY, "t1", ANSWER)
    await turn_about().claim(other, "s2", "t1", SAME)
    await turn_about().finish(other, "t1", ANSWER)
    await turn_about().clear(OF)
    done = await claim(turn_about(), "t2")
    assert (done.state, done.answer) == ("done", None)
    assert (await claim(turn_about(), "t2", of=other)).answer == ANSWER, "the answers of another session stay"


async def test_a_key_is_forgotten_after_its_time(place: Place) -> None:
    await claim(await place.open(), "t1")
    assert (await claim(await place.open(run_ttl_s=1e-6), "t2", OTHER)).attempt == 1


async def test_only_so_many_keys_are_remembered(place: Place) -> None:
    store = await place.open(max_runs=2)
    keys = [RunKey("a", "", f"{number:064x}") for number in range(6)]
    for key in keys:
        await claim(store, "t1", of=key)
        await store.finish(key, "t1", ANSWER)
    await store.sweep()
    forgotten = [(await store.claim(key, "s1", "t2", SAME)).state == "running" for key in keys]
    assert forgotten == [True] * 4 + [False] * 2


async def test_a_run_that_is_not_there_cannot_be_finished_and_may_be_released(turn_about: Next) -> None:
    await turn_about().release(KEY, "nobody")
    with pytest.raises(Conflict):
        await turn_about().finish(KEY, "nobody", ANSWER)


async def test_a_store_that_is_well_can_be_probed_and_says_where_it_keeps_things(turn_about: Next) -> None:
    await turn_about().probe()
    assert turn_about().place


# ---- all of it, against a list


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    actions=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.one_of(
                st.tuples(st.just("append"), st.sampled_from("uvwxyz"), st.sampled_from("12")),
                st.tuples(st.sampled_from(["clear", "sweep"]), st.just(""), st.sampled_from("12")),
                st.tuples(st.just("summarise"), st.sampled_from("uvwxyz"), st.sampled_from("12")),
            ),
        ),
        max_size=25,
    )
)
async def test_three_stores_of_one_place_behave_as_one_list_of_turns(
    turn_about: Next, actions: list[tuple[int, tuple[str, str, str]]]
) -> None:
    stores, run = [turn_about() for _ in range(3)], secrets.token_hex(4)
    turns: dict[str, list[str]] = {"1": [], "2": []}
    covered: dict[str, str] = {}
    for which, (action, turn_id, session) in actions:
        store, of = stores[which], Conversation("a", run, session)
        there = turns[session]
        if action == "append":
            assert await add(store, turn_id, said(turn_id), of) is (turn_id not in there)
            there += [turn_id] if turn_id not in there else []
        elif action == "clear":
            assert await store.clear(of) == len(there)
            turns[session] = []
            covered.pop(session, None)
        elif action == "summarise":
            more = turn_id in there and there.index(turn_id) > (there.index(covered[session]) if session in covered else -1)
            assert await store.summarise(of, Summary(turn_id, turn_id)) is more
            covered |= {session: turn_id} if more else {}
        else:
            await store.sweep()
        for key, expected in turns.items():
            for each in stores:
                history = await each.history(Conversation("a", run, key), WHOLE)
                assert [turn.turn_id for turn in history.turns] == expected
                assert (history.summary.turn_id if history.summary else None) == covered.get(key)
