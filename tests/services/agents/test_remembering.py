"""The ways in which agents remember: by turns, by tokens, and by a summary of what has become too long; over the real memory service."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from app.call import call
from app.errors import NotFound, ProviderUnavailable
from app.services.agents.excerpt import size_of
from app.services.agents.library import Library
from app.services.agents.remembering import PastTurn, Remembering
from app.services.agents.settings import Orchestration
from app.services.inference import Inference
from app.services.memory import Memory
from tests.nodes import ROOT
from tests.services.agents.world import Body, ScriptedModel, Tools, agent_file, agents, ask, calls, said, told
from tests.support import Neighbours, mounted, node_context


@asynccontextmanager
async def remembering(
    folder: Path, model: ASGIApp, spec: Mapping[str, Any] | None = None, **way: Any
) -> AsyncIterator[tuple[ASGIApp, ASGIApp]]:
    """An agent with this way of remembering, and its memory."""
    agent_file(folder, memory={"conversational": way}, **(spec or {}))
    async with mounted(Memory({}, node_context(folder))) as memory:
        async with agents(folder, Neighbours(inference=model, memory=memory)) as app:
            yield app, memory


async def history(memory: ASGIApp) -> Body:
    async with call(memory, "GET", "/v1/memory/tester/history/s") as reply:
        answer: Body = await reply.json()
        return answer


def contents(request: Body) -> list[str]:
    return [message["content"] for message in request["messages"]]


def summarises(request: Body) -> bool:
    return "You keep the memory" in request["messages"][0]["content"]


class Summariser:
    """A model that answers with its question in capitals and summarises by counting its summaries; ``fails`` is raised instead of one."""

    def __init__(self, fails: Any = None) -> None:
        self.summaries: list[str] = []
        self.fails = fails
        self.model = ScriptedModel([self.answer] * 100)
        self.seen: list[Body] = []

    def answer(self, request: Body) -> Any:
        if not summarises(request):
            self.seen.append(request)
            return said(request).upper()
        self.summaries.append(said(request))
        return self.fails or f"Summary {len(self.summaries)}."


async def test_the_window_slides_by_turns(tmp_path: Path) -> None:
    model = ScriptedModel([str(number) for number in range(5)])
    async with remembering(tmp_path, model, strategy="sliding_window", max_turns=2) as (app, memory):
        for question in "abcde":
            await ask(app, question, session_id="s")
        assert contents(model.requests[4]) == ["c", "2", "d", "3", "e"]
        assert len((await history(memory))["turns"]) == 5, "the turns stay"


async def test_a_budget_of_tokens_is_filled_with_the_newest_whole_turns(tmp_path: Path) -> None:
    model = ScriptedModel(["x" * 100] * 6)
    async with remembering(tmp_path, model, strategy="token_budget", max_tokens=100) as (app, _):
        for question in "abcdef":
            await ask(app, question, session_id="s")
    last = model.requests[5]["messages"]
    assert [message["content"][0] for message in last] == ["d", "x", "e", "x", "f"]
    assert size_of(last[:-1]) <= 4 * 100 < size_of(model.requests[3]["messages"][:-1]) + size_of(last[:2])


async def test_a_turn_larger_than_the_budget_is_cut_where_its_tools_spoke(tmp_path: Path) -> None:
    model = ScriptedModel([calls(("read", {})), "It is long.", "Yes."])
    agent_file(
        tmp_path, memory={"conversational": {"strategy": "token_budget", "max_tokens": 300}}, tools=[{"name": "read", "type": "builtin"}]
    )
    async with mounted(Memory({}, node_context(tmp_path))) as memory:
        async with agents(tmp_path, Neighbours(inference=model, memory=memory, tools=Tools({"read": lambda: "x" * 9000}))) as app:
            await ask(app, "Read it.", session_id="s")
            await ask(app, "Is it?", session_id="s")
    assert [message["role"] for message in model.requests[2]["messages"]] == ["user", "assistant", "tool", "assistant", "user"]
    assert "cut to fit into memory" in told(model.requests[2])[0]
    assert size_of(model.requests[2]["messages"][:-1]) <= 4 * 300


def test_a_question_larger_than_the_budget_is_forgotten_rather_than_sent() -> None:
    turn = PastTurn("t", [{"role": "user", "content": "x" * 900}, {"role": "assistant", "content": "y"}])
    assert Remembering("token_budget", 10, 100).window([turn]) == [PastTurn("t", ())]


async def test_older_turns_are_summarised_once_the_window_is_full_and_not_again_until_it_has_grown(tmp_path: Path) -> None:
    model = Summariser()
    async with remembering(tmp_path, model.model, strategy="summary", max_turns=4) as (app, memory):
        for question in "abcdefgh":
            result = await ask(app, f"question {question}", session_id="s")
        assert len(model.summaries) == 1
        assert contents(model.seen[4]) == [*window("abcd"), "question e"], "four turns are still in the window"
        first = contents(model.seen[5])
        assert "Summary 1." in first[0]
        assert first[2:] == [*window("de"), "question f"]
        assert [message["role"] for message in model.seen[5]["messages"]] == ["user", "assistant"] * 3 + ["user"]
        assert contents(model.seen[7])[2:] == [*window("defg"), "question h"]
        await ask(app, "question i", session_id="s")
        kept = await history(memory)
    assert len(kept["turns"]) == 9, "the turns stay"
    assert (kept["summary"]["text"], kept["summary"]["turn_id"]) == ("Summary 2.", kept["turns"][5]["turn_id"])
    assert len(model.summaries) == 2
    assert "Summary 1." in model.summaries[1]
    assert "question d" in model.summaries[1]
    assert "question c" not in model.summaries[1]
    assert "notes" not in result
    assert result["usage"]["by_model"][0]["calls"] == 1


def window(letters: str) -> list[str]:
    return [text for letter in letters for text in (f"question {letter}", f"QUESTION {letter.upper()}")]


async def test_a_summary_counts_as_used_and_is_due_by_tokens_too(tmp_path: Path) -> None:
    model = Summariser()
    async with remembering(tmp_path, model.model, strategy="summary", max_tokens=60) as (app, _):
        results = [await ask(app, "x" * 90, session_id="s") for _ in range(3)]
    assert len(model.summaries) == 1
    assert [result["usage"]["by_model"][0]["calls"] for result in results] == [1, 1, 2]


@pytest.mark.parametrize("fails", [ProviderUnavailable("The server is away."), "  "])
async def test_where_no_summary_can_be_made_the_run_goes_on_with_the_window_and_says_so(tmp_path: Path, fails: Any) -> None:
    model = Summariser(fails)
    async with remembering(tmp_path, model.model, strategy="summary", max_turns=2) as (app, memory):
        results = [await ask(app, f"question {letter}", session_id="s") for letter in "abcd"]
        assert "summary" not in await history(memory)
    assert ["notes" in result for result in results] == [False, False, False, True]
    assert "no summary of the older part of this conversation could be made" in results[3]["notes"][0]
    assert contents(model.seen[3]) == [*window("bc"), "question d"]


async def test_the_built_in_rules_are_not_taken_for_a_model_that_summarises(tmp_path: Path) -> None:
    async with mounted(Inference({}, node_context(tmp_path / "inference"))) as rules:
        async with remembering(tmp_path, rules, strategy="summary", max_turns=1) as (app, memory):
            results = [await ask(app, "My name is Ann.", session_id="s") for _ in range(3)]
            assert "summary" not in await history(memory)
    assert "the built-in rules, which cannot; attach a model" in results[2]["notes"][0]
    assert results[2]["outcome"] == "answered"


async def test_a_summary_that_cannot_be_kept_serves_the_run_all_the_same(tmp_path: Path) -> None:
    class Older:
        """The memory of a build that has no summaries."""

        def __init__(self, memory: ASGIApp) -> None:
            self.memory = memory

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["path"].endswith("/summary"):
                raise NotFound("There is nothing here.")
            await self.memory(scope, receive, send)

    model = Summariser()
    agent_file(tmp_path, memory={"conversational": {"strategy": "summary", "max_turns": 1}})
    async with mounted(Memory({}, node_context(tmp_path))) as memory:
        async with agents(tmp_path, Neighbours(inference=model.model, memory=Older(memory))) as app:
            for letter in "abc":
                await ask(app, letter, session_id="s")
    assert "Summary 1." in contents(model.seen[2])[0]


async def test_a_deleted_conversation_takes_its_summary_along(tmp_path: Path) -> None:
    model = Summariser()
    async with remembering(tmp_path, model.model, strategy="summary", max_turns=1) as (app, memory):
        for letter in "abc":
            await ask(app, letter, session_id="s")
        async with call(memory, "DELETE", "/v1/memory/tester/history/s") as reply:
            assert (await reply.json())["deleted"] == 3
        await ask(app, "d", session_id="s")
    assert contents(model.seen[-1]) == ["d"]


@pytest.mark.parametrize(
    ("way", "read"),
    [
        ({}, {"strategy": "sliding_window", "max_turns": 20}),
        ({"strategy": "token_budget"}, {"strategy": "token_budget", "max_turns": 1000, "max_tokens": 4000}),
        ({"strategy": "summary", "ttl": 5}, {"strategy": "summary", "max_turns": 20, "ttl": 5}),
    ],
)
def test_what_a_file_leaves_open_is_filled_in_by_the_strategy(tmp_path: Path, way: Body, read: Body) -> None:
    agent_file(tmp_path, memory={"conversational": way})
    loaded = Library(tmp_path / "config" / "agents", Orchestration())
    loaded.load()
    assert loaded.find("tester").detail()["memory"] == read


@pytest.mark.parametrize(
    ("backend", "environ", "warned"),
    [
        ("sqlite", {}, ""),
        ("redis", {}, "it keeps all conversations in SQLite (set ASTROMESH_DATABASE_URL or ASTROMESH_REDIS_URL for another)"),
        ("in_memory", {}, "`in_memory` is not what this node uses"),
        ("redis", {"ASTROMESH_REDIS_URL": "redis://x"}, ""),
        ("postgres", {"ASTROMESH_DATABASE_URL": "postgres://x"}, ""),
        (
            "postgres",
            {"ASTROMESH_DATABASE_URL": "postgres://x", "ASTROMESH_REDIS_URL": "redis://x"},
            "Redis (ASTROMESH_REDIS_URL; unset it",
        ),
        ("sqlite", {"ASTROMESH_DATABASE_URL": "postgres://x"}, "PostgreSQL (ASTROMESH_DATABASE_URL;"),
    ],
)
def test_a_backend_that_is_not_the_nodes_is_warned_of_with_the_remedy(
    tmp_path: Path, backend: str, environ: Mapping[str, str], warned: str
) -> None:
    agent_file(tmp_path, memory={"conversational": {"backend": backend}})
    loaded = Library(tmp_path / "config" / "agents", Orchestration(), environ)
    loaded.load()
    warnings = loaded.find("tester").warnings
    assert [warned in warning for warning in warnings] == ([True] if warned else [])


@pytest.mark.parametrize("environ", [{}, {"ASTROMESH_DATABASE_URL": "postgres://x"}, {"ASTROMESH_REDIS_URL": "redis://x"}])
def test_the_agents_that_ship_with_the_node_have_no_warnings_whichever_store_keeps_them(environ: Mapping[str, str]) -> None:
    loaded = Library(ROOT / "config" / "agents", Orchestration(), environ)
    loaded.load()
    assert loaded.find("assistant").warnings == ()
