"""``/openapi.json``: the whole API, also of services that this node lacks, from what each one's schema.json says of its operations.

The schemas of requests are the very ones that check them. A request's and an answer's name is ``<service>.<name>`` here.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from app import __version__
from app.services import SERVICES

Json = dict[str, Any]
_APP = Path(__file__).resolve().parents[1]
_EVERYWHERE = (400, 401, 404, 408, 413, 429, 431, 500, 503, 504)
"""What the edge, and placement, may answer to any request; 404 is also that of a node whose public API is off."""
_WITH_BODY = (415, 422)
_FORWARDED = (502,)
_RETRY_AFTER = {"description": "seconds to wait before another try", "schema": {"type": "integer", "minimum": 0}}
_NODE_HEADERS = {
    "X-Request-Id": {"description": "the request's id, the client's own where it sent one", "schema": {"type": "string"}, "required": True},
    "X-Astromesh-Node": {"description": "the node that answered", "schema": {"type": "string"}, "required": True},
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "additionalProperties": False,
            "required": ["message", "type", "code", "param"],
            "properties": {
                "message": {"type": "string", "description": "what is wrong, the value, and the remedy"},
                "type": {"type": "string"},
                "code": {"type": "string", "description": "for programs: rate_limited, model_not_found, …"},
                "param": {"type": ["string", "null"], "description": "the part of the request that it is about"},
                "errors": {"type": "array", "items": {"type": "string"}, "description": "of invalid_agent: each of its problems"},
            },
        }
    },
}
_EVENT = {
    "type": "object",
    "description": "one event of the stream",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string", "description": "JSON, or [DONE] at the end of a completion"}},
}
_ABOUT = """\
The API of an Astromesh node. A service that a node lacks is answered by a peer that has it, so every node has the same API.

Every error has one shape, `Error`. `X-Request-Id` may be sent and is in every answer; `traceparent` is continued. Paths answer with and \
without a trailing slash. Any operation may be answered 408, 413, 431, 429, 503 or 504 by the limits of the node."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one schema.json says, and its name: a service's, or "node" for the node's own paths."""

    name: str
    content: Mapping[str, Any]

    def reference(self, name: str) -> Json:
        """A reference to one of this part's schemas, or to another's, by its dotted name."""
        return {"$ref": f"#/components/schemas/{name if '.' in name else f'{self.name}.{name}'}"}

    def schemas(self) -> Iterator[tuple[str, Any]]:
        for kind in ("requests", "answers"):
            for name, schema in self.content.get(kind, {}).items():
                yield f"{self.name}.{name}", self._moved(schema, f"#/components/schemas/{self.name}.{name}")

    def _moved(self, schema: Any, to: str) -> Any:
        """The schema with its references, within itself or to others of its file, turned into those of the document."""
        if isinstance(schema, list):
            return [self._moved(each, to) for each in schema]
        if not isinstance(schema, Mapping):
            return schema
        moved = {key: self._moved(value, to) for key, value in schema.items()}
        if isinstance(reference := schema.get("$ref"), str):
            moved["$ref"] = re.sub(r"^#/(requests|answers)/", f"#/components/schemas/{self.name}.", reference)
            moved["$ref"] = re.sub(r"^#/\$defs/", f"{to}/$defs/", moved["$ref"])
        return moved


@cache
def document() -> bytes:
    """The OpenAPI 3.1 document as JSON. Reads files, the first time."""
    parts = list(_parts())
    schemas: Json = {"Error": _ERROR}
    paths: dict[str, Json] = {}
    for part in parts:
        for name, schema in part.schemas():
            assert schemas.setdefault(name, schema) is schema, f"{name} is there twice"
        for operation, content in part.content.get("operations", {}).items():
            method, _, path = operation.partition(" ")
            paths.setdefault(path, {})[method.lower()] = _operation(part, method, path, content)
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "Astromesh node", "version": __version__, "description": _ABOUT},
            "servers": [{"url": "/"}],
            "security": [{"bearer": []}, {"basic": []}],
            "paths": dict(sorted(paths.items())),
            "components": {"schemas": schemas, "securitySchemes": _SCHEMES, "headers": _NODE_HEADERS | {"Retry-After": _RETRY_AFTER}},
        },
        ensure_ascii=False,
    ).encode()


_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "one of ASTROMESH_API_KEYS; a node without keys needs none"},
    "basic": {"type": "http", "scheme": "basic", "description": "the same key as the password, with any user name"},
}


def _parts() -> Iterator[Part]:
    yield Part("node", json.loads((_APP / "system" / "schema.json").read_bytes()))
    for service in SERVICES:
        file = _APP / "services" / service / "schema.json"
        if file.exists():
            yield Part(service, json.loads(file.read_bytes()))


def _operation(part: Part, method: str, path: str, content: Mapping[str, Any]) -> Json:
    operation: Json = {
        "operationId": re.sub(r"[^a-z0-9]+", "_", f"{method}{path}".lower()).strip("_"),
        "tags": [part.name],
        **{key: content[key] for key in ("summary", "description") if key in content},
        "responses": _responses(part, content),
    }
    if parameters := _parameters(part, path, content):
        operation["parameters"] = parameters
    if "body" in content:
        names = content["body"] if isinstance(content["body"], list) else [content["body"]]
        schema = part.reference(names[0]) if len(names) == 1 else {"anyOf": [part.reference(name) for name in names]}
        kind = {"schema": schema, **({"examples": _examples(content["examples"])} if "examples" in content else {})}
        form = {"multipart/form-data": {"schema": part.reference(content["form"])}} if "form" in content else {}
        operation["requestBody"] = {"required": True, "content": {"application/json": kind, **form}}
    if content.get("public"):
        operation["security"] = []
    return operation


def _examples(given: Mapping[str, Any]) -> Json:
    """Bodies by what they show."""
    return {name: {"value": value} for name, value in given.items()}


def _parameters(part: Part, path: str, content: Mapping[str, Any]) -> list[Json]:
    known = part.content.get("parameters", {})
    named = [("path", name) for name in re.findall(r"{(\w+)}", path)]
    named += [(place, name) for place, key in (("query", "query"), ("header", "headers")) for name in content.get(key, ())]
    return [{"name": name, "in": place, "required": place == "path", "schema": known[name]} for place, name in named]


def _responses(part: Part, content: Mapping[str, Any]) -> Json:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in _NODE_HEADERS}
    responses: Json = {}
    kinds: Json
    for status, name in content.get("answers", {}).items():
        kinds = {"application/json": {"schema": part.reference(name)}}
        if content.get("events"):
            kinds["text/event-stream"] = {"schema": _EVENT}
        responses[status] = {"description": HTTPStatus(int(status)).phrase, "headers": headers, "content": kinds}
    if "text" in content:
        kinds = {kind: {"schema": {"type": "string"}} for kind in content["text"]}
        responses["200"] = {"description": "OK", "headers": headers, "content": kinds}
    for error in _errors(part, content):
        retry = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}} if error in (429, 503) else {}
        schema: Json = {"$ref": "#/components/schemas/Error"}
        if other := content.get("answers", {}).get(str(error)):
            schema = {"anyOf": [part.reference(other), schema]}
        responses[str(error)] = {
            "description": HTTPStatus(error).phrase,
            "headers": headers | retry,
            "content": {"application/json": {"schema": schema}},
        }
    return responses


def _errors(part: Part, content: Mapping[str, Any]) -> list[int]:
    """The statuses of errors that an operation may be answered."""
    found = {*_EVERYWHERE, *content.get("errors", ())}
    found |= set(_WITH_BODY) if "body" in content and not content.get("unchecked") else set()
    found |= set(_FORWARDED) if part.name in SERVICES and SERVICES[part.name].forwarded else set()
    found -= {401} - set(content.get("errors", ())) if content.get("public") else set()
    return sorted(found)
