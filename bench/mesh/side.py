"""One side of the comparison: `python -m bench.mesh.side KIND FOLDER PLAN`, in a network namespace that is its own. The plan and the
result, which goes to stdout, are JSON."""

import asyncio
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.mesh.client import Asked, asking
from bench.mesh.fleet import Fleet, Member, lo_bytes
from bench.mesh.kinds import KINDS, name_of, rpc_address, serf_binary

ASK_EVERY_S = 0.02
ASK_RARELY_S = 0.1
NOTICE_S = 60.0
BUSY_LOOPS = 2
_METRIC = re.compile(r"^astromesh_mesh_(skipped_healthy|suspicions|suspicions_refuted|refutations)_total (\S+)$", re.M)


@dataclass(frozen=True, slots=True)
class Plan:
    """How many members, for how long they are left alone and then watched idle, which are killed and paused one after the other, and for
    how long the cores are then kept busy, by how many loops of this side."""

    members: int
    settle_s: float
    idle_s: float = 0.0
    kills: tuple[int, ...] = ()
    pauses: tuple[int, ...] = ()
    busy_s: float = 0.0
    loops: int = 0


@dataclass(frozen=True, slots=True)
class Loss:
    """Seconds until the others took a member out: the median and the last of them. For a paused one also until forwarding stopped using
    it, and after it went on until all had it back."""

    last_s: float
    median_s: float
    confirmed: bool
    forwarding_s: float | None = None
    back_s: float | None = None


@dataclass(slots=True)
class Result:
    """Seconds, percent of a core per member, bytes per member and second."""

    start_s: float = 0.0
    complete_s: float = 0.0
    listening_s: float = 0.0
    cpu_percent: float = 0.0
    bytes_per_s: float = 0.0
    kills: list[Loss] = field(default_factory=list)
    pauses: list[Loss] = field(default_factory=list)
    asked: int = 0
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)


class Side:
    """Carries out a plan. ``ours``: the members are nodes, which are also asked what the lines said."""

    def __init__(self, kind: str, fleet: Fleet, http: aiohttp.ClientSession) -> None:
        self._kind, self._ours = kind, kind in ("ours", "signed")
        self._fleet, self._http = fleet, http
        self.result = Result()

    async def run(self, plan: Plan) -> None:
        await self._come_together(plan)
        await asyncio.sleep(plan.settle_s)
        if plan.idle_s:
            await self._idle(plan.idle_s)
        if plan.kills or plan.pauses:
            async with self._asking(ASK_EVERY_S) as asked:
                for number in plan.kills:
                    self.result.kills.append(await self._kill(self._member(number)))
                for number in plan.pauses:
                    self.result.pauses.append(await self._pause(self._member(number), asked))
        if plan.busy_s:
            await self._busy(plan.busy_s, plan.loops)

    async def _come_together(self, plan: Plan) -> None:
        fleet, result = self._fleet, self.result
        await fleet.start(plan.members)
        deadline = time.monotonic() + NOTICE_S
        complete: float | None = None
        while complete is None:
            if not await fleet.until(lambda: fleet.complete_at() is not None, deadline - time.monotonic()):
                raise RuntimeError(f"the {plan.members} members of {self._kind} did not find each other within {NOTICE_S:g} s")
            complete = fleet.complete_at() if await self._all_alive() else None
        began = fleet.members[0].started_at
        result.start_s = max(member.listens_at for member in fleet.members) - began
        result.complete_s = complete - began
        result.listening_s = max(0.0, result.complete_s - result.start_s)

    async def _all_alive(self) -> bool:
        """Whether each node also shows what its lines said."""
        for member in self._fleet.members if self._ours else ():
            if [row["status"] for row in (await self._get(member, "/v1/mesh/state"))["nodes"]] != ["alive"] * len(self._fleet.members):
                return False
        return True

    async def _idle(self, seconds: float) -> None:
        members = len(self._fleet.members)
        began, cpu, sent = time.monotonic(), self._fleet.cpu_s(), lo_bytes()
        await asyncio.sleep(seconds)
        took = time.monotonic() - began
        self.result.cpu_percent = 100 * (self._fleet.cpu_s() - cpu) / took / members
        self.result.bytes_per_s = (lo_bytes() - sent) / took / members

    async def _kill(self, member: Member) -> Loss:
        return await self._loss(member.name, await self._fleet.kill(member))

    async def _pause(self, member: Member, asked: Asked) -> Loss:
        at = time.monotonic()
        member.process.send_signal(signal.SIGSTOP)
        loss = await self._loss(member.name, at)
        await asyncio.sleep(1)
        resumed = time.monotonic()
        member.process.send_signal(signal.SIGCONT)
        back = (
            self._fleet.back_at(member.name)
            if await self._fleet.until(lambda: self._fleet.back_at(member.name) is not None, NOTICE_S)
            else None
        )
        await asyncio.sleep(2)  # for the answers that were held up
        last = asked.last_long_start(at) if self._ours else None
        forwarding = None if last is None or last > resumed else last - at
        return Loss(loss.last_s, loss.median_s, loss.confirmed, forwarding, back - resumed if back else None)

    async def _loss(self, name: str, at: float) -> Loss:
        if not await self._fleet.until(lambda: self._fleet.out_at(name) is not None, NOTICE_S):
            raise RuntimeError(f"not all of {self._kind} noticed within {NOTICE_S:g} s that {name} is gone")
        took = [out - at for out in self._fleet.out_at(name) or ()]
        return Loss(max(took), statistics.median(took), await self._is_out(name))

    async def _is_out(self, name: str) -> bool:
        """Whether each of the others says the same to who asks it."""
        others = [member for member in self._fleet.members if member.name != name]
        if self._ours:
            for member in others:
                peers = (await self._get(member, "/v1/system/status"))["peers"]
                if any(peer["name"] == name and peer["state"] == "up" for peer in peers):
                    return False
        if self._kind == "serf":
            for member in others:
                command = (serf_binary() or "", "members", f"-rpc-addr={rpc_address(member.number)}", "-status=failed", f"-name={name}")
                done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False, timeout=20)
                if name not in done.stdout:
                    return False
        return True

    async def _busy(self, seconds: float, loops: int) -> None:
        before = dict(self._fleet.said())
        counted = await self._metrics()
        with _busy_loops(loops):
            async with self._asking(ASK_RARELY_S):
                await asyncio.sleep(seconds)
        said = self._fleet.said()
        self.result.busy = {what: said[what] - before.get(what, 0) for what in ("suspect", "dead")}
        self.result.busy |= {name: value - counted.get(name, 0.0) for name, value in (await self._metrics()).items()}

    async def _metrics(self) -> dict[str, float]:
        """The sum over all nodes."""
        total: dict[str, float] = {}
        for member in self._fleet.members if self._ours else ():
            async with self._http.get(f"{member.url}/metrics") as response:
                for name, value in _METRIC.findall(await response.text()):
                    total[name] = total.get(name, 0.0) + float(value)
        return total

    @asynccontextmanager
    async def _asking(self, every_s: float) -> AsyncIterator[Asked]:
        if not self._ours:
            yield Asked()
            return
        async with asking(self._fleet.members[0].url, every_s) as asked:
            yield asked
        self.result.asked += asked.count
        self.result.failures += asked.failures
        self.result.slowest_s = max(self.result.slowest_s, asked.slowest_s)

    async def _get(self, member: Member, path: str) -> Any:
        async with self._http.get(member.url + path) as response:
            return await response.json()

    def _member(self, number: int) -> Member:
        return next(member for member in self._fleet.members if member.name == name_of(number))


@contextmanager
def _busy_loops(count: int) -> Iterator[None]:
    loops = [subprocess.Popen((sys.executable, "-c", "while True: pass")) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


async def main(kind: str, folder: Path, plan: Plan) -> Result:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)))
        fleet = Fleet(KINDS[kind], folder)
        stack.push_async_callback(fleet.end)
        side = Side(kind, fleet, http)
        await side.run(plan)
        return side.result


if __name__ == "__main__":
    found = asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Plan(**json.loads(sys.argv[3]))))
    print(json.dumps(asdict(found)))
