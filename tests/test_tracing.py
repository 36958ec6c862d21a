"""Spans and the ring that keeps them: parents, outcomes, bounds, what is said and what is not."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

import pytest

from app.context import CURRENT, RequestContext, background, continue_trace
from app.errors import ProviderTimeout
from app.tracing import ACTIVE, MAX_CONTENT_CHARS, MAX_SPANS, UNRECORDED, Recorder, Span, TraceSettings, active, outgoing, span

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def root(recorder: Recorder, given: str = f"00-{TRACE}-{PARENT}-01") -> Span:
    return recorder.accept(*continue_trace(given, recorder.samples_new))


@contextmanager
def served(recorder: Recorder) -> Iterator[Span]:
    """The inside of a request."""
    with root(recorder) as begun:
        yield begun


def kept(recorder: Recorder) -> dict[str, Span]:
    return {each.name: each for each in recorder.spans(TRACE)}


async def test_a_span_inside_another_is_its_child_also_in_a_task_of_its_own() -> None:
    recorder = Recorder()

    async def work() -> None:
        with span("inner"):
            pass

    with served(recorder) as top:
        with span("outer", {"a": 1, "b": None}) as outer:
            await asyncio.create_task(work())
        with span("beside"):
            pass
    found = kept(recorder)
    assert (found["inner"].parent_id, found["outer"].parent_id, found["beside"].parent_id) == (outer.span_id, top.span_id, top.span_id)
    assert found["outer"].attributes == {"a": 1}
    assert top.parent_id == PARENT
    assert ACTIVE.get() is None


async def test_what_goes_out_names_the_active_span_and_keeps_flags_and_trace() -> None:
    recorder = Recorder()
    context = background()
    assert outgoing(context) == context.traceparent
    with served(recorder):
        assert outgoing(context) == context.traceparent, "another trace's span is no parent in this one"
        own = f"00-{TRACE}-{PARENT}-03"
        with span("attempt") as attempt:
            assert outgoing(_with(own)) == f"00-{TRACE}-{attempt.span_id}-03"


def _with(traceparent: str) -> RequestContext:
    return replace(background(), traceparent=traceparent)


async def test_errors_cancellation_and_success_are_three_outcomes() -> None:
    recorder = Recorder()
    with served(recorder):
        for name, error in (("code", ProviderTimeout("secret words")), ("class", KeyError("k")), ("time", TimeoutError())):
            with pytest.raises(type(error)), span(name):
                raise error
        with pytest.raises(asyncio.CancelledError), span("left"):
            raise asyncio.CancelledError
        with span("fine"):
            pass
    told = {name: (each.status, each.attributes.get("error.type")) for name, each in kept(recorder).items()}
    told.pop("")
    assert told == {
        "code": ("error", "provider_timeout"),
        "class": ("error", "KeyError"),
        "time": ("error", "timeout"),
        "left": ("cancelled", None),
        "fine": ("ok", None),
    }
    assert all(each.content is None for each in recorder.spans(TRACE)), "an error's message may hold what was asked"


async def test_a_generator_that_another_task_closes_ends_its_span_as_cancelled() -> None:
    recorder = Recorder()

    async def stream() -> AsyncGenerator[int, None]:
        with span("stream"):
            yield 1

    async def close(events: AsyncGenerator[int, None]) -> None:
        async with aclosing(events):
            pass

    with served(recorder):
        events = stream()
        await anext(events)
        await asyncio.create_task(close(events))
    assert kept(recorder)["stream"].status == "cancelled"


async def test_work_of_no_request_and_of_an_unsampled_one_is_not_recorded() -> None:
    recorder = Recorder()
    with span("alone") as alone, root(recorder, f"00-{TRACE}-{PARENT}-00"), span("unsampled"):
        active().set("a", 1)
        active().fail("x")
        active().tell("b", "c")
    assert alone is UNRECORDED
    assert UNRECORDED.attributes == {}
    assert (recorder.count, UNRECORDED.status) == (0, "ok")


async def test_a_node_that_records_nothing_passes_on_the_callers_span() -> None:
    off = Recorder(TraceSettings(enabled=False))
    given = f"00-{TRACE}-{PARENT}-01"
    assert root(off, given) is UNRECORDED
    assert continue_trace(given, takes_part=False) == (given, PARENT)
    assert continue_trace(None, off.samples_new)[0].endswith("-01"), "others may record what begins here"


async def test_new_traces_are_sampled_by_ratio_and_by_rate_and_given_ones_by_their_flag() -> None:
    none, some = Recorder(TraceSettings(sample_ratio=0)), Recorder(TraceSettings(max_per_second=5))
    assert root(none, "") is UNRECORDED
    assert root(none) is not UNRECORDED
    taken = [root(some, "") is not UNRECORDED for _ in range(50)]
    assert 5 <= sum(taken) <= 7  # the first second's worth at once, and what comes along meanwhile
    assert all(taken[:5])
    assert all(root(some) is not UNRECORDED for _ in range(50))
    assert sum(root(Recorder(TraceSettings(sample_ratio=0.5)), "") is UNRECORDED for _ in range(200)) in range(50, 150)


def fill(recorder: Recorder, traces: int, spans: int = 1, attribute: str = "") -> None:
    for number in range(traces):
        with recorder.accept(f"00-{number + 1:032x}-{PARENT}-01", ""):
            for _ in range(spans - 1):
                with span("inner", {"a": attribute + str(number), "b": number}):
                    pass


async def test_the_oldest_traces_go_first_and_whole() -> None:
    recorder = Recorder(TraceSettings(max_traces=3))
    fill(recorder, 5, spans=2)
    assert [len(recorder.spans(f"{number:032x}")) for number in range(1, 6)] == [0, 0, 2, 2, 2]
    assert [spans[0].trace_id[-1] for spans in recorder.latest()] == ["5", "4", "3"]


async def test_what_the_ring_holds_stays_within_its_bytes_also_in_truth() -> None:
    limit = 1024 * 1024
    recorder = Recorder(TraceSettings(max_traces=1_000_000, max_bytes=limit), content=True)
    fill(recorder, 200, 5)  # what is made once is made
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        recorder = Recorder(TraceSettings(max_traces=1_000_000, max_bytes=limit), content=True)
        fill(recorder, 2_000, 5)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert recorder.weight <= limit
    assert limit / 3 < used <= limit


async def test_content_counts_and_is_cut() -> None:
    recorder = Recorder(TraceSettings(max_bytes=65_536), content=True)
    with served(recorder), span("said") as said:
        said.tell("gen_ai.input.messages", "x" * 100_000)
        said.tell("list", [{"role": "user"}])
        assert said.content == {"gen_ai.input.messages": "x" * MAX_CONTENT_CHARS, "list": '[{"role": "user"}]'}
    assert [each.name for each in recorder.spans(TRACE)] == [""], "one span that is larger than the ring is not kept"


async def test_content_is_kept_only_where_it_is_wanted_and_belongs_to_who_said_it() -> None:
    token = CURRENT.set(replace(background(), principal="team-a"))
    try:
        for wanted in (False, True):
            recorder = Recorder(content=wanted)
            with served(recorder), span("said") as said:
                said.tell("gen_ai.tool.call.arguments", "{}")
            assert said.content == ({"gen_ai.tool.call.arguments": "{}"} if wanted else None)
            assert said.principal == ("team-a" if wanted else "")
    finally:
        CURRENT.reset(token)


async def test_a_trace_that_never_ends_does_not_push_out_all_others() -> None:
    recorder = Recorder()
    fill(recorder, 3)
    for _ in range(MAX_SPANS + 10):
        with root(recorder):
            pass
    assert (len(recorder.spans(TRACE)), recorder.count) == (MAX_SPANS, 4)
