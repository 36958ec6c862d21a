"""`python -m bench.mesh [--quick] [--minutes M]`: measure the mesh next to serf and kinship, print the table, and write it to
bench/README.md; --quick only shows that everything runs."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import report
from bench.mesh import table
from bench.mesh.kinds import KINDS, kinship_python, serf_binary
from bench.mesh.side import BUSY_LOOPS, Plan
from bench.process import ROOT

KINSHIP = "kinship==0.4.0"
MEMBERS, FEW = 30, 9
STARTS = 5
"""Starts beyond those of the rounds: how busy the machine is meanwhile tells most in them."""
GRACE_S = 240.0
"""What a side may take beyond the times in its plan."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.mesh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few members, one short round, and leave bench/README.md as it is")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long both cores are kept busy in the end (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything else is measured (default: 3)")
    parser.add_argument("--save", type=Path, help="write all results to this file, as JSON")
    asked = parser.parse_args()
    if why := _missing():
        print(f"This cannot run here: {why}", file=sys.stderr)
        return 1
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bench-mesh-") as folder:
        rounds, starts, busy, absent = _measure(
            Path(folder), 1 if asked.quick else asked.rounds, 0.1 if asked.quick else asked.minutes, asked.quick
        )
    if asked.save:
        asked.save.write_text(json.dumps({"rounds": rounds, "starts": starts, "busy": busy}, indent=1))
    text = table.of(rounds, starts, busy, absent)
    text = f"{report.circumstances(time.perf_counter() - began)}\n\n{text}"
    print(text)
    if not asked.quick:
        report.write(text, "make bench-mesh")
    return 0


Results = list[dict[str, Any]]


def _measure(folder: Path, count: int, minutes: float, quick: bool) -> tuple[Results, Results, dict[str, Any], Mapping[str, str]]:
    """Every side in turn, so many times; then some starts alone; then all of them at once beside busy cores."""
    absent = _absent(folder)
    kinds = [kind for kind in KINDS if kind not in absent]
    members, settle_s = (FEW, 2.0) if quick else (MEMBERS, 20.0)
    rounds = [_in_turn(kinds, number, folder, lambda kind: _plan(kind, quick)) for number in range(count)]
    unsigned = [kind for kind in kinds if kind != "signed"]
    starts = [_in_turn(unsigned, number, folder, lambda kind: Plan(members, 1)) for number in range(0 if quick else STARTS)]
    plans = {kind: Plan(members, settle_s, busy_s=minutes * 60, loops=BUSY_LOOPS if kind == "ours" else 0) for kind in unsigned}
    return rounds, starts, _run(plans, folder, plans), absent


def _in_turn(kinds: Sequence[str], number: int, folder: Path, plan: Callable[[str], Plan]) -> dict[str, Any]:
    """One after the other, each time in the opposite order."""
    return {kind: _run([kind], folder, plan(kind))[kind] for kind in (kinds if number % 2 == 0 else kinds[::-1])}


def _plan(kind: str, quick: bool) -> Plan:
    """Two of those that serve chat completions and a worker are killed, and another that serves them is paused."""
    if kind == "signed":
        return Plan(FEW if quick else MEMBERS, 2 if quick else 20, 2 if quick else 60)
    return Plan(FEW, 2, 2, (3,), (4,)) if quick else Plan(MEMBERS, 20, 60, (6, 10, 15), (9,))


def _run(kinds: Iterable[str], folder: Path, plan: Plan | Mapping[str, Plan]) -> dict[str, Any]:
    """The results of sides that run at once, each in a network namespace of its own."""
    running = {}
    for kind in kinds:
        own = plan if isinstance(plan, Plan) else plan[kind]
        print(f"measuring {own.members} of {KINDS[kind].name}{' beside busy cores' if own.busy_s else ''} …", file=sys.stderr, flush=True)
        command = (*_namespace(), sys.executable, "-m", "bench.mesh.side", kind, str(folder), json.dumps(asdict(own)))
        running[kind] = (own, subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    found = {}
    for kind, (own, process) in running.items():
        said, _ = process.communicate(timeout=own.settle_s + own.idle_s + own.busy_s + GRACE_S)
        if process.returncode:
            raise RuntimeError(f"the side {kind} ended with {process.returncode}")
        found[kind] = json.loads(said)
    return found


def _namespace() -> Sequence[str]:
    """The words before a command that give it a network of its own, with nothing but a loopback interface in it."""
    user = () if os.geteuid() == 0 else ("--map-root-user",)
    return ("unshare", *user, "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def _missing() -> str:
    """Why this cannot run here, or ""."""
    try:
        done = subprocess.run((*_namespace(), "true"), check=False, capture_output=True, text=True)
    except OSError as error:
        return f"{error}; network namespaces are Linux's, and unshare is of util-linux"
    return f"no network namespace can be made: {done.stderr.strip()}; run it as root" if done.returncode else ""


def _absent(folder: Path) -> Mapping[str, str]:
    """By kind: why it is not measured."""
    absent = {}
    if serf_binary() is None:
        absent["serf"] = "it is not installed (apt-get install serf)"
    environment = kinship_python(folder).parent.parent
    try:
        subprocess.run((sys.executable, "-m", "venv", str(environment)), check=True, capture_output=True, text=True, timeout=120)
        install = (str(kinship_python(folder)), "-m", "pip", "install", "--quiet", "--only-binary=:all:", KINSHIP)
        subprocess.run(install, check=True, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        absent["kinship"] = f"{KINSHIP} could not be installed from PyPI: {str(told).strip().splitlines()[-1]}"
    return absent


if __name__ == "__main__":
    sys.exit(main())
