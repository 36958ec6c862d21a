"""The health check as Docker runs it: an isolated Python, against a real listener."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route, Router

from tests.support import serve

SCRIPT = Path(__file__).resolve().parent.parent / "app" / "healthcheck.py"


async def check(folder: Path) -> tuple[int, str]:
    """Exit code and output."""
    command = (sys.executable, "-I", "-S", str(SCRIPT))
    process = await asyncio.create_subprocess_exec(
        *command, env={"TMPDIR": str(folder)}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    told, _ = await process.communicate()
    return process.returncode or 0, told.decode()


def live(status: int) -> Router:
    async def answer(request: object) -> PlainTextResponse:
        return PlainTextResponse("", status_code=status)

    return Router([Route("/livez", answer)])


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
async def test_it_is_content_with_200_from_where_the_node_said_it_listens(tmp_path: Path, status: int, code: int) -> None:
    async with serve(live(status)) as url:
        (tmp_path / "astromesh.url").write_text(url)
        found, told = await check(tmp_path)
    assert found == code
    assert f"{url}/livez: {status}" in told


async def test_a_node_that_has_not_begun_to_listen_is_not_healthy(tmp_path: Path) -> None:
    code, told = await check(tmp_path)
    assert code == 1
    assert "No such file" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("left_behind", ["", "http://", "nonsense", "http://127.0.0.1:1", "http://[::1]:1"])
async def test_what_a_dead_node_left_behind_is_not_healthy(tmp_path: Path, left_behind: str) -> None:
    (tmp_path / "astromesh.url").write_text(left_behind)
    code, told = await check(tmp_path)
    assert code == 1
    assert "Traceback" not in told


async def test_a_listener_that_never_answers_is_not_healthy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (tmp_path / "astromesh.url").write_text(f"http://127.0.0.1:{silent.getsockname()[1]}")
        code, told = await check(tmp_path)
    assert code == 1
    assert "timed out" in told


def test_it_imports_little_because_it_runs_every_few_seconds() -> None:
    program = f"import runpy, sys; runpy.run_path({str(SCRIPT)!r}); print(*sys.modules)"
    done = subprocess.run((sys.executable, "-I", "-S", "-c", program), check=True, capture_output=True, text=True, timeout=30)
    assert not {"app", "asyncio", "http", "ssl", "email", "urllib", "logging", "tempfile"} & set(done.stdout.split())
