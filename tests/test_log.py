"""Log lines: the ids of the request they belong to, and nothing that was said in it."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from app import log
from app.context import CURRENT, RequestContext, background

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@contextmanager
def serving(context: RequestContext) -> Iterator[None]:
    token = CURRENT.set(context)
    try:
        yield
    finally:
        CURRENT.reset(token)


def line(form: str, **extra: Any) -> str:
    formatter = log._JSON() if form == "json" else log._Text()
    record = logging.LogRecord("app.x", logging.INFO, __file__, 1, "hello", (), None)
    record.__dict__.update(extra)
    return formatter.format(record)


async def test_a_line_of_a_request_names_it_its_trace_its_session_and_its_principal() -> None:
    context = background(request_id="req_1")
    context = replace(context, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01", session="demo", principal="team-a")
    with serving(context):
        told = json.loads(line("json"))
        ids = {name: told[name] for name in ("request_id", "trace_id", "session_id", "principal")}
        assert ids == {"request_id": "req_1", "trace_id": TRACE, "session_id": "demo", "principal": "team-a"}
        assert line("text").endswith(f"hello [req_1 trace={TRACE} session=demo team-a]")


async def test_ids_that_there_are_not_are_left_out() -> None:
    with serving(replace(background(request_id="req_2"), traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")):
        assert line("text").endswith(f"hello [req_2 trace={TRACE}]")
        assert json.loads(line("json")).keys() == {"time", "level", "logger", "message", "request_id", "trace_id"}


def test_a_line_of_no_request_has_no_ids() -> None:
    assert line("text").endswith("info    hello")
    assert json.loads(line("json")).keys() == {"time", "level", "logger", "message"}


def test_what_a_line_says_of_itself_wins() -> None:
    assert line("text", request_id="req_3", principal="ops").endswith("hello [req_3 ops]")
