"""What importing the services does, seen from outside: nothing but importing."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
import app.services.agents, app.services.inference, app.services.memory, app.services.observability, app.services.tools
print(*sorted({path for path in opened if path.startswith(sys.argv[1]) and "__pycache__" not in path and not path.endswith(".py")}))
"""


def test_importing_the_services_reads_no_file_but_their_modules() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, f"{ROOT}/app/"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_node_without_sockets_does_not_import_what_they_need() -> None:
    program = "import sys, app.node, app.services.agents; print(*[name for name in sys.modules if name.startswith('websockets')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
