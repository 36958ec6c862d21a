"""`run` and `chat`: the answer on stdout as it comes, what is said about it on stderr, and an interrupt that cancels the run."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from app.cli.node import Event
from app.cli.telling import Telling, summary
from tests.cli.command import asked, at_terminal, ctl
from tests.nodes import RunningNode, node, profile
from tests.support import serve

SERVICES = ["agents", "inference", "memory", "tools"]


@asynccontextmanager
async def chain(folder: Path) -> AsyncIterator[RunningNode]:
    """A gateway before a node that has everything."""
    async with node(profile(folder / "worker.yaml", SERVICES), folder / "w") as worker:
        peers = {"worker-1": (worker.url, ["agents", "inference", "memory", "tools"])}
        async with node(profile(folder / "gateway.yaml", [], peers=peers), folder / "g") as gateway:
            yield gateway


async def test_an_answer_comes_to_stdout_and_its_tool_calls_to_stderr(tmp_path: Path) -> None:
    async with chain(tmp_path) as gateway:
        done = await asked(gateway.url, "run", "assistant", "What is 17*23?", "--session", "mine")
        assert done.out == "17*23 = 391.\n"
        assert '> calculator {"expression": "17*23"}' in done.err
        assert "< calculator (" in done.err
        assert "2 steps" in done.err
        assert "session mine, trace " in done.err
        again = await ctl("run", "assistant", stdin="What did I ask before?\n", ASTROMESH_URL=gateway.url)
        assert "391" not in again.out  # another session
        again = await ctl("run", "assistant", "--session", "mine", stdin="What did I ask before?\n", ASTROMESH_URL=gateway.url)
        assert "What is 17*23?" in again.out
        whole = (await asked(gateway.url, "run", "assistant", "What is 2*3?", "--json")).json
        assert (whole["answer"], whole["outcome"]) == ("2*3 = 6.", "answered")
        unknown = await ctl("run", "nobody", "hi", ASTROMESH_URL=gateway.url)
        assert (unknown.code, unknown.out) == (1, "")
        assert "there is assistant" in unknown.err
        for wrong in (
            ("run", "assistant", " "),
            ("run", "assistant", "hi", "--context", "[]"),
            ("run", "assistant", "hi", "--context", "{"),
        ):
            assert (await ctl(*wrong, ASTROMESH_URL=gateway.url)).code == 2


async def test_a_conversation_without_a_terminal_keeps_its_session_and_stops_at_a_failure(tmp_path: Path) -> None:
    async with chain(tmp_path) as gateway:
        done = await ctl("chat", "assistant", stdin="My name is Ada\n\nWhat is my name?\n", ASTROMESH_URL=gateway.url)
        assert (done.code, done.out.splitlines()) == (0, ["Noted: your name is Ada.", "Your name is Ada."])
        session = done.err.rsplit("--session ", 1)[1].strip()
        done = await ctl("chat", "assistant", "--session", session, "--json", stdin="What is my name?", ASTROMESH_URL=gateway.url)
        assert done.json["answer"] == "Your name is Ada."
        assert "there is assistant" in (await ctl("chat", "nobody", ASTROMESH_URL=gateway.url)).err
        long = "x" * 600_000
        done = await ctl("chat", "assistant", stdin=f"{long}\nhello\n", ASTROMESH_URL=gateway.url)
        assert (done.code, done.out) == (1, "")
        assert "413" in done.err


async def test_a_conversation_at_a_terminal_goes_on_after_a_failure(tmp_path: Path) -> None:
    async with chain(tmp_path) as gateway:
        async with at_terminal("chat", "assistant", ASTROMESH_URL=gateway.url) as terminal:
            await terminal.until("Ctrl-D ends")
            await terminal.until("> ")
            terminal.type("My name is Ada\r")
            await terminal.until("Noted: your name is Ada.")
            await terminal.until("> ")
            terminal.type("What is my name?\r")
            await terminal.until("Your name is Ada.")
            await terminal.until("> ")
            terminal.type("\x04")
            await terminal.until("go on with: astromeshctl chat assistant --session ")
            assert await terminal.code() == 0


class Slow:
    """An agent that says one word and then thinks until its caller is gone."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    async def run(self, request: Request) -> Response:
        return StreamingResponse(self._words(), media_type="text/event-stream")

    async def _words(self) -> AsyncIterator[str]:
        yield 'event: token\ndata: {"step": 1, "text": "Well"}\n\n'
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def detail(self, request: Request) -> Response:
        return JSONResponse({"name": "slow"})

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/agents/slow", self.detail), Route("/v1/agents/slow/run", self.run, methods=["POST"])])


async def test_ctrl_c_ends_a_run_cleanly_and_lets_the_node_know() -> None:
    slow = Slow()
    async with serve(slow.app()) as url:
        async with at_terminal("run", "slow", "why?", ASTROMESH_URL=url) as terminal:
            await terminal.until("Well")
            terminal.interrupt()
            await asyncio.wait_for(slow.cancelled.wait(), 5)
            assert await terminal.code() == 130
            await terminal.until("the run was cancelled")
            assert "Traceback" not in terminal.shown


async def test_ctrl_c_in_a_conversation_stops_the_answer_and_not_the_conversation() -> None:
    slow = Slow()
    async with serve(slow.app()) as url:
        async with at_terminal("chat", "slow", ASTROMESH_URL=url) as terminal:
            await terminal.until("> ")
            terminal.type("why?\r")
            await terminal.until("Well")
            terminal.interrupt()
            await asyncio.wait_for(slow.cancelled.wait(), 5)
            await terminal.until("the run was cancelled")
            await terminal.until("> ")
            terminal.type("\x04")
            assert await terminal.code() == 0


def told(*events: tuple[str, object]) -> None:
    Telling().tell(Event(kind, json.loads(json.dumps(data))) for kind, data in events)


def test_what_was_not_told_as_it_came_is_told_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    step, word = ("step", {"step": 1}), ("token", {"step": 1, "text": "My key is k-1"})
    told(step, word, ("done", {"answer": "My key is k-1"}))
    told(step, word, ("done", {"answer": "My key is [hidden]"}))
    told(step, ("token", {"step": 1, "text": "Let me see"}), ("step", {"step": 2}), ("done", {"answer": "42"}))
    assert capsys.readouterr().out == "My key is k-1\nMy key is k-1\nMy key is [hidden]\nLet me see\n42\n"


def test_what_an_agent_says_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    told(
        ("token", {"step": 1, "text": "a\x1b[2J\x9b2Jb"}),
        ("tool_call", {"name": "\x1b]0;x\x07", "arguments": "{\r\n}"}),
        ("done", {"answer": ""}),
    )
    captured = capsys.readouterr()
    assert captured.out.startswith("a\N{REPLACEMENT CHARACTER}[2J")
    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(captured.out + captured.err)


def test_a_run_that_ended_otherwise_says_so() -> None:
    shown = summary({"steps": [{}], "usage": {"tokens_in": 1, "tokens_out": 2, "model": "m"}, "outcome": "max_iterations"}, 1.5)
    assert shown == "1 step, 1 + 2 tokens, m, 1.5 s, ended by max_iterations"
    blocked = summary({"steps": [], "outcome": "blocked", "guardrail": "output: content_filter"}, 1.5)
    assert blocked.endswith("1.5 s, blocked by the agent's guardrail output: content_filter")
