"""Nodes that find out their own addresses, also where these change or somebody else's view is gone."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.meshes import WORKER
from tests.netns.stage import SHIPPED, staged

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]


async def test_nodes_find_each_other_and_advertise_the_address_of_their_line(tmp_path: Path) -> None:
    async with staged(tmp_path, SHIPPED) as stage:
        gateway = await stage.node("gateway")
        worker, inference = await asyncio.gather(stage.node("worker", WORKER), stage.node("inference", ["inference"]))
        await stage.together(gateway, worker, inference)
        for node in (gateway, worker, inference):
            urls = {row["name"]: row["url"] for row in await stage.rows(node)}
            assert urls == {"gateway": gateway.url, "worker": worker.url, "inference": inference.url}
        status, told, served_by = await stage.run(gateway, "What is 17*23?")
        assert (status, served_by) == (200, "worker")
        assert "391" in told["answer"]
        async with stage.asking(gateway) as client:
            await stage.until(client.was_served, "the gateway is asked")
        client.assert_content()
        assert client.served_by == {"inference"}


async def test_a_seed_that_starts_again_empty_finds_the_same_mesh(tmp_path: Path) -> None:
    async with staged(tmp_path, SHIPPED) as stage:
        gateway = await stage.node("gateway")
        nodes = await asyncio.gather(stage.node("second", []), stage.node("worker", WORKER), stage.node("inference", ["inference"]))
        await stage.together(gateway, *nodes)
        async with stage.asking(nodes[0]) as client:
            _, told, _ = await stage.run(gateway, "My name is Ada.")
            gateway.signal(signal.SIGKILL)
            await gateway.exit_code()
            again = await stage.node("gateway")
            await stage.together(again, *nodes)
            for node in (again, *nodes):
                assert await stage.sees(node, gateway="alive", second="alive", worker="alive", inference="alive")
            status, told, _ = await stage.run(again, "What is my name?", told["session_id"])
            assert (status, "Ada" in told["answer"]) == (200, True)
        client.assert_content()


async def test_nodes_whose_addresses_change_are_found_at_the_new_ones(tmp_path: Path) -> None:
    async with staged(tmp_path, SHIPPED) as stage:
        gateway = await stage.node("gateway")
        asked, worker, inference, spare = await asyncio.gather(
            stage.node("asked"),
            stage.node("worker", WORKER),
            stage.node("inference", ["inference"]),
            stage.node("spare", ["inference"]),
        )
        nodes = (gateway, asked, worker, inference, spare)
        await stage.together(*nodes)
        async with stage.asking(asked) as client:
            await stage.until(client.was_served, "the client is content before")
            for node, name, address in ((gateway, "gateway", "10.77.99.1"), (inference, "inference", "10.77.98.1")):
                stage.place(name).move(address)
                node.url = f"http://{address}:8000"
            expected = sorted(node.url for node in nodes)

            async def found() -> bool:
                return all([sorted(row["url"] for row in await stage.rows(node)) == expected for node in nodes])

            await stage.until(found, "both are seen at their new addresses alone", 40)
            await stage.together(*nodes)
        client.assert_content()
