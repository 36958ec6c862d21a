"""Many processes of one kind, followed by the lines that they write: what each of them knows of the others, and since when. Nobody is
asked anything meanwhile, so that watching costs the watched next to nothing."""

import asyncio
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.mesh.kinds import Kind, What, name_of
from bench.process import ROOT, clean_environ, cpu_s

START_S = 60.0


@dataclass(slots=True)
class Heard:
    """What one member said of another one last, and when (monotonic seconds)."""

    what: What
    at: float


@dataclass(slots=True)
class Member:
    number: int
    process: Process
    started_at: float
    listens_at: float = 0.0
    url: str = ""
    knows: dict[str, Heard] = field(default_factory=dict)
    said: Counter[What] = field(default_factory=Counter)
    avoided_at: dict[str, float] = field(default_factory=dict)
    tail: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return name_of(self.number)


class Fleet:
    """``members`` are those that were not killed. All times are of time.monotonic()."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self._kind, self._folder = kind, folder
        self.members: list[Member] = []
        self._readers: list[asyncio.Task[None]] = []
        self._grown = asyncio.Event()

    async def start(self, count: int) -> None:
        """Start the first one, and when that listens all the others at once. Returns when all of them listen."""
        seed = await self._launch(0, "")
        await self.until(lambda: bool(seed.listens_at), START_S)
        address = seed.url if seed.url.startswith("http") else "127.0.0.1:7000"
        for number in range(1, count):
            await self._launch(number, address)
        await self.until(lambda: all(member.listens_at for member in self.members), START_S)

    async def end(self) -> None:
        for member in self.members:
            if member.process.returncode is None:
                member.process.send_signal(signal.SIGKILL)
                await member.process.wait()
        await asyncio.gather(*self._readers)

    async def until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Wait until a condition on what was heard is true; False when the time is over."""
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            return False
        return True

    def complete_at(self) -> float | None:
        """When the last member came to know the last of the others; None while one is missing somewhere."""
        everybody = {member.name for member in self.members}
        latest = 0.0
        for member in self.members:
            known = {name: heard.at for name, heard in member.knows.items() if heard.what == "up"}
            if not known.keys() >= everybody - {member.name}:
                return None
            latest = max(latest, *(at for name, at in known.items() if name in everybody))
        return latest

    def out_at(self, name: str) -> list[float] | None:
        """When each of the others took this one out of use; None while one has not."""
        heard = [member.knows[name] for member in self.members if member.name != name]
        return [each.at for each in heard] if all(each.what in self._kind.out for each in heard) else None

    def back_at(self, name: str) -> float | None:
        """When the last of the others took this one in again."""
        heard = [member.knows[name] for member in self.members if member.name != name]
        return max(each.at for each in heard) if all(each.what == "up" for each in heard) else None

    def cpu_s(self) -> float:
        return sum(cpu_s(member.process.pid) for member in self.members)

    def said(self) -> Mapping[What, int]:
        """How often anything was said by any of them."""
        return sum((member.said for member in self.members), Counter())

    async def kill(self, member: Member) -> float:
        """End one for good; when that was."""
        self.members.remove(member)
        at = time.monotonic()
        member.process.send_signal(signal.SIGKILL)
        await member.process.wait()
        return at

    async def _launch(self, number: int, seed: str) -> Member:
        command, environ = self._kind.command(number, seed, self._folder)
        at = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=clean_environ(environ), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
        )
        member = Member(number, process, at)
        self.members.append(member)
        self._readers.append(asyncio.create_task(self._follow(member)))
        return member

    async def _follow(self, member: Member) -> None:
        assert member.process.stdout is not None
        while line := await member.process.stdout.readline():
            text = line.decode("utf-8", "replace").rstrip()
            member.tail = [*member.tail[-20:], text]
            if found := self._kind.read(text):
                self._take(member, *found, time.monotonic())
                self._grown.set()
        if member in self.members and await member.process.wait() > 0:
            raise RuntimeError(f"{member.name} of {self._kind.name} ended with {member.process.returncode}:\n" + "\n".join(member.tail))

    def _take(self, member: Member, what: What, whom: str, at: float) -> None:
        member.said[what] += 1
        if what == "listens":
            member.listens_at, member.url = member.listens_at or at, whom
        elif what == "avoided":
            member.avoided_at[whom] = at
        elif whom != member.name and (what == "up" or what in self._kind.out):
            before = member.knows.get(whom)
            if before is None or (before.what == "up") != (what == "up"):
                member.knows[whom] = Heard(what, at)
            else:
                before.what = what  # first suspect, then dead: it has been out since it was suspect


def lo_bytes() -> int:
    """Bytes sent so far over the loopback interface of this namespace, with all headers. What goes out there comes in there, so the two
    counters are equal, and either of them has every byte once."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "lo":
            return int(rest.split()[8])
    raise RuntimeError("this network namespace has no loopback interface")
