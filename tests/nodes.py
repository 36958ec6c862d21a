"""Real nodes as processes on loopback, for tests: started on free ports, watched by their log, ended by their pid."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
START_S = 20.0


@dataclass
class RunningNode:
    """A node process: its ``url``, and ``log``, the lines it has written so far."""

    process: Process
    url: str = ""
    log: list[str] = field(default_factory=list)
    _grown: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def wait_for_log(self, text: str, timeout_s: float = START_S) -> str:
        """The first log line that holds ``text``, as soon as it is there."""
        async with asyncio.timeout(timeout_s), self._grown:
            while not (found := [line for line in self.log if text in line]):
                if self.process.returncode is not None:
                    raise AssertionError(f"the node ended with {self.process.returncode}:\n" + "\n".join(self.log))
                await self._grown.wait()
        return found[0]

    async def wait_for_more(self, text: str, count: int, timeout_s: float = START_S) -> None:
        """Until so many more log lines hold ``text`` than do now."""
        wanted = sum(text in line for line in self.log) + count
        async with asyncio.timeout(timeout_s), self._grown:
            await self._grown.wait_for(lambda: sum(text in line for line in self.log) >= wanted)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit_code(self, timeout_s: float = START_S) -> int:
        async with asyncio.timeout(timeout_s):
            return await self.process.wait()

    async def _read_log(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            async with self._grown:
                self.log.append(line.decode().rstrip())
                self._grown.notify_all()
        await self.process.wait()
        async with self._grown:
            self._grown.notify_all()


def profile(path: Path, services: list[str], *, peers: Mapping[str, tuple[str, list[str]]] | None = None, **spec: Any) -> Path:
    """Write a profile in which ``services`` are on, and ``peers`` maps a name to (url, services)."""
    names = ["agents", "inference", "memory", "tools", "channels", "rag"]
    document = {
        "apiVersion": "astromesh/v1",
        "kind": "RuntimeConfig",
        "metadata": {"name": path.stem},
        "spec": {
            "api": {"host": "127.0.0.1", "port": 0, **spec.pop("api", {})},
            "services": {"api": spec.pop("public", True), "observability": True, **{name: name in services for name in names}},
            "peers": [{"name": name, "url": url, "services": offered} for name, (url, offered) in (peers or {}).items()],
            **spec,
        },
    }
    path.write_text(yaml.safe_dump(document))
    return path


@asynccontextmanager
async def node(profile_path: Path, data_dir: Path, **environ: str) -> AsyncIterator[RunningNode]:
    """Run a node until the block ends; it is killed then if it still runs."""
    async with AsyncExitStack() as stack:
        yield await start(stack, profile_path, data_dir, **environ)


async def start(stack: AsyncExitStack, profile_path: Path, data_dir: Path, inside: Sequence[str] = (), **environ: str) -> RunningNode:
    """Start a node that ends with ``stack``, and wait until it listens. ``inside`` is put before its command."""
    running = await launch(stack, profile_path, data_dir, inside, **environ)
    line = await running.wait_for_log("listening on ")
    running.url = line.split("listening on ")[1].split()[0].rstrip('"}')
    return running


async def launch(stack: AsyncExitStack, profile_path: Path, data_dir: Path, inside: Sequence[str] = (), **environ: str) -> RunningNode:
    """Start a node without waiting for it."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ASTROMESH_", "OPENAI_", "OLLAMA_", "VLLM_", "TGI_", "OTEL_"))
    }
    settings = {"ASTROMESH_PROFILE": str(profile_path), "ASTROMESH_DATA_DIR": str(data_dir), "ASTROMESH_NODE_NAME": profile_path.stem}
    settings |= {"ASTROMESH_HOST": "127.0.0.1", "ASTROMESH_PORT": "0", "TMPDIR": str(data_dir.parent)} | environ
    process = await asyncio.create_subprocess_exec(
        *inside,
        sys.executable,
        "-m",
        "app",
        cwd=ROOT,
        env=inherited | settings,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        limit=1 << 20,
    )
    running = RunningNode(process)
    reader = asyncio.create_task(running._read_log())
    stack.push_async_callback(_end, process, reader)
    return running


async def _end(process: Process, reader: asyncio.Task[None]) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGCONT)
        process.kill()
    await process.wait()
    await reader
