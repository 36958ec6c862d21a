"""What comes of an answer that is no vectors for the texts: never a vector beside another text, always the reason."""

from typing import Any

import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import ProviderError
from app.services.rag.embedder import Embedder
from app.services.rag.knowledge import Vector
from app.services.rag.settings import Settings

ONE, OTHER = [1.0, 0.0], [0.0, 1.0]


async def embedded(answer: Any) -> list[Vector]:
    async def model(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse(answer)(scope, receive, send)

    def locate(service: str, key: str | None) -> ASGIApp:
        return model

    return await Embedder(locate, Settings()).embed("m", ["one", "other"])


def row(index: Any, embedding: Any) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": embedding}


async def test_vectors_are_those_of_their_texts_whatever_the_order_of_the_answer() -> None:
    assert [list(vector) for vector in await embedded({"data": [row(1, OTHER), row(0, ONE)]})] == [ONE, OTHER]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"data": [row(0, ONE)]}, "gave 1 vectors for 2 texts"),
        ({"data": [row(0, ONE), row(0, OTHER)]}, "did not say which vector is of which text"),
        ({"data": [row(1, ONE), row(2, OTHER)]}, "did not say which vector is of which text"),
        ({"data": [row(0, ONE), row(1, [1.0])]}, "vectors of different dimensions"),
        ({"data": [row(0, []), row(1, [])]}, "empty or not of finite numbers"),
        ({"data": [row(0, [1e39, 0.0]), row(1, ONE)]}, "empty or not of finite numbers"),
        ({"data": [row(0, "AAAA"), row(1, ONE)]}, "did not answer with lists of numbers"),
        ({"data": [row(None, ONE), row(1, ONE)]}, "did not answer with lists of numbers"),
        ({"data": [1, 2]}, "did not answer with lists of numbers"),
        ({"vectors": []}, "did not answer with lists of numbers"),
        ([], "did not answer with lists of numbers"),
    ],
)
async def test_an_answer_that_is_no_vector_for_each_text_is_refused_with_the_reason(answer: Any, told: str) -> None:
    with pytest.raises(ProviderError) as refused:
        await embedded(answer)
    assert told in refused.value.message
