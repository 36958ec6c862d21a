"""Real processes that share a data directory with a test: one that writes until it is killed, one that stops inside a transaction."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[3]

WRITE_FOR_EVER = """
import sys
from pathlib import Path
from app.services.memory.conversation import Conversation, MemorySettings
from app.services.memory.sqlite_conversations import ConversationStore

store = ConversationStore(Path(sys.argv[1]), MemorySettings())
store.open()
number = 0
while True:
    messages = b'[{"role":"user","content":"%d"},{"role":"assistant","content":"%s"}]' % (number, b"x" * (number % 9000))
    store.append(Conversation("a", "", "s"), f"t{number}", messages)
    print(f"t{number}", flush=True)
    number += 1
"""

STOP_INSIDE_A_TRANSACTION = """
import os, signal, sys
from pathlib import Path
from app.services.memory import sqlite_slots as slots
from app.services.memory.conversation import Conversation, MemorySettings, Turn
from app.services.memory.sqlite_conversations import ConversationStore

store = ConversationStore(Path(sys.argv[1]), MemorySettings())
store.open()
of = Conversation("a", "", "s")
store.append(of, "before", b'[{"role":"user","content":"before"}]')
with store._own.transaction():
    store._own.add(of, Turn(2, 1, "inside", b'[{"role":"user","content":"inside"}]'))
    os.kill(os.getpid(), signal.SIGSTOP)
print("committed", flush=True)
sys.stdin.readline()
store.sweep()
print("swept", flush=True)
sys.stdin.readline()
"""


@contextmanager
def process(script: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A Python process of its own, killed at the end whatever its state."""
    arguments = [sys.executable, "-c", script, str(folder)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])}
    with subprocess.Popen(arguments, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def wait_until_stopped(child: subprocess.Popen[str]) -> None:
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), "the process ended instead of stopping"


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout
    return child.stdout.readline().strip()


def go_on(child: subprocess.Popen[str]) -> None:
    assert child.stdin
    child.stdin.write("\n")
    child.stdin.flush()
