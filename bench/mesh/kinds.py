"""What is compared, as programs that say in lines what they learn of each other: the node, and its rivals with their default timings."""

import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

What = Literal["listens", "up", "suspect", "dead", "avoided"]
"""``avoided``: by forwarding alone, before the mesh says anything."""
Command = tuple[Sequence[str], Mapping[str, str]]
"""The command, and what it needs in its environment."""
_SERF_PATH = "/usr/bin:/usr/local/bin:/opt/homebrew/bin"


@dataclass(frozen=True, slots=True)
class Kind:
    """One side. ``command`` takes a member's number, where the first one listens ("" for that one itself), and a folder; each of ``says``
    finds a line and in it of whom, or of which address, it speaks; ``out`` is what takes a member out of use."""

    name: str
    command: Callable[[int, str, Path], Command]
    says: Sequence[tuple[re.Pattern[str], What]]
    out: frozenset[What]

    def read(self, line: str) -> tuple[What, str] | None:
        for pattern, what in self.says:
            if found := pattern.search(line):
                return what, found[1]
        return None


def name_of(number: int) -> str:
    return f"m{number:02d}"


def role_of(number: int) -> str:
    """Of a node: the first is the gateway, and there are twice as many workers as inference nodes."""
    if number == 0:
        return "gateway"
    return "worker" if number % 3 else "inference"


def rpc_address(number: int) -> str:
    """Where a serf agent takes commands."""
    return f"127.0.0.1:{8000 + number}"


def serf_binary() -> str | None:
    return shutil.which("serf", path=_SERF_PATH)


def kinship_python(folder: Path) -> Path:
    """The interpreter of the throw-away environment that kinship is in."""
    return folder / "kinship" / "bin" / "python"


def _node(number: int, seed: str, folder: Path) -> Command:
    environ = {
        "ASTROMESH_ROLE": role_of(number),
        "ASTROMESH_MESH_ENABLED": "true",
        "ASTROMESH_HOST": "127.0.0.1",
        "ASTROMESH_PORT": "0",
        "ASTROMESH_SEEDS": seed,
        "ASTROMESH_NODE_NAME": name_of(number),
        "ASTROMESH_DATA_DIR": str(folder / "data"),
        "TMPDIR": str(folder),
    }
    return (sys.executable, "-m", "app"), environ


def _signed_node(number: int, seed: str, folder: Path) -> Command:
    command, environ = _node(number, seed, folder)
    return command, {**environ, "ASTROMESH_MESH_KEY": "benchmark"}


def _serf(number: int, seed: str, folder: Path) -> Command:
    addresses = (f"-bind=127.0.0.1:{7000 + number}", f"-rpc-addr={rpc_address(number)}")
    join = (f"-retry-join={seed}",) if seed else ()
    return (serf_binary() or "serf", "agent", f"-node={name_of(number)}", "-profile=lan", *addresses, *join), {}


def _kinship(number: int, seed: str, folder: Path) -> Command:
    program = str(Path(__file__).parent / "kinship_node.py")
    return (str(kinship_python(folder)), program, name_of(number), str(7000 + number), *([seed] if seed else ())), {}


def _says(*pairs: tuple[str, What]) -> Sequence[tuple[re.Pattern[str], What]]:
    return tuple((re.compile(pattern), what) for pattern, what in pairs)


_OURS = _says(
    (r"listening on (\S+)", "listens"),
    (r"member (\S+) \(.*\) is in the mesh", "up"),
    (r"member (\S+) \(.*\) is alive", "up"),
    (r"member (\S+) \(.*\) is suspect", "suspect"),
    (r"member (\S+) \(.*\) (?:is dead|has left|has lost its address)", "dead"),
    (r"(\S+) at \S+ left the routing view", "avoided"),
)
KINDS: Mapping[str, Kind] = {
    "ours": Kind("Astromesh", _node, _OURS, frozenset({"suspect", "dead"})),
    "signed": Kind("Astromesh with a mesh key", _signed_node, _OURS, frozenset({"suspect", "dead"})),
    "serf": Kind(
        "serf",
        _serf,
        _says(
            (r"(Serf agent running)", "listens"),
            (r"EventMemberJoin: (\S+)", "up"),
            (r"EventMemberFailed: (\S+)", "dead"),
            (r"memberlist: Suspect (\S+) has failed", "suspect"),
        ),
        frozenset({"dead"}),  # it tells nobody of suspects
    ),
    "kinship": Kind(
        "kinship",
        _kinship,
        _says(
            (r"^(listening)", "listens"),
            (r"^Member(?:Joined|Recovered) (\S+)", "up"),
            (r"^MemberSuspect (\S+)", "suspect"),
            (r"^Member(?:Dead|Left) (\S+)", "dead"),
        ),
        frozenset({"suspect", "dead"}),
    ),
}
