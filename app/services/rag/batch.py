"""What an ingestion brings, read from JSON or from a form with files: documents, and how to take them in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema.protocols import Validator
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.body import check, parse_json, read_json
from app.errors import BadRequest, BodyTooLarge, InvalidBody
from app.services.rag.cutting import check_chunking, chunking_of
from app.services.rag.ingestion import id_of
from app.services.rag.knowledge import Chunking, Document
from app.services.rag.reading import Reader
from app.services.rag.settings import Settings

MAX_FILES, MAX_FIELDS = 1_000, 20
_ID = re.compile(r"[^\x00-\x1f\x7f]{0,999}[^\x00-\x1f\x7f/]")
_CHUNKING = ("chunk_size", "chunk_overlap", "chunk_unit", "chunk_strategy", "chunk_separators")
_NUMBERS = ("chunk_size", "chunk_overlap")
_SWITCHES = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True, slots=True)
class Batch:
    """``wait`` None leaves it to the amount of text; ``create`` makes a collection that is not there. ``chunking`` is what was asked for,
    field by field, the collection's own where it was not."""

    collection: str
    documents: tuple[Document, ...]
    chunking: Mapping[str, Any]
    wait: bool | None = None
    create: bool = False

    def chunking_for(self, own: Chunking) -> Chunking:
        """How to cut the documents. Raises InvalidBody."""
        return asked_chunking(self.chunking, own)

    def as_json(self) -> dict[str, Any]:
        """The request's body for the node that has the collection."""
        documents = [{"id": each.id, "text": each.text, "metadata": dict(each.metadata)} for each in self.documents]
        wait = {} if self.wait is None else {"wait": self.wait}
        return {"documents": documents, **self.chunking, **wait, "create": self.create}


def asked_chunking(asked: Mapping[str, Any], own: Chunking) -> Chunking:
    """``own``, but for what a request, or a file, says in one of _CHUNKING. Raises InvalidBody."""
    named = {name.removeprefix("chunk_"): asked[name] for name in _CHUNKING if name in asked}
    chunking = chunking_of(own, **named)
    check_chunking(chunking)
    return chunking


async def read_batch(request: Request, schema: Validator, reader: Reader, settings: Settings) -> Batch:
    """The request's documents. Raises UnsupportedMediaType, InvalidJSON, InvalidBody, UnreadableDocument,
    BodyTooLarge, BadRequest."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() == "multipart/form-data":
        return await _from_form(request, schema, reader, settings)
    body = await read_json(request, schema)
    documents = tuple(_document(each, at, settings) for at, each in enumerate(body["documents"]))
    return _batch(request, body, documents)


def _batch(request: Request, body: Mapping[str, Any], documents: tuple[Document, ...]) -> Batch:
    asked = {name: body[name] for name in _CHUNKING if name in body}
    at = dict[str, int]()
    for index, document in enumerate(documents):
        if documents[at.setdefault(document.id, index)] != document:  # equal ones are one
            told = f"the documents {at[document.id]} and {index} have the same id {document.id[:80]!r}"
            raise InvalidBody(f"$.documents[{index}].id: {told}; the later would replace the other.", param=f"$.documents[{index}].id")
    documents = tuple(documents[index] for index in at.values())
    return Batch(collection_of(request, body), documents, asked, body.get("wait"), body.get("create", False))


def collection_of(request: Request, body: Mapping[str, Any]) -> str:
    """The collection, from the path, the query or the body; they must not name two. Raises BadRequest."""
    places = (request.path_params.get("collection"), request.query_params.get("collection"), body.get("collection"))
    named = {place for place in places if place is not None}
    if len(named) > 1:
        raise BadRequest(f"The request names the collections {', '.join(sorted(map(repr, named)))}; name one.", param="collection")
    if not named:
        raise BadRequest("The request names no collection; send `collection` in the body.", param="collection")
    return str(named.pop())


def _check_id(document_id: str, param: str) -> None:
    """A document has to be addressable by its id. Raises InvalidBody."""
    if not _ID.fullmatch(document_id) or document_id in (".", ".."):  # which clients take out of a path, and delete the collection
        remedy = "take 1 to 1000 characters, none of them control characters, not . or .., and no / at the end"
        raise InvalidBody(f"{param}: {document_id[:80]!r} cannot be the id of a document; {remedy}.", param=param)


def _document(given: Mapping[str, Any], at: int, settings: Settings) -> Document:
    text, metadata, document_id = given["text"], given.get("metadata") or {}, given.get("id")
    _check_text(text, f"$.documents[{at}].text", settings)
    if document_id is not None:
        _check_id(document_id, f"$.documents[{at}].id")
    return Document(document_id or id_of(text, metadata), text, metadata)


def _check_text(text: str, param: str, settings: Settings) -> None:
    if not text.strip():
        raise InvalidBody(f"{param}: is blank; leave the document out.", param=param)
    if len(text) > settings.max_document_chars:
        told = f"has {len(text)} characters, and a document may have {settings.max_document_chars} (spec.rag.max_document_chars)"
        raise BodyTooLarge(f"{param}: {told}; send it in parts.", param=param)


def one_document(request: Request, body: Mapping[str, Any], settings: Settings) -> Batch:
    """The document that the path names, taken in while the client waits. Raises InvalidBody, BodyTooLarge."""
    _check_id(request.path_params["document"], "document")
    _check_text(body["text"], "$.text", settings)
    document = Document(request.path_params["document"], body["text"], body.get("metadata") or {})
    return Batch(request.path_params["collection"], (document,), {}, wait=True)


async def _from_form(request: Request, schema: Validator, reader: Reader, settings: Settings) -> Batch:
    """``files``, and as fields what the JSON body has, ``metadata`` (a JSON object) for all of them."""
    try:
        async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS) as form:
            fields, metadata = _fields(form), _metadata(form)
            given = [part for part in form.getlist("files") if isinstance(part, UploadFile)]
            strange = sorted(name for name, part in form.multi_items() if isinstance(part, UploadFile) and name != "files")
            if strange or not given:
                told = f"has a file in the field {strange[0][:80]!r}" if strange else "has no file"
                raise BadRequest(f"The form {told}; send each file in a field named `files`.", param="files")
            collection_of(request, fields)
            check({**fields, "documents": [{"text": "-", "metadata": metadata}]}, schema)
            documents = tuple([await _from_file(part, metadata, reader, settings) for part in given])
    except HTTPException as error:
        raise BadRequest(f"The form cannot be read: {error.detail}", param="files") from None
    return _batch(request, fields, documents)


def _metadata(form: FormData) -> Mapping[str, Any]:
    """What the field ``metadata`` says of all files."""
    given = form.get("metadata", "{}")
    metadata = parse_json(given.encode("utf-8", "surrogatepass"), "The field metadata") if isinstance(given, str) else None
    if not isinstance(metadata, Mapping):
        raise BadRequest("The field metadata is not a JSON object; send one.", param="metadata")
    return metadata


def _fields(form: FormData) -> dict[str, Any]:
    """Fields that are no files, as JSON would have them. Raises BadRequest."""
    fields: dict[str, Any] = {name: value for name, value in form.multi_items() if isinstance(value, str) and name != "metadata"}
    for name in _NUMBERS:
        if name in fields:
            if not (fields[name].isascii() and fields[name].isdigit() and len(fields[name]) < 10):
                raise BadRequest(f"The field {name} is {fields[name][:40]!r}; give a whole number.", param=name)
            fields[name] = int(fields[name])
    for name in ("wait", "create"):
        if name in fields:
            if fields[name].lower() not in _SWITCHES:
                raise BadRequest(f"The field {name} is {fields[name][:40]!r}; give true or false.", param=name)
            fields[name] = _SWITCHES[fields[name].lower()]
    return fields


async def _from_file(part: UploadFile, metadata: Mapping[str, Any], reader: Reader, settings: Settings) -> Document:
    name = part.filename or "file"
    _check_id(name, f"files[{name[:80]}]")
    reading = await reader.read(await part.read(), filename=name, content_type=part.content_type or "")
    _check_text(reading.text, f"files[{name[:80]}]", settings)
    return Document(name, reading.text, {"source": name, **reading.metadata, **metadata})
