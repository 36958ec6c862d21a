"""Files on their way into a collection: found below paths, sent one by one, and their jobs followed until the last has ended."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import quote

import click

from app.cli.failure import Failure, Refused
from app.cli.node import Content, Node

SUFFIXES = (".txt", ".md", ".html", ".htm", ".pdf")
"""What is taken of a folder. A file that is named itself is sent whatever it is called."""
AT_ONCE = 8
"""Jobs that are followed at a time: enough for the node to be busy, and few enough to be cancelled."""
_SEND_S = 300.0
_POLL_S = (0.05, 0.5)
_OF_THE_FILE = frozenset({400, 413, 415, 422})
"""Answers that say something of the one file; any other would be the same for all."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file, and the id of the document that it becomes: its path below what was named, so that sending it again replaces it."""

    path: Path
    id: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file: ``error`` says why it is not in, "" where it is."""

    id: str
    chunks: int = 0
    error: str = ""


def sources(paths: Sequence[Path]) -> tuple[list[Source], list[Outcome]]:
    """The files, and what cannot be sent. Raises UsageError where there is none at all."""
    found, wrong = dict[str, Source](), list[Outcome]()
    for path in paths:
        for source in _below(path):
            if problem := _problem(source, found.get(source.id)):
                wrong.append(Outcome(source.id.encode("utf-8", "replace").decode(), error=problem))
            else:
                found.setdefault(source.id, source)
    if not found and not wrong:
        raise click.UsageError(f"There is no file to send; in folders, files that end in {', '.join(SUFFIXES)} are looked for.")
    return list(found.values()), wrong


def _below(path: Path) -> Iterator[Source]:
    if not path.is_dir():
        yield Source(path, path.name)
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if file.suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Source(file, file.relative_to(path).as_posix())


def _problem(source: Source, other: Source | None) -> str:
    """Why a file cannot be sent, "" where it can."""
    if other and other.path.resolve() != source.path.resolve():
        return f"{source.path} would replace {other.path}, which has the same path below what was named; send them to two collections"
    return "" if source.id.isprintable() else "its name is no text that could be an id; rename it"


class Ingestion:
    """Sends files to one collection of a node. ``told`` hears of each file once, when it has come to its end."""

    def __init__(self, node: Node, collection: str, fields: Mapping[str, str], told: Callable[[Outcome], None]) -> None:
        self._node, self._collection, self._told = node, collection, told
        self._fields = {**fields, "wait": "false"}
        self._running = dict[str, str]()  # the ids of jobs, and of the files that they take in
        self._pause = _POLL_S[0]
        self._interrupted = False

    def send(self, files: Sequence[Source]) -> None:
        """All of them. Raises Failure for what would be the same for every file, and KeyboardInterrupt between two requests: the job that
        one of them made is known then."""
        with self._interruptible():
            for source in files:
                while len(self._running) >= AT_ONCE:
                    self._follow()
                self._send(source)
            while self._running:
                self._follow()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C waits for the request that is under way; a second one does not."""

        def interrupted(number: int, frame: Any) -> None:
            self._interrupted = True
            signal.signal(signal.SIGINT, before)

        before = signal.signal(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def cancel(self) -> int:
        """Stop what is under way; how much that was."""
        for job in self._running:
            self._node.send("DELETE", self._path(job))
        return len(self._running)

    def _send(self, source: Source) -> None:
        self._check_interrupted()
        try:
            content = form(self._fields, source.id, source.path.read_bytes())
            body = self._node.send("POST", f"/v1/rag/ingest?collection={quote(self._collection, safe='')}", content, _SEND_S).body
        except OSError as error:
            self._told(Outcome(source.id, error=f"{source.path} cannot be read: {error.strerror or error}"))
        except Refused as error:
            if error.status not in _OF_THE_FILE:
                raise
            self._told(Outcome(source.id, error=error.message))
        else:
            job = body.get("job")
            if isinstance(job, Mapping) and not self._ended(job, source.id):
                self._running[str(job["id"])] = source.id
            elif not job:  # it waited, so it is in
                self._told(Outcome(source.id, body.get("chunks") or 0))

    def _follow(self) -> None:
        """Ask once how far the jobs are; after a while in which none has ended, less often."""
        self._check_interrupted()
        before = len(self._running)
        for job, source in list(self._running.items()):
            if self._ended(self._node.get(self._path(job)).body, source):
                del self._running[job]
        self._pause = _POLL_S[0] if len(self._running) < before else min(self._pause * 1.5, _POLL_S[1])
        if self._running:
            time.sleep(self._pause)

    def _check_interrupted(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt

    def _ended(self, job: Mapping[str, Any], source: str) -> bool:
        state = job.get("state")
        if state == "running":
            return False
        error = "" if state == "done" else str(job.get("error") or f"its job {job.get('id')} was {state}")
        self._told(Outcome(source, job.get("chunks") or 0, error))
        return True

    def _path(self, job: str) -> str:
        return f"/v1/rag/collections/{quote(self._collection, safe='')}/jobs/{quote(job, safe='')}"


def form(fields: Mapping[str, str], name: str, data: bytes) -> Content:
    """A multipart form (RFC 7578) with some fields and one file. The node tells its type by its name."""
    boundary = token_hex(16)
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items()]
    file = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{quoted}"\r\n'
    body = "".join((*parts, file, "Content-Type: application/octet-stream\r\n\r\n")).encode() + data + f"\r\n--{boundary}--\r\n".encode()
    return Content(body, f"multipart/form-data; boundary={boundary}")


def refuse_failed(outcomes: Sequence[Outcome]) -> None:
    """Raises Failure where a file is not in."""
    failed = [each for each in outcomes if each.error]
    if failed:
        raise Failure(
            f"{len(failed)} of {len(outcomes)} files {'is' if len(failed) == 1 else 'are'} not in; mend what is told above, and send again."
        )
