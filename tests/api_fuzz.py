"""Thousands of requests made from /openapi.json, by schemathesis, to real nodes: a full one, and a gateway that passes most of them on.

No 500 (nor any other failure of the node), no status, content type, header or answer that is not documented, nothing taken that breaks a
schema, nothing answered without a key that needs one. A run says the same each time; `python -m tests.api_fuzz 7` takes another seed.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from tests.api import SERVED, environ
from tests.nodes import RunningNode, profile, start

SEED = 1
NOT_CHECKED = "positive_data_acceptance"
"""Whether all that fits a schema is taken: a name may be of nothing, a number more than a model bears."""


THOROUGH = ("--phases", "examples,coverage,fuzzing", "--max-examples", "25")
THROUGH_GATEWAY = ("--phases", "examples,coverage", "--max-examples", "10", "--exclude-path-regex", "^/v1/mesh/")


def fuzz(node: RunningNode, folder: Path, seed: int, options: Sequence[str]) -> int:
    """The exit code of one run against a node."""
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{node.url}/openapi.json"]
    command += ["--header", "Authorization: Bearer sk-test", "--seed", str(seed), "--generation-database", "none"]
    command += [*options, "--exclude-checks", NOT_CHECKED, "--continue-on-failure", "--no-color"]
    command += ["--request-timeout", "15", "--max-response-time", "10"]
    return subprocess.run(
        command, check=False, cwd=folder, env=os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis")}
    ).returncode


async def run(seed: int) -> list[str]:
    """What went wrong."""
    wrong = list[str]()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keys = environ(folder)
        full = await start(stack, profile(folder / "full.yaml", SERVED, mesh={"enabled": True}), folder / "full", **keys)
        gateway = await start(stack, profile(folder / "gateway.yaml", [], peers={"full": (full.url, SERVED)}), folder / "gateway", **keys)
        await gateway.wait_for_log("peer full at")
        for name, node, options in (("gateway", gateway, THROUGH_GATEWAY), ("full", full, THOROUGH)):
            sys.stdout.write(f"\n== the {name}\n")
            sys.stdout.flush()
            if code := await asyncio.to_thread(fuzz, node, folder, seed, options):
                wrong.append(f"schemathesis exited {code} at the {name}")
            if any(" error " in line or " critical " in line or "Traceback" in line for line in node.log):
                wrong += [f"the {name} logged:", *(line for line in node.log if " info " not in line)][:400]
    return wrong


def main() -> int:
    wrong = asyncio.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else SEED))
    sys.stdout.write("\n".join(["", *(wrong or ["nothing was found"]), ""]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
