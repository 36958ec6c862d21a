"""``http_request``: ask a web server that the operator allowed (``spec.tools.http_request.allow``)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from app.services.tools.tool import ToolError

_HEADERS_SHOWN = ("content-type", "content-length", "last-modified", "etag", "location", "retry-after", "date", "link")
_REMEDY = "Who operates the node may add it to spec.tools.http_request.allow."
_NETWORK_REMEDY = "Who operates the node may add its network to spec.tools.http_request.allow_networks."


@dataclass(frozen=True, slots=True)
class HttpRequestSettings:
    """``allow``: hosts like example.org, *.example.org, intranet:8080; ``allow_networks``: networks that are not public and may be reached,
    like 10.0.0.0/8. Sizes in bytes, times in seconds."""

    allow: tuple[str, ...] = ()
    allow_networks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    timeout_s: float = 20.0
    max_bytes: int = 128 * 1024
    max_redirects: int = 5


@dataclass(frozen=True, slots=True)
class HttpRequest:
    settings: HttpRequestSettings = field(default_factory=HttpRequestSettings)
    name: ClassVar[str] = "http_request"
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["url"],
        "properties": {
            "url": {"type": "string", "minLength": 1, "maxLength": 4096, "description": "An http or https URL."},
            "method": {"type": "string", "enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], "default": "GET"},
            "headers": {"type": "object", "maxProperties": 50, "additionalProperties": {"type": "string", "maxLength": 8192}},
            "json": {"description": "A value to send as JSON."},
            "body": {"type": "string", "maxLength": 262144, "description": "A text to send as it is."},
        },
    }

    @property
    def description(self) -> str:
        return f"Ask a web server over HTTP and read its answer. Allowed hosts: {_some(self.settings.allow)}."

    @property
    def unavailable(self) -> str:
        return "" if self.settings.allow else "no host is allowed; list hosts in spec.tools.http_request.allow"

    async def run(self, arguments: Mapping[str, Any]) -> Any:
        from app.outbound import Destinations, OutboundError, Request, ask, parse_network  # a worker that asks nobody needs no client

        method = arguments.get("method", "GET")
        if method not in self.settings.methods:
            allowed = ", ".join(self.settings.methods)
            raise ToolError(f"The method {method} is not allowed; use {allowed} (spec.tools.http_request.methods).")
        headers, body = _body(arguments)
        networks = tuple(parse_network(text) for text in self.settings.allow_networks)
        limits = (self.settings.timeout_s, self.settings.max_bytes, self.settings.max_redirects)
        try:
            answer = await ask(
                Request(method, arguments["url"], headers, body, *limits),
                Destinations(self.settings.allow, networks, _REMEDY, _NETWORK_REMEDY),
            )
        except OutboundError as error:
            raise ToolError(str(error)) from None
        shown = {name.lower(): value for name, value in answer.headers.items() if name.lower() in _HEADERS_SHOWN}
        result = {"status": answer.status, "url": answer.url, "headers": shown, "body": answer.text()}
        return result | ({"truncated": True} if answer.truncated else {})


def _body(arguments: Mapping[str, Any]) -> tuple[dict[str, str], bytes | None]:
    """The headers and the body to send."""
    headers: dict[str, str] = dict(arguments.get("headers", {}))
    if "json" in arguments and "body" in arguments:
        raise ToolError("Both json and body are given; send one of them.")
    if "json" in arguments:
        if not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "application/json"
        return headers, json.dumps(arguments["json"]).encode()
    return headers, arguments["body"].encode("utf-8", "backslashreplace") if "body" in arguments else None


def _some(allowed: Sequence[str]) -> str:
    """For a model's context, where a hundred hosts are too many."""
    return ", ".join(allowed[:20]) + (", and others" if len(allowed) > 20 else "") if allowed else "none"


def settings_of(section: Mapping[str, Any]) -> HttpRequestSettings:
    """From ``spec.tools.http_request``, which the schema has checked."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in section.items()}
    return HttpRequestSettings(**values)
