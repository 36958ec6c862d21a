"""A chat completion through the gateway, through its rivals, and straight to the model: in turn, round after round, under the same load."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import programs
from bench.process import ROOT, Program, Running, running
from bench.report import Figure, table

OURS, LOGGING, NAIVE, NGINX, DIRECT = "Astromesh gateway", "the same, logging requests", "naive forwarder", "nginx", "no forwarder"
AIM = 1.5
WARM_UP_S = 0.5


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    connections: int
    stream: bool


CASES = (Case("chat, 32 at once", 32, False), Case("chat, one at a time", 1, False), Case("stream of 50 events, 16 at once", 16, True))


@dataclass(frozen=True, slots=True)
class Round:
    """One contender under load for a while."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    errors: int


Results = Mapping[str, Sequence[Round]]


def measure(folder: Path, rounds: int, seconds: float) -> tuple[list[Figure], str]:
    """The rows for the main table, and a table of everything."""
    with ExitStack() as stack:
        contenders = {name: stack.enter_context(running(program)) for name, program in _programs(stack, folder)}
        for each in contenders.values():
            _load(each, CASES[0], WARM_UP_S)
        results = {case: _rounds(contenders, case, rounds, seconds) for case in CASES}
    figures = [figure for case in CASES for figure in _figures(case, results[case])]
    return figures, "\n\n".join(_detail(case, results[case]) for case in CASES)


def _programs(stack: ExitStack, folder: Path) -> Iterator[tuple[str, Program]]:
    model = programs.model()
    yield DIRECT, model
    for name, level in ((OURS, "warning"), (LOGGING, "info")):
        own = folder / level
        own.mkdir()
        yield name, programs.gateway(own, model.url, level)
    if nginx := programs.nginx(folder, model.url):
        yield NGINX, nginx
    yield NAIVE, programs.naive(model.url)


def _rounds(contenders: Mapping[str, Running], case: Case, rounds: int, seconds: float) -> dict[str, list[Round]]:
    taken: dict[str, list[Round]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            taken[name].append(_load(contenders[name], case, seconds))
    return taken


def _load(contender: Running, case: Case, seconds: float) -> Round:
    command = [sys.executable, "-m", "bench.load", contender.program.url, str(case.connections), str(seconds)]
    before = contender.cpu_s()
    done = subprocess.run(command + ["stream"] * case.stream, cwd=ROOT, check=True, capture_output=True, text=True, timeout=seconds + 30)
    cpu_s = contender.cpu_s() - before
    told = json.loads(done.stdout)
    return Round(told["per_s"], told["p50_ms"], told["p99_ms"], cpu_s / max(1, told["count"]) * 1e6, told["errors"])


def _figures(case: Case, results: Results) -> Iterator[Figure]:
    for rival in (NAIVE, NGINX):
        if rival not in results:
            yield Figure(
                f"{case.name}: requests/s", f"{_median(results[OURS], 'per_s'):.0f}", f"{rival}: not measured, it is not installed"
            )
            continue
        ratio = _ratio(results, rival, "per_s")
        aim, met = (f"≥ {AIM}", ratio >= AIM) if rival == NAIVE and case.connections > 1 else ("", None)
        yield Figure(f"{case.name}: requests/s", *_compared(results, rival, "per_s"), f"{ratio:.2f}", aim, met)
        yield Figure(f"{case.name}: CPU µs/request", *_compared(results, rival, "cpu_us"), f"{_ratio(results, rival, 'cpu_us'):.2f}")


def _compared(results: Results, rival: str, field: str) -> tuple[str, str]:
    return f"{_median(results[OURS], field):.0f}", f"{rival} {_median(results[rival], field):.0f}"


def _ratio(results: Results, rival: str, field: str) -> float:
    """The median over rounds: what the machine does besides changes both of a round alike."""
    pairs = zip(results[OURS], results[rival], strict=True)
    return float(statistics.median(getattr(mine, field) / getattr(other, field) for mine, other in pairs))


def _detail(case: Case, results: Results) -> str:
    rows = []
    for name, rounds in results.items():
        figures = [_median(rounds, field) for field in ("per_s", "p50_ms", "p99_ms", "cpu_us")]
        errors = sum(each.errors for each in rounds)
        rows.append((name, *(f"{figure:.{digits}f}" for figure, digits in zip(figures, (0, 2, 2, 0), strict=True)), str(errors)))
    return table((case.name, "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "errors"), rows)


def _median(rounds: Sequence[Round], field: str) -> float:
    return float(statistics.median(getattr(each, field) for each in rounds))
