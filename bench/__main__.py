"""`python -m bench [--quick]`: measure, print the tables, and write them to bench/README.md; --quick only shows that everything runs."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import forwarding, image, loop, report, start
from bench.process import ROOT
from bench.report import Figure, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each, and leave bench/README.md as it is")
    quick = parser.parse_args().quick
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        text = _measure(Path(folder), quick=quick)
    text = f"{report.circumstances(time.perf_counter() - began)}\n\n{text}"
    print(text)
    if not quick:
        report.write(text)
    return 0


def _measure(folder: Path, *, quick: bool) -> str:
    _say("start and memory")
    figures = start.measure(folder, 1 if quick else 7)
    figures.append(image.measure())
    _say("forwarding")
    forwarded, detail = forwarding.measure(folder, 1 if quick else 5, 0.3 if quick else 2.0)
    figures += forwarded
    _say("the agent loop")
    figures += _agent_loop(20 if quick else 300)
    _say("imports")
    return "\n\n".join((report.figures_table(figures), detail, _imports(folder)))


def _agent_loop(runs: int) -> list[Figure]:
    done = subprocess.run(
        (sys.executable, "-m", "bench.loop", str(runs)), cwd=ROOT, check=True, capture_output=True, text=True, timeout=120
    )
    return [
        Figure(f"a run, less its model: {case}", f"{ms:.2f} ms", aim=f"< {loop.AIM_MS:g} ms", met=ms < loop.AIM_MS)
        for case, ms in json.loads(done.stdout).items()
    ]


def _imports(folder: Path) -> str:
    rows = [(role, ", ".join(f"{package} {ms:.0f}" for package, ms in start.imports(role, folder))) for role in ("full", "gateway")]
    rows.append(("an empty Python program, start to end", f"{start.bare_interpreter_ms(9):.0f}"))
    return table(("where the start goes", "ms of imports by package, traced, which makes them slower"), rows)


def _say(what: str) -> None:
    print(f"measuring {what} …", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
