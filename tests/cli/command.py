"""astromeshctl as a person runs it: as a process, and at a terminal of its own."""

import asyncio
import json
import os
import pty
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tests.nodes import ROOT

COMMAND = str(ROOT / "app" / "cli" / "astromeshctl")
PATIENCE_S = 20.0
_FROM_OUTSIDE = ("ASTROMESH_", "OPENAI_", "OLLAMA_", "VLLM_", "TGI_", "_ASTROMESHCTL")


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(environ: dict[str, str]) -> dict[str, str]:
    """That of the tests without what steers nodes and the command, and ``environ``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FROM_OUTSIDE)}
    return {**inherited, **environ}


async def ctl(*arguments: str, stdin: str = "", **environ: str) -> Done:
    """Run the command to its end, without a terminal. Whatever it is asked, a person sees no traceback."""
    process = await _started(arguments, environ, PIPE)
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), PATIENCE_S)
    done = Done(process.returncode or 0, out.decode(), err.decode())
    assert "Traceback" not in done.err, done.err
    return done


async def asked(url: str, *arguments: str, **environ: str) -> Done:
    """Run a command that asks the node at ``url``, and that is to succeed; no line of its answer is wider than 80 columns."""
    done = await ctl(*arguments, ASTROMESH_URL=url, **environ)
    assert done.code == 0, done
    if "--json" not in arguments:
        assert not [line for line in done.out.splitlines() if len(line) > 80], done.out
    return done


async def _started(arguments: tuple[str, ...], environ: dict[str, str], stream: int) -> Process:
    return await asyncio.create_subprocess_exec(
        COMMAND, *arguments, cwd=ROOT, env=environment(environ), stdin=stream, stdout=stream, stderr=stream, start_new_session=True
    )


class Terminal:
    """A command at a terminal: what it shows, and a person at the keys."""

    def __init__(self, process: Process, keys: int) -> None:
        self._process, self._keys = process, keys
        self.shown = ""
        self._grown = asyncio.Event()

    async def until(self, text: str) -> None:
        """Until ``text`` is shown; what came before it, and it, is forgotten then."""
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.shown:
                self._grown.clear()
                try:
                    await self._grown.wait()
                except TimeoutError:
                    raise AssertionError(f"no {text!r} in {self.shown!r}") from None
        self.shown = self.shown.split(text, 1)[1]

    def type(self, text: str) -> None:
        os.write(self._keys, text.encode())

    def interrupt(self) -> None:
        """What Ctrl-C does at a terminal."""
        os.killpg(self._process.pid, signal.SIGINT)

    async def interrupted(self) -> int:
        """The code of a command that ends by Ctrl-C, pressed again where it came just before the command began to read the keys."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self.interrupt()
                with suppress(TimeoutError):
                    return await asyncio.wait_for(asyncio.shield(self._process.wait()), 1)

    async def code(self) -> int:
        return await asyncio.wait_for(self._process.wait(), PATIENCE_S)

    def read(self) -> None:
        try:
            self.shown += os.read(self._keys, 65536).decode("utf-8", "replace").replace("\r\n", "\n")
        except OSError:  # the command has ended, and its terminal with it
            asyncio.get_running_loop().remove_reader(self._keys)
        self._grown.set()


@asynccontextmanager
async def at_terminal(*arguments: str, **environ: str) -> AsyncIterator[Terminal]:
    """Run the command at a pseudo-terminal until the block ends."""
    keys, screen = pty.openpty()
    loop = asyncio.get_running_loop()
    try:
        process = await _started(arguments, {"TERM": "dumb", **environ}, screen)
        os.close(screen)
        terminal = Terminal(process, keys)
        loop.add_reader(keys, terminal.read)
        try:
            yield terminal
        finally:
            loop.remove_reader(keys)
            if process.returncode is None:
                process.kill()
            await process.wait()
    finally:
        os.close(keys)
