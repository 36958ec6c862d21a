"""A process under measurement: started, asked until it answers, its CPU time and memory read from /proc, and killed by its pid."""

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_S = 20.0
POLL_S = 0.002
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Program:
    """What to start: it listens on ``port`` of loopback and answers GET ``probe`` with 200 once it is ready."""

    name: str
    command: Sequence[str]
    port: int
    probe: str
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Running:
    program: Program
    process: "subprocess.Popen[bytes]"
    ready_s: float

    def cpu_s(self) -> float:
        """CPU seconds so far, of it and its children."""
        return sum(cpu_s(pid) for pid in (self.process.pid, *_children(self.process.pid)))

    def memory_mb(self) -> tuple[float, float]:
        """(RSS, PSS) in MB of 10^6 bytes."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.endswith("kB")}
        return kilobytes["Rss"] * 1024 / 1e6, kilobytes["Pss"] * 1024 / 1e6

    def request(self, method: str, path: str, body: bytes | None = None) -> int:
        """The status of one request; the answer is read whole."""
        return _request(self.program.port, method, path, body)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def running(program: Program) -> Iterator[Running]:
    """Start a program, wait until it is ready, and kill it in the end. What it says goes nowhere."""
    began = time.perf_counter()
    with subprocess.Popen(
        program.command,
        cwd=ROOT,
        env=clean_environ(program.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _wait_ready(program, process, began + START_S)
            yield Running(program, process, time.perf_counter() - began)
        finally:
            process.terminate() if _children(process.pid) else process.kill()  # a master process takes its workers along


def clean_environ(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what would change a node, and with these settings."""
    ours = ("ASTROMESH_", "OPENAI_", "OLLAMA_", "VLLM_", "TGI_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | dict(settings)


def _wait_ready(program: Program, process: "subprocess.Popen[bytes]", deadline: float) -> None:
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{program.name} ended with {process.returncode} before it was ready: {' '.join(program.command)}")
        try:
            if _request(program.port, "GET", program.probe) == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(POLL_S)
    raise RuntimeError(f"{program.name} was not ready within {START_S:g} s: {' '.join(program.command)}")


def _request(port: int, method: str, path: str, body: bytes | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
    try:
        connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def cpu_s(pid: int) -> float:
    """CPU seconds of one process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
