"""Bad lines: they lose packets, lead one way only, are slow, or go silent under a request."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.meshes import WORKER
from tests.netns.stage import HANGS_S, SHIPPED, staged

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
FAILURE_TIMEOUT_S = float(SHIPPED["failure_timeout"])


async def test_where_lines_lose_a_third_of_what_comes_in_nobody_healthy_dies_and_no_client_fails(tmp_path: Path) -> None:
    async with staged(tmp_path, SHIPPED) as stage:
        names = ("gateway", "worker", "inference", "spare", "other")
        gateway = await stage.node("gateway")
        workers = (stage.node(name, WORKER) for name in ("worker", "other"))
        nodes = [gateway, *await asyncio.gather(*workers, *(stage.node(name, ["inference"]) for name in ("inference", "spare")))]
        await stage.together(*nodes)
        for name in names:
            stage.place(name).lose(0.3, *(stage.place(other) for other in names if other != name))
        async with stage.asking(gateway) as client:
            await stage.nobody_dies(nodes, for_s=40)
        client.assert_content()


async def test_a_peer_that_this_node_cannot_call_is_reached_through_others_and_named_on_both_sides(tmp_path: Path) -> None:
    async with staged(tmp_path, SHIPPED) as stage:
        gateway = await stage.node("gateway")
        worker, inference = await asyncio.gather(stage.node("worker", WORKER), stage.node("inference", ["inference"]))
        await stage.together(gateway, worker, inference)
        async with stage.asking(gateway) as client:
            await stage.until(client.was_served, "the gateway is asked")
            stage.place("inference").refuse_connections(stage.place("gateway"))
            line = await gateway.wait_for_log("does not answer this node")
            assert "inference" in line
            assert inference.url in line
            line = await inference.wait_for_log("cannot reach this node at")
            assert "gateway" in line
            assert inference.url in line
            seen = len(client.took)
            await stage.until(lambda: client.was_served(seen + 5), "requests go on")
            assert await stage.sees(gateway, gateway="alive", worker="alive", inference="alive")
            status, told, _ = await stage.run(gateway, "What is 17*23?")
            assert (status, "391" in told["answer"]) == (200, True)
            await stage.nobody_dies((gateway, worker, inference), for_s=3)
        client.assert_content()


async def test_a_node_behind_a_slow_and_full_line_does_not_die_and_the_others_do_not_feel_it(tmp_path: Path) -> None:
    async with staged(tmp_path, SHIPPED) as stage:
        gateway = await stage.node("gateway")
        slow, quick, inference = await asyncio.gather(
            stage.node("slow", WORKER), stage.node("quick", WORKER), stage.node("inference", ["inference"])
        )
        nodes = (gateway, slow, quick, inference)
        await stage.together(*nodes)
        stage.place("slow").slow_down("64kbit")
        async with stage.asking(gateway) as client, stage.asking(slow) as filler:
            await stage.nobody_dies((gateway, quick, inference), for_s=15)
        client.assert_content(slowest_s=2)
        assert not filler.failures


async def test_a_node_that_is_cut_off_silently_is_routed_around_and_what_it_took_along_ends_in_peer_lost(tmp_path: Path) -> None:
    async with staged(tmp_path, SHIPPED) as stage, stage.slow_model() as model:
        gateway = await stage.node("gateway")
        nodes = await asyncio.gather(
            stage.node("one", WORKER), stage.node("two", WORKER), stage.node("inference", ["inference"], VLLM_BASE_URL=model),
            stage.node("spare", ["inference"], VLLM_BASE_URL=model),
        )  # fmt: skip
        await stage.together(gateway, *nodes)
        _, told, lost = await stage.run(gateway, "hello")
        kept = {"one", "two"} - {lost}
        async with stage.asking(gateway) as client:
            waiting = asyncio.create_task(stage.run(gateway, "wait", told["session_id"]))
            working = dict(zip(("one", "two"), nodes[:2], strict=True))[lost]

            async def begun() -> bool:
                return bool((await stage.get(working, "/v1/system/status"))["in_flight"] > 1)

            await stage.until(begun, f"{lost} works on it")
            stage.place(lost).pull_plug()
            stage.place("spare").pull_plug()
            cut_at = time.monotonic()

            async def suspected() -> bool:
                rows = {row["name"]: row["status"] for row in await stage.rows(gateway)}
                return {rows[lost], rows["spare"]} == {"suspect"}

            await stage.until(suspected, f"{lost} and spare are suspect", FAILURE_TIMEOUT_S)
            status, told, _ = await waiting
            assert (status, told["error"]["code"]) == (502, "peer_lost")
            assert time.monotonic() - cut_at < HANGS_S
            for _ in range(5):
                begun_at = time.monotonic()
                status, told, served_by = await stage.run(gateway, "hello")
                assert (status, {served_by}) == (200, kept), told
                assert time.monotonic() - begun_at < 3
            stage.place(lost).plug_in()
            stage.place("spare").plug_in()
            await stage.together(gateway, *nodes, within_s=30)
        client.assert_content()
