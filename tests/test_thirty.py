"""Thirty real nodes on loopback, with the profiles and timings that are shipped: together, without one, in agreement."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.meshes import Meshed, meshed
from tests.nodes import ROOT, RunningNode, launch

pytestmark = [pytest.mark.mesh30, pytest.mark.timeout(180)]
COUNT = 30
QUESTION = {"model": "default", "messages": [{"role": "user", "content": "What is 17*23?"}]}
TOGETHER_S, DEAD_S = 30.0, 45.0
"""On a machine that does nothing else it takes a second after the last one listens, and 17 to 24 s from a crash."""


class Asked:
    """What a client of the gateway met."""

    def __init__(self) -> None:
        self.count = 0
        self.failures: list[str] = []

    async def go_on(self, http: aiohttp.ClientSession, url: str) -> None:
        while True:
            self.count += 1
            async with http.post(f"{url}/v1/chat/completions", json=QUESTION) as response:
                text = await response.text()
                if response.status != 200 or "17*23" not in text:
                    self.failures.append(f"{response.status}: {text}")


@asynccontextmanager
async def asking(mesh: Meshed, gateway: RunningNode) -> AsyncIterator[Asked]:
    """A client that asks one question after the other; a connection to the gateway that breaks ends the test."""
    asked = Asked()
    async with asyncio.TaskGroup() as group:
        client = group.create_task(asked.go_on(mesh.http, gateway.url))
        yield asked
        client.cancel()


async def start_all(stack: AsyncExitStack, folder: Path) -> list[RunningNode]:
    """A gateway, and when it listens all the others at once: twice as many workers as inference nodes, with one store."""
    nodes: list[RunningNode] = []
    seed = ""
    for number in range(COUNT):
        role = ("inference", "worker", "worker")[number % 3] if number else "gateway"
        profile = ROOT / "config" / "profiles" / f"mesh-{role}.yaml"
        own = {"ASTROMESH_NODE_NAME": f"m{number:02}", "ASTROMESH_SEEDS": seed, "ASTROMESH_MESH_KEY": "thirty"}
        nodes.append(await launch(stack, profile, folder / "data", **own))
        if not number:
            seed = await url_of(nodes[0])
    for node in nodes:
        await url_of(node)
    return nodes


async def url_of(node: RunningNode) -> str:
    node.url = (await node.wait_for_log("listening on ", 60)).split("listening on ")[1].split()[0]
    return node.url


async def views(mesh: Meshed, nodes: list[RunningNode]) -> list[dict[str, Any]]:
    return [await mesh.get(node, "/v1/mesh/state") for node in nodes]


def alive(state: dict[str, Any]) -> dict[str, str]:
    """By node id, the name of each member that is alive in a view."""
    return {row["node_id"]: row["name"] for row in state["nodes"] if row["status"] == "alive"}


async def agreed(mesh: Meshed, nodes: list[RunningNode], within_s: float) -> dict[str, str]:
    """Wait until the nodes see each other alive and nobody else, and all have one leader, which is one of them; the common view."""

    async def same() -> dict[str, str] | None:
        states = await views(mesh, nodes)
        first = alive(states[0])
        leaders = {state["leader_id"] for state in states}
        one = len(first) == len(nodes) and all(alive(state) == first for state in states) and len(leaders) == 1 and leaders <= first.keys()
        return first if one else None

    found: dict[str, str] = await mesh.until(same, f"{len(nodes)} nodes agree", within_s)
    return found


async def test_thirty_nodes_come_together_lose_one_unnoticed_by_clients_and_agree_again(tmp_path: Path) -> None:
    async with meshed(tmp_path) as mesh, AsyncExitStack() as stack:
        nodes = await start_all(stack, tmp_path)
        names = await agreed(mesh, nodes, TOGETHER_S)
        victim = nodes[6]
        ids = {name: node_id for node_id, name in names.items()}
        async with asking(mesh, nodes[0]) as asked:
            victim.signal(signal.SIGKILL)
            await victim.exit_code()
            left = [node for node in nodes if node is not victim]
            told = f"member m06 ({ids['m06'][:6]} at {victim.url}) is dead"
            await asyncio.gather(*(node.wait_for_log(told, DEAD_S) for node in left))
        assert not asked.failures, asked.failures[:3]
        assert asked.count > 100
        assert await agreed(mesh, left, TOGETHER_S) == {node_id: name for node_id, name in names.items() if name != "m06"}
        dead = [line for node in left for line in node.log if " is dead" in line and told not in line]
        assert not dead, "nobody else was called dead by anybody"
        assert not [line for node in left for line in node.log if " error " in line or "Traceback" in line]
