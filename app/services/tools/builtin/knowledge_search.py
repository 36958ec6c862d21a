"""``knowledge_search``: passages of the collections of rag, wherever they are kept, each with where it comes from."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from app.call import call
from app.errors import NodeError
from app.services.contract import Locate
from app.services.tools.tool import ToolError

MAX_COLLECTIONS = 20


@dataclass(frozen=True, slots=True)
class KnowledgeSearch:
    locate: Locate
    name: ClassVar[str] = "knowledge_search"
    description: ClassVar[str] = "Search collections of documents for passages that answer a question."
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["query", "collections"],
        "properties": {
            "query": {"type": "string", "minLength": 1, "maxLength": 2000, "description": "What to look for, in full words"},
            "collections": {"type": "array", "minItems": 1, "maxItems": MAX_COLLECTIONS, "items": {"type": "string", "minLength": 1}},
            "top_k": {"type": "integer", "minimum": 1, "maximum": 20, "default": 5, "description": "How many passages"},
            "filter": {"type": "object", "description": "What the documents' metadata must be"},
        },
    }

    async def run(self, arguments: Mapping[str, Any]) -> Any:
        """Passages, best first, from all collections together; of what could not be searched ``notes`` tell why."""
        names, top_k = dict.fromkeys(arguments["collections"]), arguments.get("top_k", 5)
        asked = {"query": arguments["query"], "top_k": top_k, "filter": arguments.get("filter")}
        answers = await asyncio.gather(*(self._search(name, asked) for name in names))
        found = [row for rows, _, _ in answers for row in rows]
        failed = [told for _, _, told in answers if told]
        if len(failed) == len(names):
            raise ToolError("; ".join(failed))
        notes = [*failed, *(note for _, note, _ in answers if note)]
        results = sorted(found, key=lambda row: -row["score"])[:top_k]
        return {"results": results} | ({"notes": notes} if notes else {})

    async def _search(self, name: str, asked: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str, str]:
        """(passages, a note on how they were searched for, why they could not be)."""
        target = f"/v1/rag/collections/{quote(name, safe='')}/query"
        try:
            async with call(self.locate("rag", name), "POST", target, body=asked) as reply:
                await reply.raise_for_status()
                answer = await reply.json()
            rows = [_passage(name, row) for row in answer["results"]]
        except NodeError as error:
            return [], "", f"{name}: {error.message}"
        except (ValueError, KeyError, TypeError):
            return [], "", f"{name}: the answer is none of rag"
        return rows, f"{name}: {answer['note']}" if answer.get("note") else "", ""


def _passage(collection: str, row: Mapping[str, Any]) -> dict[str, Any]:
    source = {"collection": collection, "document_id": row["document_id"], "chunk": row["chunk"], "metadata": row["metadata"]}
    return {"text": row["text"], "score": round(row["score"], 4), "source": source}
