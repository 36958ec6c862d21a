"""knowledge_search: passages of several collections together, and what could not be searched."""

from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from app.errors import CollectionNotFound, InvalidBody, ServiceUnavailable
from tests.services.tools.test_configured import execute
from tests.support import Neighbours


class Rag:
    """Collections of passages, each with its score; a NodeError in their place is raised."""

    def __init__(self, **collections: Any) -> None:
        self.collections, self.asked = collections, list[Any]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].split("/")[4]
        assert scope["path"] == f"/v1/rag/collections/{name}/query"
        self.asked.append((name, await Request(scope, receive).json()))
        found = self.collections[name]
        if isinstance(found, Exception):
            raise found
        rows = [{"text": text, "score": score, "document_id": text, "chunk": 0, "metadata": {"page": 7}} for text, score in found]
        note = {"note": "searched by words alone"} if name == "plain" else {}
        await JSONResponse({"collection": name, "mode": "words", "results": rows, **note})(scope, receive, send)


async def search(rag: Rag, tmp_path: Path, **arguments: Any) -> Any:
    return await execute({}, "knowledge_search", arguments, tmp_path, Neighbours(rag=rag))


async def test_the_best_passages_of_all_collections_come_with_their_sources(tmp_path: Path) -> None:
    rag = Rag(a=[("first", 0.91237), ("third", 0.2)], b=[("second", 0.5)])
    answer = await search(rag, tmp_path, query="what", collections=["a", "b", "a"], top_k=2, filter={"page": 7})
    source = {"collection": "a", "document_id": "first", "chunk": 0, "metadata": {"page": 7}}
    assert answer["result"]["results"][0] == {"text": "first", "score": 0.9124, "source": source}
    assert [row["text"] for row in answer["result"]["results"]] == ["first", "second"]
    assert "notes" not in answer["result"]
    assert rag.asked == [(name, {"query": "what", "top_k": 2, "filter": {"page": 7}}) for name in ("a", "b")]


async def test_what_could_not_be_searched_is_told_beside_what_was_found(tmp_path: Path) -> None:
    rag = Rag(plain=[("first", 0.5)], gone=CollectionNotFound("There is no collection 'gone'."))
    answer = await search(rag, tmp_path, query="what", collections=["plain", "gone"])
    assert [row["text"] for row in answer["result"]["results"]] == ["first"]
    assert answer["result"]["notes"] == ["gone: There is no collection 'gone'.", "plain: searched by words alone"]


async def test_when_nothing_could_be_searched_the_tool_fails_with_the_reasons(tmp_path: Path) -> None:
    rag = Rag(x=ServiceUnavailable("Nobody has rag."), y=CollectionNotFound("There is no collection 'y'."))
    answer = await search(rag, tmp_path, query="what", collections=["x", "y"])
    assert (answer["status"], answer["error"]) == ("error", "x: Nobody has rag.; y: There is no collection 'y'.")


async def test_a_search_names_its_collections(tmp_path: Path) -> None:
    for collections in ([], [""], [f"c{at}" for at in range(21)]):
        with pytest.raises(InvalidBody):
            await search(Rag(), tmp_path, query="what", collections=collections)
