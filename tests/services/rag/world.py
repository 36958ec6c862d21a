"""The rag service alone, next to a model for embeddings that the tests watch, break and hold up."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.call import call
from app.context import background
from app.errors import NodeError
from app.services.rag import Rag
from tests.support import Neighbours, mounted, node_context

MODEL = "test/embedding"
_MEANINGS = {"car": "vehicle", "automobile": "vehicle", "vehicle": "vehicle", "dog": "pet", "cat": "pet", "hound": "pet"}


@dataclass
class Model:
    """Embeds texts by the meanings that it knows, so that a car is near an automobile. ``error`` is raised instead of an answer;
    ``hold`` keeps answers back until it is set; ``left`` tells of an asker who did not wait for that."""

    dimension: int = 32
    asked: list[dict[str, Any]] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    error: NodeError | None = None
    hold: asyncio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"] == "/v1/embeddings"
        body = await Request(scope, receive).json()
        self.asked.append(body)
        self.begun.set()
        if self.hold:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.left.set()
                raise
        if self.error:
            raise self.error
        rows = [{"object": "embedding", "index": at, "embedding": self.embed(text)} for at, text in enumerate(body["input"])]
        await JSONResponse({"object": "list", "data": rows, "model": body["model"]})(scope, receive, send)

    def embed(self, text: str) -> list[float]:
        vector = [0.0] * self.dimension
        for word in re.findall(r"\w+", text.lower()):
            meaning = _MEANINGS.get(word, word)
            vector[int(hashlib.sha256(meaning.encode()).hexdigest(), 16) % self.dimension] += 1.0
        return vector


@dataclass
class World:
    """A mounted service: ``ask`` it as a principal."""

    app: ASGIApp
    service: Rag

    async def ask(self, method: str, path: str, body: Any = None, principal: str = "", status: int = 200) -> Any:
        async with call(self.app, method, path, body=body, context=replace(background(), principal=principal)) as reply:
            answer = await reply.json()
            assert reply.status == status, answer
            return answer

    async def form(self, path: str, files: Mapping[str, bytes], status: int = 200, **fields: str) -> Any:
        """Send files, by their names, as a form does."""
        edge, parts = "----edge", list[bytes]()
        for name, value in fields.items():
            parts.append(f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
        for name, content in files.items():
            head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
            parts.append(head.encode() + content + b"\r\n")
        body = b"".join(parts) + f"--{edge}--\r\n".encode()
        headers = [(b"content-type", f"multipart/form-data; boundary={edge}".encode())]
        async with call(self.app, "POST", path, body=body, headers=headers, context=background()) as reply:
            answer = await reply.json()
            assert reply.status == status, answer
            return answer

    async def job(self, collection: str, job_id: str) -> Any:
        """A job that has ended."""
        async with asyncio.timeout(20):
            while (job := await self.ask("GET", f"/v1/rag/collections/{collection}/jobs/{job_id}"))["state"] == "running":
                pass
        return job


@asynccontextmanager
async def rag(folder: Path, model: Model | None = None, environ: Mapping[str, str] | None = None, **config: Any) -> AsyncIterator[World]:
    """The service over ``folder``, on a node that is alone but for the model."""
    neighbours = Neighbours(**({"inference": model} if model else {}))
    service = Rag(config, node_context(folder, neighbours, environ))
    async with mounted(service) as app:
        neighbours.apps["rag"] = app
        yield World(app, service)


def documents(*texts: str, **metadata: Any) -> list[dict[str, Any]]:
    return [{"id": f"d{at}", "text": text, "metadata": metadata} for at, text in enumerate(texts)]


def ids(found: Any) -> list[str]:
    return [row["document_id"] for row in found["results"]]
