"""Rag over HTTP. Paths that name their collection are answered where it is kept; those whose body names it are passed on to there."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Protocol
from urllib.parse import quote

from jsonschema.protocols import Validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from app.body import JSONAnswer, parse_json, read_json, validator
from app.call import call
from app.errors import BadRequest, DocumentNotFound
from app.query import whole_number
from app.services.rag.batch import Batch, collection_of, one_document, read_batch
from app.services.rag.filtering import parse_filter
from app.services.rag.ingestion import Ingested
from app.services.rag.knowledge import Collection, Document, Filter, Job
from app.services.rag.reading import Reader
from app.services.rag.search import Found, Question
from app.services.rag.settings import Settings
from app.services.rag.views import collection_row, document_row, hit_row, job_row

DEFAULT_ROWS, MAX_ROWS = 100, 1_000
_OF = "/v1/rag/collections/{collection}"
Schemas = Mapping[str, Validator]


class Knowledge(Protocol):
    """What the routes need of the service. ``at`` is whoever has the collection, or this node, where nobody has; ``create`` says whether
    it is new."""

    @property
    def settings(self) -> Settings: ...
    @property
    def reader(self) -> Reader: ...
    def has(self, name: str) -> bool: ...
    def at(self, name: str) -> ASGIApp: ...
    async def collections(self) -> Sequence[Collection]: ...
    async def create(self, name: str, asked: Mapping[str, Any]) -> tuple[Collection, bool]: ...
    async def collection(self, name: str) -> Collection: ...
    async def drop(self, name: str) -> None: ...
    async def ingest(self, batch: Batch) -> Ingested | Job: ...
    async def query(self, name: str, question: Question) -> Found: ...
    async def documents(self, name: str, where: Filter, after: str, limit: int) -> Sequence[tuple[Document, int]]: ...
    async def document(self, name: str, document_id: str) -> tuple[Document, int]: ...
    async def delete(self, name: str, ids: Sequence[str] | None, where: Filter) -> int: ...
    async def jobs(self, name: str, limit: int) -> Sequence[Job]: ...
    async def job(self, name: str, job_id: str) -> Job: ...
    async def cancel(self, name: str, job_id: str) -> Job: ...


def routes(rag: Knowledge) -> Sequence[BaseRoute]:
    requests = json.loads(files(__package__).joinpath("schema.json").read_bytes())["requests"]
    schemas = {name: validator(schema) for name, schema in requests.items()}
    return [*_collections(rag, schemas), *_content(rag, schemas), *_documents(rag, schemas), *_jobs(rag)]


def _collections(rag: Knowledge, schemas: Schemas) -> Sequence[BaseRoute]:
    async def listed(request: Request) -> Response:
        rows = [collection_row(each) for each in await rag.collections()]
        return JSONAnswer({"collections": rows, "count": len(rows)})

    async def made(request: Request) -> Response:
        body = await read_json(request, schemas["new_collection"])
        name = str(body["name"])
        return await _passed_on(rag.at(name), "PUT", _path(name), {key: value for key, value in body.items() if key != "name"})

    async def made_here(request: Request) -> Response:
        name, body = request.path_params["collection"], await read_json(request, schemas["collection_settings"])
        collection, new = await rag.create(name, body)
        return JSONAnswer(collection_row(collection), 201 if new else 200)

    async def described(request: Request) -> Response:
        return JSONAnswer(collection_row(await rag.collection(request.path_params["collection"])))

    async def dropped(request: Request) -> Response:
        name = request.path_params["collection"]
        await rag.drop(name)
        return JSONAnswer({"name": name, "deleted": True})

    return [_route("/v1/rag/collections", GET=listed, POST=made), _route(_OF, GET=described, PUT=made_here, DELETE=dropped)]


def _content(rag: Knowledge, schemas: Schemas) -> Sequence[BaseRoute]:
    async def ingest(request: Request) -> Response:
        batch = await read_batch(request, schemas["ingestion"], rag.reader, rag.settings)
        if not request.path_params and not rag.has(batch.collection):
            return await _passed_on(rag.at(batch.collection), "POST", f"{_path(batch.collection)}/ingest", batch.as_json())
        return _ingested(batch, await rag.ingest(batch))

    async def query(request: Request) -> Response:
        body = await read_json(request, schemas["query"])
        name = collection_of(request, body)
        if not request.path_params and not rag.has(name):
            asked = {key: value for key, value in body.items() if key != "collection"}
            return await _passed_on(rag.at(name), "POST", f"{_path(name)}/query", asked)
        found = await rag.query(name, _question(body, rag.settings))
        answer = {"collection": name, "mode": found.mode, "results": [hit_row(hit) for hit in found.hits]}
        return JSONAnswer(answer | ({"note": found.note} if found.note else {}))

    return [_route(path, POST=answer) for of in ("/v1/rag", _OF) for path, answer in ((f"{of}/ingest", ingest), (f"{of}/query", query))]


def _documents(rag: Knowledge, schemas: Schemas) -> Sequence[BaseRoute]:
    async def documents(request: Request) -> Response:
        limit = whole_number(request, "limit", MAX_ROWS) or DEFAULT_ROWS
        after = request.query_params.get("after", "")
        rows = await rag.documents(request.path_params["collection"], _filter(request), after, limit)
        more = {"after": rows[-1][0].id} if len(rows) == limit else {}
        return JSONAnswer({"documents": [document_row(*row) for row in rows], "count": len(rows), **more})

    async def deleted(request: Request) -> Response:
        name, where = request.path_params["collection"], _filter(request)
        if not where:
            raise BadRequest("The request has no filter; send ?filter={…}, or delete the whole collection.", param="filter")
        return JSONAnswer({"collection": name, "deleted": await rag.delete(name, None, where)})

    async def document(request: Request) -> Response:
        found, chunks = await rag.document(request.path_params["collection"], request.path_params["document"])
        return JSONAnswer(document_row(found, chunks) | {"text": found.text})

    async def replaced(request: Request) -> Response:
        body = await read_json(request, schemas["document_content"])
        batch = one_document(request, body, rag.settings)
        return _ingested(batch, await rag.ingest(batch))

    async def forgotten(request: Request) -> Response:
        name, document_id = request.path_params["collection"], request.path_params["document"]
        if not await rag.delete(name, [document_id], ()):
            raise DocumentNotFound(f"There is no document {document_id[:80]!r} in the collection {name!r}.", param="document")
        return JSONAnswer({"collection": name, "deleted": 1})

    return [
        _route(f"{_OF}/documents", GET=documents, DELETE=deleted),
        _route(f"{_OF}/documents/{{document:path}}", GET=document, PUT=replaced, DELETE=forgotten),
    ]


def _jobs(rag: Knowledge) -> Sequence[BaseRoute]:
    async def jobs(request: Request) -> Response:
        rows = await rag.jobs(request.path_params["collection"], whole_number(request, "limit", MAX_ROWS) or DEFAULT_ROWS)
        return JSONAnswer({"jobs": [job_row(each) for each in rows], "count": len(rows)})

    async def job(request: Request) -> Response:
        return JSONAnswer(job_row(await rag.job(request.path_params["collection"], request.path_params["job"])))

    async def cancelled(request: Request) -> Response:
        return JSONAnswer(job_row(await rag.cancel(request.path_params["collection"], request.path_params["job"])))

    return [_route(f"{_OF}/jobs", GET=jobs), _route(f"{_OF}/jobs/{{job}}", GET=job, DELETE=cancelled)]


def _route(path: str, **handlers: Callable[[Request], Awaitable[Response]]) -> Route:
    """One route for all methods of a path, so that a wrong method is told all of them."""

    async def answer(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, answer, methods=list(handlers))


def _path(collection: str) -> str:
    return f"/v1/rag/collections/{quote(collection, safe='')}"


async def _passed_on(app: ASGIApp, method: str, target: str, body: Mapping[str, Any]) -> Response:
    """The answer of the node that has the collection, or of this one, where nobody has."""
    async with call(app, method, target, body=body) as reply:
        kept = ("content-type", "location", "retry-after", "x-astromesh-not-begun")
        headers = {name: value for name in kept if (value := reply.header(name))}
        return Response(await reply.read(), reply.status, headers)


def _question(body: Mapping[str, Any], settings: Settings) -> Question:
    """Raises BadRequest."""
    top_k = body.get("top_k", 0)  # 0: the collection's own
    if top_k > settings.max_top_k:
        raise BadRequest(f"top_k is {top_k}; a search gives at most {settings.max_top_k} results (spec.rag.max_top_k).", param="top_k")
    if len(body["query"]) > settings.max_query_chars:
        told = f"The query has {len(body['query'])} characters, and may have {settings.max_query_chars} (spec.rag.max_query_chars)"
        raise BadRequest(f"{told}; ask for what is searched alone.", param="query")
    where = parse_filter(body.get("filter"))
    return Question(body["query"], top_k, where, body.get("score_threshold"), body.get("mode"), body.get("model") or "")


def _filter(request: Request) -> Filter:
    given = request.query_params.get("filter")
    parsed = parse_json(given.encode("utf-8", "surrogatepass"), "The filter") if given else {}
    if not isinstance(parsed, Mapping):
        raise BadRequest("The filter is not a JSON object; send one.", param="filter")
    return parse_filter(parsed)


def _ingested(batch: Batch, outcome: Ingested | Job) -> Response:
    told: dict[str, Any] = {"collection": batch.collection}
    if isinstance(outcome, Job):
        location = f"{_path(batch.collection)}/jobs/{quote(outcome.id)}"
        return JSONAnswer(told | {"job": job_row(outcome)}, 202, headers={"Location": location})
    return JSONAnswer(
        told | {"documents": outcome.documents, "chunks": outcome.chunks, "document_ids": [each.id for each in batch.documents]}
    )
