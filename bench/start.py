"""From the process's start to its first 200 on /readyz, its memory when it has settled, and what it imports meanwhile."""

import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from bench import programs
from bench.process import Program, Running, running
from bench.report import Figure

ROLES = ("full", "gateway", "worker", "inference")
READY_AIM_MS, MEMORY_AIM_MB = 500, 60
SETTLE_S = 0.5
_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
_QUESTION = b'{"model": "default", "messages": [{"role": "user", "content": "What is 17*23?"}]}'


@dataclass(frozen=True, slots=True)
class Starts:
    """What several starts of one program gave."""

    ready_ms: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    pss_mb: list[float] = field(default_factory=list)


def measure(folder: Path, rounds: int) -> list[Figure]:
    """Start everything in turn, so many times; a first start of each fills the caches and does not count."""
    programs_of: dict[str, Callable[[], Program]] = {role: partial(programs.node_of_role, role, folder) for role in ROLES}
    programs_of["naive"] = partial(programs.naive, "http://127.0.0.1:1")
    found = {name: Starts() for name in programs_of}
    for number in range(rounds + 1):
        for name, make in programs_of.items():
            with running(make()) as process:
                if number:
                    _take(process, found[name])
    return [figure for role in ROLES for figure in _figures(role, found[role], found["naive"])]


def _take(process: Running, starts: Starts) -> None:
    starts.ready_ms.append(process.ready_s * 1000)
    process.request("POST", programs.PATH, _QUESTION)  # any answer will do: the code for it is loaded then
    time.sleep(SETTLE_S)
    rss, pss = process.memory_mb()
    starts.rss_mb.append(rss)
    starts.pss_mb.append(pss)


def _figures(role: str, ours: Starts, naive: Starts) -> list[Figure]:
    ready, rival_ready = statistics.median(ours.ready_ms), statistics.median(naive.ready_ms)
    rss, rival_rss = statistics.median(ours.rss_mb), statistics.median(naive.rss_mb)
    pss, rival_pss = statistics.median(ours.pss_mb), statistics.median(naive.pss_mb)
    return [
        Figure(
            f"start to ready, {role}",
            f"{ready:.0f} ms ({min(ours.ready_ms):.0f} to {max(ours.ready_ms):.0f})",
            f"naive forwarder {rival_ready:.0f} ms",
            f"{ready / rival_ready:.2f}",
            f"< {READY_AIM_MS} ms",
            ready < READY_AIM_MS,
        ),
        Figure(
            f"idle memory, {role}",
            f"{rss:.1f} MB RSS, {pss:.1f} MB PSS",
            f"naive forwarder {rival_rss:.1f}, {rival_pss:.1f} MB",
            f"{rss / rival_rss:.2f}",
            f"< {MEMORY_AIM_MB} MB RSS",
            rss < MEMORY_AIM_MB,
        ),
    ]


def imports(role: str, folder: Path, top: int = 12) -> list[tuple[str, float]]:
    """(package, ms spent in its own modules) of a start, as -X importtime tells it; the tracing itself makes everything slower."""
    program = programs.node_of_role(role, folder)
    said = folder / "importtime"
    command = ("/bin/sh", "-c", 'exec "$@" 2>"$0"', str(said), sys.executable, "-X", "importtime", "-m", "app")
    with running(replace(program, command=command)):
        pass
    spent: Counter[str] = Counter()
    for microseconds, module in _IMPORT.findall(said.read_text()):
        spent[_package(module)] += int(microseconds)
    return [(package, microseconds / 1000) for package, microseconds in spent.most_common(top)]


def _package(module: str) -> str:
    first = module.partition(".")[0]
    return "the standard library" if first in sys.stdlib_module_names else first


def bare_interpreter_ms(rounds: int) -> float:
    """What Python itself takes to start and end."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run((sys.executable, "-c", "pass"), check=True)
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)
