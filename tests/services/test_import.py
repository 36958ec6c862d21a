"""What importing the services does, seen from outside: nothing but importing."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
import app.services.agents, app.services.channels, app.services.inference, app.services.memory, app.services.observability
import app.services.rag, app.services.tools
print(*sorted({path for path in opened if path.startswith(sys.argv[1]) and "__pycache__" not in path and not path.endswith(".py")}))
"""


def test_importing_the_services_reads_no_file_but_their_modules() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, f"{ROOT}/app/"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_node_without_sockets_does_not_import_what_they_need() -> None:
    program = "import sys, app.node, app.services.agents; print(*[name for name in sys.modules if name.startswith('websockets')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


HEAVY = ("aiohttp", "asyncpg", "bs4", "markdown_it", "numpy", "opentelemetry", "pypdf", "redis", "sqlite_vec", "yarl")
"""What some requests, or some configurations, need and an idle node with nothing attached does not."""


def test_a_full_node_with_nothing_attached_imports_nothing_heavy(tmp_path: Path) -> None:
    program = f"""
import asyncio, contextlib, sys
from app.config import load
from app.node import Node

async def main():
    node = Node(load({{"ASTROMESH_DATA_DIR": sys.argv[1], "ASTROMESH_PORT": "0", "ASTROMESH_HOST": "127.0.0.1"}}))
    running = asyncio.create_task(node.run(asyncio.Event()))
    await node.listening.wait()
    print(*[name for name in {HEAVY!r} if name in sys.modules])
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
