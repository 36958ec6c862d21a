"""A node, over HTTP/1.1: JSON both ways, and streams of events. Whatever goes wrong is a Failure with its remedy."""

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead, RemoteDisconnected
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

import click

from app import __version__
from app.cli.failure import Failure, Refused

CONNECT_S = 5.0
ANSWER_S = 60.0
RUN_S = 660.0
"""An answer that is not streamed may take as long as a request may: the node's own deadline (600 s) is to come first."""
MAX_LINE = 32 * 1024 * 1024
_OLDER = frozenset({"not_found", "method_not_allowed"})


@dataclass(frozen=True, slots=True)
class Content:
    """The body of a request."""

    data: bytes
    type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """A JSON object that a node answered, and the names of the nodes whose part is missing in it."""

    body: Mapping[str, Any]
    missing: str = ""

    def rows(self, name: str) -> list[Mapping[str, Any]]:
        """The list of objects under a name. Raises Failure for another shape."""
        rows = self.body.get(name)
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise Failure(f"The answer has no list `{name}`, so it is not of an Astromesh node; check the URL.")
        return rows

    def part(self, name: str) -> Mapping[str, Any]:
        """The object under a name; empty where there is none."""
        part = self.body.get(name)
        return part if isinstance(part, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event: its kind, and its data."""

    kind: str
    data: Mapping[str, Any]


class Node:
    """``url`` is the node's base URL; ``key`` an API key, "" for none. Nothing is sent before the first question."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url.rstrip("/")
        self._parts = _checked(self.url)
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise click.UsageError("The API key has a space or a character beyond ASCII in it, which no request can carry.")
        self._key = key

    def get(self, path: str, **query: Any) -> Reply:
        given = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", path + (f"?{urlencode(given)}" if given else ""), None, ANSWER_S)

    def post(self, path: str, body: Any, within_s: float = ANSWER_S) -> Reply:
        return self.send("POST", path, Content(json.dumps(body).encode()), within_s)

    def send(self, method: str, path: str, content: Content | None = None, within_s: float = ANSWER_S) -> Reply:
        """Any other request that JSON answers."""
        return self._ask(method, path, content, within_s)

    @contextmanager
    def events(self, path: str, body: Any) -> Iterator[Iterator[Event]]:
        """The events of an answer as they come. Leaving the block closes the connection, which cancels what is left."""
        content = Content(json.dumps(body).encode())
        with self._answer("POST", path, content, "text/event-stream", ANSWER_S) as response:
            if response.getheader("Content-Type", "").partition(";")[0].strip() != "text/event-stream":
                self._object(response, "POST", path)  # an error in the one shape, or something that is none
                raise Failure(f"{self.url} answers POST {path} without a stream of events; it may be older than this command.")
            yield self._events(response)

    def _ask(self, method: str, path: str, content: Content | None, within_s: float) -> Reply:
        with self._answer(method, path, content, "application/json", within_s) as response:
            return Reply(self._object(response, method, path), response.getheader("X-Astromesh-Partial", ""))

    @contextmanager
    def _answer(self, method: str, path: str, content: Content | None, accept: str, within_s: float) -> Iterator[HTTPResponse]:
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=CONNECT_S)
        try:
            with self._telling():
                try:
                    connection.connect()
                except TimeoutError:
                    raise OSError(f"no connection within {CONNECT_S:g} s") from None
                connection.sock.settimeout(within_s)
                with suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it was sent; the answer says why
                    connection.request(method, self._parts.path + path, content.data if content else None, self._headers(accept, content))
                response = connection.getresponse()
            with response:  # it holds the socket open, too
                yield response
        finally:
            connection.close()

    def _headers(self, accept: str, content: Content | None) -> dict[str, str]:
        headers = {"Accept": accept, "User-Agent": f"astromeshctl/{__version__}"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return headers | ({"Content-Type": content.type} if content else {})

    def _object(self, response: HTTPResponse, method: str, path: str) -> Mapping[str, Any]:
        """The JSON object of an answer. Raises Failure for an error answer, and for what no node says."""
        with self._telling():
            data = response.read()
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            body = None
        if isinstance(body, Mapping) and response.status < 300:
            return body
        if location := response.getheader("Location"):
            raise Failure(f"{self.url} answers {response.status} and sends on to {location}; give that address as --url.")
        error = body.get("error") if isinstance(body, Mapping) else None
        if not isinstance(error, Mapping) or not isinstance(error.get("message"), str):
            told = f"{response.status} {response.reason}".strip()
            kind = response.getheader("Content-Type", "no content type")
            raise Failure(f"{self.url} answers {method} {path} with {told} ({kind}), and not as an Astromesh node does; check the URL.")
        raise self._refused(response.status, error)

    def _refused(self, status: int, error: Mapping[str, Any]) -> Refused:
        told = f"{self.url} answers {status}: {error['message']}"
        if status == 401:
            told += " Here: ASTROMESH_API_KEY, ASTROMESH_API_KEY_FILE or --api-key."
        elif error.get("code") in _OLDER:
            told += f" Either that part of the node is off, or it is of another version than this command ({__version__})."
        return Refused(told, status, str(error.get("code")))

    def _events(self, response: HTTPResponse) -> Iterator[Event]:
        kind, data = "", list[str]()
        while line := self._line(response):
            name, _, value = line.rstrip("\r\n").partition(":")
            if name == "data":
                data.append(value.removeprefix(" "))
            elif name == "event":
                kind = value.strip()
            elif not line.strip():
                if data:
                    yield Event(kind, self._parsed("\n".join(data)))
                kind, data = "", []

    def _line(self, response: HTTPResponse) -> str:
        with self._telling():
            return response.readline(MAX_LINE).decode("utf-8", "replace")

    def _parsed(self, text: str) -> Mapping[str, Any]:
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, Mapping):
            raise Failure(f"{self.url} sends events that are not JSON objects; check the URL.")
        return parsed

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """What goes wrong with the connection, as a Failure."""
        try:
            yield
        except (OSError, HTTPException) as error:
            raise Failure(self._told(error)) from error

    def _told(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLError):
            return f"{self.url} does not speak TLS as it should ({error.reason or error}); is it http:// there?"
        if isinstance(error, RemoteDisconnected | IncompleteRead):
            return f"{self.url} closed the connection before its answer was whole; look into the node's log, and ask again."
        if isinstance(error, HTTPException):
            return f"{self.url} does not speak HTTP ({type(error).__name__}); check the port, and whether it is https:// there."
        if isinstance(error, TimeoutError):
            return f"{self.url} was silent for too long; `astromeshctl doctor --url {self.url}` may tell why."
        reason = getattr(error, "strerror", None) or str(error)
        remedy = "Start a node there (docker compose up, or make run), or name another by --url or ASTROMESH_URL."
        return f"{self.url} cannot be reached: {reason}. {remedy}"


def _checked(url: str) -> SplitResult:
    """The parts of a node's URL. Raises UsageError."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not (url.isascii() and url.isprintable()) or " " in url or parts.query or parts.fragment:
        raise click.UsageError(f"{url!r} is not a node's URL; write one like http://127.0.0.1:8000.")
    if parts.username is not None or parts.password is not None:
        raise click.UsageError("The URL has credentials in it; give the key by ASTROMESH_API_KEY or --api-key.")
    return parts
