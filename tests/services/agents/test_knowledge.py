"""Agents that search knowledge: in the collections of their file and no others, with the sources in their steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app.services.agents import Agents
from app.services.agents.library import Library
from app.services.agents.settings import Orchestration
from tests.services.agents.world import ScriptedModel, Tools, agent_file, ask, calls, told
from tests.support import Neighbours, mounted, node_context

FOUND = {"results": [{"text": "Open from 9.", "score": 1.0, "source": {"collection": "handbook", "document_id": "hours", "chunk": 0}}]}
BUILTIN = {"name": "knowledge_search", "type": "builtin", "collections": ["handbook", "faq"]}


async def run(tmp_path: Path, tool: Mapping[str, Any], arguments: Mapping[str, Any]) -> tuple[Any, ScriptedModel, Tools]:
    """One run whose model calls the tool and then says that it is done."""
    agent_file(tmp_path, "clerk", tools=[dict(tool)])
    model = ScriptedModel([calls((tool["name"], dict(arguments))), "Done."])
    tools = Tools({"knowledge_search": lambda **given: FOUND})
    async with mounted(Agents({}, node_context(tmp_path, Neighbours(inference=model, tools=tools)))) as app:
        answer = await ask(app, "When do you open?", "clerk")
    return answer, model, tools


@pytest.mark.parametrize("tool", [BUILTIN, {"name": "handbook", "type": "rag", "collections": ["handbook", "faq"]}], ids=["builtin", "rag"])
async def test_an_agent_searches_the_collections_of_its_file_and_shows_the_sources(tool: Any, tmp_path: Path) -> None:
    answer, model, tools = await run(tmp_path, tool, {"query": "opening hours", "top_k": 3})
    [function] = [each["function"] for each in model.requests[0]["tools"]]
    assert function["name"] == tool["name"]
    assert "handbook, faq" in function["description"]
    assert set(function["parameters"]["properties"]) == {"query", "top_k"}
    [executed] = tools.executed
    arguments = {"query": "opening hours", "top_k": 3, "collections": ["handbook", "faq"]}
    assert executed == {"tool_name": "knowledge_search", "arguments": arguments}
    results = [call["result"] for step in answer["steps"] for call in step.get("tool_calls", ())]
    assert results == [FOUND]
    assert "hours" in told(model.requests[1])[0]


async def test_a_model_cannot_have_other_collections_searched(tmp_path: Path) -> None:
    _, _, tools = await run(tmp_path, BUILTIN, {"query": "salaries", "collections": ["secrets"]})
    assert tools.executed[0]["arguments"]["collections"] == ["handbook", "faq"]


@pytest.mark.parametrize(
    ("tool", "warning"),
    [
        ({"name": "knowledge_search", "type": "builtin"}, "tool `knowledge_search` names no `collections` to search"),
        ({"name": "docs", "type": "rag", "collections": []}, "tool `docs` names no `collections` to search"),
        ({"name": "calculator", "type": "builtin", "collections": ["a"]}, "tool `calculator`: `collections` is not acted on"),
    ],
)
def test_collections_that_are_missing_or_mean_nothing_are_warned_of(tool: Any, warning: str, tmp_path: Path) -> None:
    agent_file(tmp_path, "clerk", tools=[tool])
    library = Library(tmp_path / "config" / "agents", Orchestration())
    library.load()
    assert [each for each in library.find("clerk").warnings if each.startswith(warning)]
