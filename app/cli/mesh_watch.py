"""`python -m app.cli.mesh_watch [URL]`: the members of the mesh as one node sees them, a table that is drawn anew every second.

ASTROMESH_API_KEY is the key to present, where the node wants one. Without a terminal the table is printed once.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

DEFAULT_URL = "http://127.0.0.1:8000"
WIDTHS = (20, 8, 28, 6, 4, 5)
_HEAD = ("NAME", "STATUS", "URL", "CPU", "REQ", "SEEN")
_CLEAR = "\x1b[H\x1b[2J"


def fetch(url: str, key: str) -> Any:
    """The state of the mesh at the node. Raises ValueError saying what is wrong."""
    request = urllib.request.Request(f"{url.rstrip('/')}/v1/mesh/state")  # noqa: S310 - the person's own address
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            told = json.load(error)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            told = error.reason
        raise ValueError(f"{url} answers {error.code}: {told}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{url} does not answer: {getattr(error, 'reason', error)}; is a node there?") from error


def table(state: Any, now: float) -> str:
    """Lines of at most 80 columns. ``now`` is seconds since 1970."""
    lines = [_line(_HEAD)]
    for node in state["nodes"]:
        status = "draining" if node.get("draining") and node["status"] == "alive" else node["status"]
        status = "no way" if node.get("reachable") is False and status == "alive" else status
        name = node["name"] + (" *" if node["leader"] else "")
        seen = f"{max(0, now - node['last_heartbeat']):.0f} s"
        lines.append(_line((name, status, node["url"], f"{node['load']['cpu_percent']} %", str(node["load"]["active_requests"]), seen)))
    alive = sum(node["status"] == "alive" for node in state["nodes"])
    return "\n".join([*lines, f"{alive} of {len(state['nodes'])} alive; * leads; SEEN is since the last sign of life that came here"])


def _line(cells: Sequence[str]) -> str:
    fitted = (cell if len(cell) <= width else cell[: width - 1] + "…" for cell, width in zip(cells, WIDTHS, strict=True))
    return " ".join(cell.ljust(width) for cell, width in zip(fitted, WIDTHS, strict=True)).rstrip()


def main(arguments: Sequence[str], key: str) -> int:
    if len(arguments) > 1 or (arguments and not arguments[0].startswith(("http://", "https://"))):
        sys.stderr.write(f"{__doc__}\n")
        return 64
    url = arguments[0] if arguments else DEFAULT_URL
    while True:
        try:
            shown = table(fetch(url, key), time.time())
        except ValueError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        if not sys.stdout.isatty():
            sys.stdout.write(f"{shown}\n")
            return 0
        sys.stdout.write(f"{_CLEAR}{shown}\n")
        sys.stdout.flush()
        time.sleep(1)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], os.environ.get("ASTROMESH_API_KEY", "")))
    except KeyboardInterrupt:
        sys.exit(0)
