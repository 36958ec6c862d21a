"""Vectors of texts, from the node's own inference service, wherever it runs."""

import asyncio
import math
from array import array
from collections.abc import Sequence
from dataclasses import replace

from app.call import call
from app.context import current
from app.errors import ProviderError, ProviderTimeout
from app.services.contract import Locate
from app.services.rag.knowledge import Vector
from app.services.rag.settings import Settings


class Embedder:
    """Asks in batches, some of them at once. Those of several ingestions take turns; a search waits for none of them."""

    def __init__(self, locate: Locate, settings: Settings) -> None:
        self._locate, self._settings = locate, settings
        self._at_once = asyncio.Semaphore(settings.embedding_concurrency)

    async def query(self, model: str, text: str) -> Vector:
        """The vector of a question. Raises as ``embed`` does."""
        [vector] = await self._ask(model, [text])
        return vector

    async def embed(self, model: str, texts: Sequence[str]) -> list[Vector]:
        """One vector of 32-bit floats for each text, all of one dimension. Raises what inference raises, ProviderError for an answer that
        is none, ProviderTimeout for one that takes too long."""
        step = self._settings.embedding_batch
        batches = [texts[at : at + step] for at in range(0, len(texts), step)]
        found, waiting = [list[Vector]() for _ in batches], iter(enumerate(batches))

        async def work() -> None:
            for at, batch in waiting:
                async with self._at_once:
                    found[at] = await self._ask(model, batch)

        # Not a task for each batch, all of which would stand in the queue before the next ingestion's first.
        tasks = [asyncio.create_task(work()) for _ in batches[: self._settings.embedding_concurrency]]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # the first failure is the answer; the others need not be asked any more
                task.cancel()
        vectors = [vector for batch in found for vector in batch]
        if len({len(vector) for vector in vectors}) > 1:
            raise ProviderError(f"The model {model!r} gave vectors of different dimensions; use a model for embeddings.")
        return vectors

    async def _ask(self, model: str, texts: Sequence[str]) -> list[Vector]:
        limit_s = self._settings.embedding_timeout_s
        deadline = min(current().deadline, asyncio.get_running_loop().time() + limit_s)
        body = {"model": model, "input": list(texts)}
        context = replace(current(), hops=(), from_peer=False, deadline=deadline)
        try:
            async with asyncio.timeout_at(deadline):
                async with call(self._locate("inference", model), "POST", "/v1/embeddings", body=body, context=context) as reply:
                    await reply.raise_for_status()
                    answer = await reply.json()
        except TimeoutError:
            raise ProviderTimeout(f"The model {model!r} did not embed {len(texts)} texts within {limit_s:g} s.") from None
        except (ValueError, RecursionError):
            raise ProviderError(f"The model {model!r} did not answer with JSON.") from None
        return _vectors(model, answer, len(texts))


def _vectors(model: str, answer: object, wanted: int) -> list[Vector]:
    try:
        rows = sorted(answer["data"], key=lambda row: row["index"])  # type: ignore[index]
        vectors = [array("f", row["embedding"]) for row in rows]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ProviderError(f"The model {model!r} did not answer with lists of numbers; use a model for embeddings.") from None
    if len(vectors) != wanted:
        raise ProviderError(f"The model {model!r} gave {len(vectors)} vectors for {wanted} texts.")
    if any(row["index"] != at for at, row in enumerate(rows)):
        raise ProviderError(f"The model {model!r} did not say which vector is of which text; see what its server makes of `index`.")
    if not all(vector and all(map(math.isfinite, vector)) for vector in vectors):
        raise ProviderError(f"The model {model!r} gave a vector that is empty or not of finite numbers.")
    return list[Vector](vectors)
