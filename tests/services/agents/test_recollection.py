"""Agents that recollect: what the question is about comes back from earlier exchanges that have left the window."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from app.services.agents import Agents
from app.services.agents.library import Library
from app.services.agents.settings import Orchestration
from app.services.memory import Memory
from app.services.rag import Rag
from tests.services.agents.world import ScriptedModel, agent_file, ask
from tests.services.rag.world import MODEL, Model
from tests.support import Neighbours, mounted, node_context


@asynccontextmanager
async def agents(folder: Path, script: list[Any], **semantic: Any) -> AsyncIterator[tuple[ASGIApp, ScriptedModel, Neighbours]]:
    """An agent that sees one turn of its conversation, and recollects the others."""
    agent_file(folder, "tester", memory={"conversational": {"max_turns": 1}, "semantic": semantic})
    words, meanings = ScriptedModel(script), Model()

    async def inference(scope: Any, receive: Any, send: Any) -> None:
        await (meanings if scope["path"] == "/v1/embeddings" else words)(scope, receive, send)

    neighbours = Neighbours(inference=inference)
    async with AsyncExitStack() as stack:
        for name, service in (("rag", Rag({"embedding_model": MODEL}, node_context(folder, neighbours))),):
            neighbours.apps[name] = await stack.enter_async_context(mounted(service))
        neighbours.apps["memory"] = await stack.enter_async_context(mounted(Memory({}, node_context(folder, neighbours))))
        yield await stack.enter_async_context(mounted(Agents({}, node_context(folder, neighbours)))), words, neighbours


def seen(model: ScriptedModel) -> str:
    """All that the model was told last."""
    return "\n".join(str(message["content"]) for message in model.requests[-1]["messages"])


async def talk(app: ASGIApp, neighbours: Neighbours, *questions: str, session: str = "s") -> Any:
    """Ask one after the other; each is in semantic memory before the next is asked."""
    for question in questions:
        answer = await ask(app, question, session_id=session)
        await taken(neighbours)
    return answer


async def taken(neighbours: Neighbours) -> None:
    """Until rag has no job under way."""
    from app.call import call
    from app.context import background

    while True:
        async with call(neighbours.apps["rag"], "GET", "/v1/rag/collections/memory.tester/jobs", context=background()) as reply:
            if all(job["state"] != "running" for job in (await reply.json())["jobs"]):
                return


async def test_an_agent_recollects_what_the_question_is_about(tmp_path: Path) -> None:
    async with agents(tmp_path, ["Nice."] * 4, max_results=1) as (app, model, neighbours):
        await talk(app, neighbours, "My automobile is red.", "I have two cats.", "And what is the weather?")
        await ask(app, "Which colour is the car?", session_id="s")
        assert "My automobile is red." in seen(model)
        assert "I have two cats." not in seen(model)
        assert "And what is the weather?" in seen(model), "the window is one turn"
        assert seen(model).count("And what is the weather?") == 1


async def test_another_session_is_recollected_only_where_the_file_says_so(tmp_path: Path) -> None:
    for scope, known in (("session", False), ("principal", True)):
        async with agents(tmp_path / scope, ["Nice."] * 2, scope=scope) as (app, model, neighbours):
            await talk(app, neighbours, "My automobile is red.", session="one")
            await ask(app, "Which colour is the car?", session_id="two")
            assert ("My automobile is red." in seen(model)) is known


async def test_a_run_that_cannot_look_says_so_and_goes_on(tmp_path: Path) -> None:
    async with agents(tmp_path, ["Nice."]) as (app, _, neighbours):
        del neighbours.apps["rag"]
        answer = await ask(app, "Which colour is the car?", session_id="s")
        assert (answer["answer"], answer["notes"]) == ("Nice.", ["earlier exchanges could not be looked for: No node here offers rag."])


@pytest.mark.parametrize(("memory", "warned"), [({"semantic": {}}, True), ({"semantic": {}, "conversational": {}}, False)])
def test_semantic_memory_needs_a_conversation(memory: Any, warned: bool, tmp_path: Path) -> None:
    agent_file(tmp_path, "tester", memory=memory)
    library = Library(tmp_path / "config" / "agents", Orchestration())
    library.load()
    assert any("`spec.memory.semantic` is not acted on without" in each for each in library.find("tester").warnings) is warned
