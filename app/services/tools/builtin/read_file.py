"""``read_file``: a text file, or the names in a folder, below one of the folders that the operator named (``spec.tools.read_file.roots``).

Every step of a path is opened below the one before, and no link is followed: nothing that is changed meanwhile leads out of the root.
"""

import asyncio
import errno
import itertools
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
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["path"],
        "properties": {
            "path": {"type": "string", "maxLength": 4096, "description": "<root>/<folder>/<file>"},
            "offset": {
                "type": "integer",
                "minimum": 0,
                "maximum": 2**53,
                "default": 0,
                "description": "Bytes to pass over, to read on in a large file.",
            },
        },
    }

    @property
    def description(self) -> str:
        return f"Read a text file, or list a folder. A path begins with the name of a root: {', '.join(sorted(self.roots)[:20]) or 'none'}."

    @property
    def unavailable(self) -> str:
        return "" if self.roots else "no folder is named; name some in spec.tools.read_file.roots"

    def trouble(self) -> str:
        """What an operator should know: the roots that cannot be opened. Blocks."""
        return "; ".join(f"{name} ({path}): {reason}" for name, path in sorted(self.roots.items()) if (reason := _closed(path)))

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
                    return {"path": "/".join(steps)} | _listing(opened)
                if stat.S_ISREG(kind):
                    return self._text(opened, "/".join(steps), offset)
            except OSError as error:
                raise ToolError(f"{path[:200]!r} cannot be read: {_reason(error)}.") from None
            except UnicodeError:
                raise ToolError(f"{path[:200]!r} cannot be read: no file has such a name.") from None
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
        if offset + len(raw) < size:
            raw = raw[: _whole(raw)]
        rest = {"next_offset": offset + len(raw)} if offset + len(raw) < size else {}
        return {"path": path, "size": size, "text": raw.decode("utf-8", "replace")} | rest


def _whole(raw: bytes) -> int:
    """The length without the beginning of a UTF-8 character whose end is not there."""
    for back in range(1, min(4, len(raw))):
        byte = raw[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(raw) - back if length > back else len(raw)
    return len(raw)


def _listing(folder: int) -> dict[str, Any]:
    """What is in a folder; of one with very much the beginning, which it says."""
    with os.scandir(folder) as entries:
        found = list(itertools.islice(entries, _MAX_ENTRIES + 1))
        rows = [row for entry in found[:_MAX_ENTRIES] if (row := _entry(entry))]
    more = {"truncated": True} if len(found) > _MAX_ENTRIES else {}
    return {"entries": sorted(rows, key=lambda row: str(row["name"]))} | more


def _entry(entry: os.DirEntry[str]) -> dict[str, Any]:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return {}  # it was taken away meanwhile
    kinds = {stat.S_IFLNK: "link", stat.S_IFDIR: "folder", stat.S_IFREG: "file"}
    row = {"name": os.fsencode(entry.name).decode("utf-8", "replace"), "type": kinds.get(stat.S_IFMT(found.st_mode), "special")}
    return row | ({"size": found.st_size} if row["type"] == "file" else {})


def _closed(folder: str) -> str:
    """Why a folder cannot be listed, "" when it can."""
    try:
        with os.scandir(folder):
            return ""
    except OSError as error:
        return _reason(error)


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "it is a link, and links are not followed"
    if error.errno == errno.ENOTDIR:
        return "a part of it is a file or a link where a folder is wanted"
    return (error.strerror or str(error)).lower()
