"""Real processes that share a store with a test: one that ingests until it is killed, one that holds a job and dies."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.services.rag.stores import Place

_ROOT = Path(__file__).parents[3]

_FRAME = """
import asyncio
from app.services.rag.knowledge import Chunk, Collection, Cut, Document, Job, Name
{source}
OF = Name("handbook")

async def main():
    async with store.open():
{body}

asyncio.run(main())
"""

PUT_FOR_EVER = """
number = 0
while True:
    chunks = [Chunk(f"piece {place} of {number}") for place in range(5)]
    await store.put(OF, [Cut(Document(f"{number}-{part}", "whole", {"n": number}), chunks) for part in "abc"], None)
    print(number, flush=True)
    number += 1
"""

ADD_JOBS_FOR_EVER = """
number = 0
while True:
    await store.add_job(Job(f"j{number}", OF, "running", 3, created_at=float(number)), [Document(f"{number}{part}", "") for part in "abc"])
    print(number, flush=True)
    number += 1
"""

WORK_FOR_EVER = """
while lease := await store.claim(1.5):
    while taken := await store.take(lease, 1):
        await store.put(OF, [Cut(each, [Chunk(each.text)]) for each in taken], None, lease)
        print(taken[0].id, flush=True)
"""


@asynccontextmanager
async def process(place: Place, body: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process with a store of its own, killed at the end."""
    script = _FRAME.format(source=place.source, body="\n".join("        " + line for line in body.splitlines()))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])}
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", script, env=environ, stdout=asyncio.subprocess.PIPE)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def line(child: asyncio.subprocess.Process) -> str:
    assert child.stdout
    return (await child.stdout.readline()).decode().strip()


async def killed(child: asyncio.subprocess.Process) -> list[str]:
    """Kill it as kill -9 does; what it still had acknowledged."""
    child.kill()
    assert child.stdout
    rest = (await child.stdout.read()).decode()
    await child.wait()
    return [each for each in rest.splitlines(keepends=True) if each.endswith("\n")]
