"""The runner behind `make test`: every suite as data, streamed as it runs, and at the end what RAN and what did NOT RUN and why.

`python tests/run.py [suite…]`; without names, all. Exit 1 when a suite failed, and in CI (CI=true) also when one could not run.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTEST = (sys.executable, "-m", "pytest")
PARALLEL = ("-n", "auto", "--dist", "worksteal")
PATIENCE = 3
"""A suite is stopped at this many times its budget: a slow machine is told so, a hanging suite ends."""


@dataclass(frozen=True, slots=True)
class Suite:
    """Commands that together prove one thing. ``probe`` gives the reason why they cannot run here, or ""; ``needs`` names another suite."""

    name: str
    budget_s: int
    commands: Sequence[Sequence[str]]
    probe: Callable[[], str] = lambda: ""
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    suite: Suite
    seconds: float = 0.0
    failed: str = ""
    kept_back: str = ""

    def __str__(self) -> str:
        if self.kept_back:
            return f"  {self.suite.name}: because {self.kept_back}"
        over = " (over budget)" if self.seconds > self.suite.budget_s else ""
        verdict = f"FAILED: {self.failed}" if self.failed else "passed"
        return f"  {self.suite.name}: {verdict}, {self.seconds:.0f} s of {self.suite.budget_s} s{over}"


def missing_engine() -> str:
    """Why containers cannot run here, or ""."""
    for command in (("docker", "info", "--format", "{{.ServerVersion}}"), ("docker", "compose", "version")):
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
        except FileNotFoundError:
            return "there is no docker command; install Docker Engine with Compose v2"
        except subprocess.TimeoutExpired:
            return f"`{' '.join(command)}` did not answer within 30 s"
        if done.returncode != 0:
            return f"`{' '.join(command)}` says: {(done.stderr or done.stdout).strip()}"
    return ""


TRIAL = (
    "ip link add v0 type veth peer name v1 && ip link add b0 type bridge && tc qdisc add dev v0 root tbf rate 64kbit burst 3kb latency 1s"
    " && iptables -w -A INPUT -m statistic --mode random --probability 0.5 -j DROP"
)
"""What the tests do in network namespaces, done in one that is gone at once."""


def missing_namespaces() -> str:
    """Why nodes cannot run in network namespaces here, or ""."""
    if os.geteuid() != 0:
        return "network namespaces are root's; run the tests as root"
    for command, package in (("ip", "iproute2"), ("tc", "iproute2"), ("iptables", "iptables"), ("unshare", "util-linux")):
        if not shutil.which(command):
            return f"there is no {command} command; install the package {package}"
    done = subprocess.run(("unshare", "--net", "sh", "-c", TRIAL), check=False, capture_output=True, text=True, timeout=30)
    return f"this kernel lets nobody build a network: {done.stderr.strip()}" if done.returncode != 0 else ""


def missing_files() -> str:
    """Why a process cannot open ten thousand connections here, or ""."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    few = hard != resource.RLIM_INFINITY and hard < 11_000
    return f"a process may open {hard} files here, and 11000 are needed; raise the hard limit (`ulimit -Hn`)" if few else ""


FAST = "not compose and not image and not netns and not mesh30 and not hostile and not databases and not processes"
COMPILE = (sys.executable, "-m", "compileall", "-q", "app")
"""Nodes and commands start by the hundred. Where Python keeps no bytecode (PYTHONDONTWRITEBYTECODE), each would compile the app anew."""
UNRAISABLE = ("-W", "ignore::pytest.PytestUnraisableExceptionWarning")
"""Where servers are killed on purpose: a socket that Python finds unclosed later is no failure of whichever test runs by then."""
LOCKED_DOWN = ("--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")

SUITES = (
    Suite(
        "lint",
        120,
        (
            (sys.executable, "-m", "ruff", "check"),
            (sys.executable, "-m", "ruff", "format", "--check"),
            (sys.executable, "-m", "mypy"),
            (str(Path(sys.executable).parent / "shellcheck"), "entrypoint.sh", "app/cli/astromeshctl", ".ci/run"),
        ),
    ),
    Suite("fast", 120, (COMPILE, (*PYTEST, *PARALLEL, "-m", FAST))),
    Suite("processes", 90, (COMPILE, (*PYTEST, *PARALLEL, "-m", "processes"))),
    Suite(
        "image",
        240,
        (
            ("docker", "compose", "build", "gateway"),
            ("docker", "build", "-q", "-f", "tests/Dockerfile", "-t", "astromesh:test", "."),
        ),
        missing_engine,
    ),
    Suite(
        "fast-in-image",
        180,
        (("docker", "run", "--rm", *LOCKED_DOWN, "astromesh:test"),),
        missing_engine,
        needs="image",
    ),
    Suite(
        "databases",
        180,
        (
            ("docker", "build", "-q", "-t", "astromesh-databases:test", "tests/databases"),
            (*PYTEST, *PARALLEL, *UNRAISABLE, "-m", "databases"),
        ),
        missing_engine,
    ),
    Suite("hostile", 120, ((*PYTEST, "-m", "hostile"),), missing_files),
    Suite("api-fuzz", 90, ((sys.executable, "-m", "tests.api_fuzz"),)),
    Suite("simulation", 420, ((sys.executable, "-m", "tests.mesh.sim", "--seeds", "1000"),)),
    Suite("thirty", 90, ((*PYTEST, "-m", "mesh30"),)),
    Suite("namespaces", 180, ((*PYTEST, "-m", "netns", "--durations=0"),), missing_namespaces),
    Suite("containers", 360, ((*PYTEST, "-m", "compose or image"),), missing_engine, needs="image"),
)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt a command and what it started; pytest takes its containers down on that. What is left after a minute is killed."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_command(command: Sequence[str], limit_s: float) -> str:
    """Run one command in a process group of its own, its output going where ours goes; what went wrong, or ""."""
    say("$ " + " ".join(command))
    process = subprocess.Popen(command, cwd=ROOT, process_group=0)
    try:
        code = process.wait(max(limit_s, 1))
    except subprocess.TimeoutExpired:
        stop(process)
        return f"`{' '.join(command)}` was stopped, it ran too long"
    except KeyboardInterrupt:
        stop(process)
        raise
    return "" if code == 0 else f"`{' '.join(command)}` exited {code}"


def run_suite(suite: Suite, done: dict[str, Outcome]) -> Outcome:
    needed = done.get(suite.needs)
    if needed and (needed.failed or needed.kept_back):
        return Outcome(suite, kept_back=f"{suite.needs} {'failed' if needed.failed else 'did not run'}")
    if reason := suite.probe():
        return Outcome(suite, kept_back=reason)
    say(f"\n== {suite.name} (budget {suite.budget_s} s)")
    begun = time.monotonic()
    limit = begun + PATIENCE * suite.budget_s
    failures = [failure for command in suite.commands if (failure := run_command(command, limit - time.monotonic()))]
    return Outcome(suite, time.monotonic() - begun, "; ".join(failures))


def main(names: Sequence[str], suites: Sequence[Suite] = SUITES) -> int:
    known = {suite.name: suite for suite in suites}
    if unknown := [name for name in names if name not in known]:
        say(f"There is no suite {', '.join(unknown)}; there are {', '.join(known)}.")
        return 2
    done: dict[str, Outcome] = {}
    for name in names or known:
        done[name] = run_suite(known[name], done)
    ran = [outcome for outcome in done.values() if not outcome.kept_back]
    kept_back = [outcome for outcome in done.values() if outcome.kept_back]
    say("\nRAN:" + "".join(f"\n{outcome}" for outcome in ran) if ran else "\nRAN: nothing")
    say("NOT RUN:" + "".join(f"\n{outcome}" for outcome in kept_back) if kept_back else "NOT RUN: nothing")
    failed = any(outcome.failed for outcome in ran)
    return 1 if failed or (kept_back and os.environ.get("CI") == "true") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
