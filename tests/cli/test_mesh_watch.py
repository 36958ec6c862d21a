"""The table of the mesh for a person, asked of a real node."""

import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from pathlib import Path

from app.cli.mesh_watch import table
from tests.meshes import meshed
from tests.nodes import ROOT


async def watch(*arguments: str) -> tuple[int | None, str, str]:
    process = await create_subprocess_exec(sys.executable, "-m", "app.cli.mesh_watch", *arguments, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    told = await process.communicate()
    return process.returncode, told[0].decode(), told[1].decode()


async def test_the_members_are_shown_in_eighty_columns(tmp_path: Path) -> None:
    async with meshed(tmp_path) as mesh:
        gateway = await mesh.node("gateway")
        worker = await mesh.node("worker")
        await mesh.together(gateway, worker)
        code, told, _ = await watch(gateway.url)
        assert code == 0
        assert "2 of 2 alive" in told
        assert worker.url in told
        assert all(len(line) <= 80 for line in told.splitlines())


async def test_what_is_wrong_goes_to_stderr_with_the_remedy(tmp_path: Path) -> None:
    assert (await watch("not-a-url"))[0] == 64
    code, told, error = await watch("http://127.0.0.1:1")
    assert (code, told) == (1, "")
    assert "is a node there?" in error


def test_long_names_are_cut_and_states_are_told_apart() -> None:
    load = {"cpu_percent": 100, "memory_percent": 1, "active_requests": 12}
    row = {"name": "n" * 60, "url": "http://" + "u" * 60, "status": "alive", "leader": True, "last_heartbeat": 90.0, "load": load}
    states = [row | {"draining": True}, row | {"reachable": False}, row | {"status": "suspect"}]
    lines = table({"nodes": states}, 100.0).splitlines()
    assert [each for line in lines for each in ("draining", "no way", "suspect") if each in line] == ["draining", "no way", "suspect"]
    assert all(len(line) <= 80 for line in lines)
