"""``read_file``: a text file, or the names in a folder, below one of the folders that the operator named (``spec.tools.read_file.roots``).

Every step of a path is opened below the one before, and no link is followed: nothing that is changed meanwhile leads out of the root.
"""

import asyncio
import errno
import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

from app.services.tools.tool import ToolError

_MAX_ENTRIES = 1_000
_STEP = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not wait for somebody who writes


@dataclass(frozen=True, slots=True)
class ReadFile:
    """``roots``: names that the model sees, and the folders they stand for."""

    roots: Mapping[str, str] = field(default_factory=dict)
    max_bytes: int = 128 * 1024
    name: ClassVar[str] = "read_file"
    description: ClassVar[str] = 'Read a text file, or list a folder. Paths begin with the name of a root; the path "" lists the roots.'
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["path"],
        "properties": {
            "path": {"type": "string", "maxLength": 4096, "description": "<root>/<folder>/<file>"},
            "offset": {"type": "integer", "minimum": 0, "default": 0, "description": "Bytes to pass over, to read on in a large file."},
        },
    }

    @property
    def unavailable(self) -> str:
        return "" if self.roots else "no folder is named; name some in spec.tools.read_file.roots"

    async def run(self, arguments: Mapping[str, Any]) -> Any:
        return await asyncio.to_thread(self._read, arguments["path"], arguments.get("offset", 0))

    def _read(self, path: str, offset: int) -> Any:
        steps = [step for step in path.split("/") if step not in ("", ".")]
        if not steps:
            return {"path": "", "entries": [{"name": name, "type": "folder"} for name in sorted(self.roots)]}
        if steps[0] not in self.roots:
            raise ToolError(f"There is no root {steps[0][:80]!r}; there is {', '.join(sorted(self.roots))}.")
        if ".." in steps or "\0" in path:
            raise ToolError(f"The path {path[:200]!r} leads upwards; write it from its root on.")
        with ExitStack() as stack:
            try:
                opened = self._open(stack, steps)
                kind = os.fstat(opened).st_mode
                if stat.S_ISDIR(kind):
                    return {"path": "/".join(steps), "entries": _entries(opened)}
                if stat.S_ISREG(kind):
                    return self._text(opened, "/".join(steps), offset)
            except OSError as error:
                raise ToolError(f"{path[:200]!r} cannot be read: {_reason(error)}.") from None
        raise ToolError(f"{path[:200]!r} is neither a file nor a folder.")

    def _open(self, stack: ExitStack, steps: list[str]) -> int:
        folder = os.open(self.roots[steps[0]], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, folder)
        for number, step in enumerate(steps[1:], start=2):
            folder = os.open(step, _STEP | (os.O_DIRECTORY if number < len(steps) else 0), dir_fd=folder)
            stack.callback(os.close, folder)
        return folder

    def _text(self, opened: int, path: str, offset: int) -> dict[str, Any]:
        size = os.fstat(opened).st_size
        raw = os.pread(opened, self.max_bytes, offset)
        if b"\0" in raw:
            raise ToolError(f"{path!r} is no text file.")
        rest = {"next_offset": offset + len(raw)} if offset + len(raw) < size else {}
        return {"path": path, "size": size, "text": raw.decode("utf-8", "replace")} | rest


def _entries(folder: int) -> list[dict[str, Any]]:
    found = list[dict[str, Any]]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if len(found) == _MAX_ENTRIES:
                break
            kind = "link" if entry.is_symlink() else "folder" if entry.is_dir() else "file"
            size = {"size": entry.stat(follow_symlinks=False).st_size} if kind == "file" else {}
            found.append({"name": entry.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), "type": kind} | size)
    return sorted(found, key=lambda row: str(row["name"]))


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "it is a link, and links are not followed"
    if error.errno == errno.ENOTDIR:
        return "a part of it is a file or a link where a folder is wanted"
    return (error.strerror or str(error)).lower()
