"""From a file to its text. HTML and PDF, which have to be parsed, are read by a child process with limits of its own."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePath
from typing import Any

from app.errors import UnreadableDocument, UnsupportedMediaType
from app.services.rag.plain import markdown, plain

_BY_TYPE = {
    "text/plain": "plain",
    "text/markdown": "markdown",
    "text/x-markdown": "markdown",
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/pdf": "pdf",
}
_BY_SUFFIX = {
    **dict.fromkeys((".txt", ".text", ".log", ".rst"), "plain"),
    **dict.fromkeys((".md", ".markdown"), "markdown"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".pdf": "pdf",
}
SUFFIXES = tuple(_BY_SUFFIX)
_SAYS_LITTLE = frozenset(("", "text/plain", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded"))
_TAKEN = "text (.txt, .text, .log, .rst), Markdown (.md, .markdown), HTML (.html, .htm, .xhtml) and PDF (.pdf)"
_IN_PROCESS: Mapping[str, Callable[[bytes, str | None], tuple[str, Mapping[str, Any]]]] = {"plain": plain, "markdown": markdown}
_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the reading of one file may take: memory and processor time of the child, seconds in all, characters of the text."""

    memory_bytes: int = 768 << 20
    cpu_s: int = 60
    wall_s: float = 120.0
    text_chars: int = 20_000_000


@dataclass(frozen=True, slots=True)
class Reading:
    """The text of a file, and what the file says of itself: ``title``, ``author``, ``pages``, its front matter, its ``encoding`` where that
    is not UTF-8. A JSON object."""

    text: str
    metadata: Mapping[str, Any]


class Reader:
    """Reads files, no more than ``at_once`` of them in children at a time."""

    def __init__(self, bounds: Bounds | None = None, at_once: int = 2) -> None:
        self._bounds = bounds or Bounds()
        self._children = asyncio.Semaphore(at_once)

    async def read(self, data: bytes, *, filename: str = "", content_type: str = "") -> Reading:
        """The text of a file, by its content type, else by its name. Raises UnsupportedMediaType and UnreadableDocument, which name it."""
        kind = kind_of(data, filename, content_type)
        charset = _charset(content_type)
        try:
            if kind in _IN_PROCESS:
                text, metadata = await asyncio.to_thread(_IN_PROCESS[kind], data, charset)
                return Reading(text, metadata)
            async with self._children:
                return await self._by_child({"kind": kind, "charset": charset}, data)
        except UnreadableDocument as error:
            raise UnreadableDocument(f"{_called(filename)} {error.message}.") from None

    async def _by_child(self, asked: Mapping[str, Any], data: bytes) -> Reading:
        bounds = self._bounds
        limits = {"memory_bytes": bounds.memory_bytes, "cpu_s": bounds.cpu_s, "text_chars": bounds.text_chars}
        # Without the node's environment, which has its keys.
        command = (sys.executable, "-s", "-B", "-m", "app.reading")
        child = await asyncio.create_subprocess_exec(*command, cwd=_ROOT, env={}, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
        try:
            async with asyncio.timeout(bounds.wall_s):
                out, _ = await child.communicate(json.dumps({**asked, **limits}).encode() + b"\n" + data)
        except TimeoutError:
            raise UnreadableDocument(f"took longer than {bounds.wall_s:g} s to be read; split it, or convert it to plain text") from None
        finally:
            await _end(child)
        return _reading(out, child.returncode, bounds)


def kind_of(data: bytes, filename: str, content_type: str) -> str:
    """plain, markdown, html or pdf. Raises UnsupportedMediaType, which names what is taken."""
    named = content_type.partition(";")[0].strip().lower()
    if data.startswith(b"%PDF-"):
        return "pdf"
    by_name = _BY_SUFFIX.get(PurePath(filename).suffix.lower()) if named in _SAYS_LITTLE else None
    if kind := by_name or _BY_TYPE.get(named):
        return kind
    said = f"is of the type {named!r}" if named not in _SAYS_LITTLE else "is of no type that its name or its sender told"
    raise UnsupportedMediaType(f"{_called(filename)} {said}, which no text can be had from; taken are {_TAKEN}.")


def _called(filename: str) -> str:
    return f"The file {filename[:200]!r}" if filename else "The file"


def _charset(content_type: str) -> str | None:
    header = Message()
    header["Content-Type"] = content_type.replace("\r", " ").replace("\n", " ")
    return header.get_content_charset()


async def _end(child: Process) -> None:
    if child.returncode is None:
        child.kill()
        await child.wait()


def _reading(out: bytes, returncode: int | None, bounds: Bounds) -> Reading:
    if returncode == -signal.SIGXCPU:
        raise UnreadableDocument(f"took more than {bounds.cpu_s} s of processor time to be read; split it, or convert it to plain text")
    if returncode != 0:
        raise UnreadableDocument(f"ended the program that read it (exit {returncode}); save it anew, or convert it to plain text")
    answer = json.loads(out)
    if "error" in answer:
        raise UnreadableDocument(answer["error"])
    return Reading(answer["text"], answer["metadata"])
