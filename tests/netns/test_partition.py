"""A network that is cut in two and healed, while clients ask on both sides."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from tests.netns.stage import EVERYTHING, staged

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]


async def test_both_halves_of_a_cut_network_go_on_and_become_one_mesh_again(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        north = await stage.node("north")
        north_all, south, south_all = await asyncio.gather(
            stage.node("north-all", EVERYTHING), stage.node("south"), stage.node("south-all", EVERYTHING)
        )
        nodes = (north, north_all, south, south_all)
        await stage.together(*nodes)
        halves = [[stage.place(name) for name in names] for names in (("north", "north-all"), ("south", "south-all"))]
        async with stage.asking(north) as at_north, stage.asking(south) as at_south:
            _, before, served_by = await stage.run(north, "My name is Ada.")
            for here, there in (halves, reversed(halves)):
                for place in here:
                    place.deafen(*there)
            north_sees = {"north": "alive", "north_all": "alive", "south": "dead", "south_all": "dead"}
            south_sees = {"north": "dead", "north_all": "dead", "south": "alive", "south_all": "alive"}
            for node, view in ((north, north_sees), (north_all, north_sees), (south, south_sees), (south_all, south_sees)):
                await stage.until(partial(stage.sees, node, **view), f"{node.url} sees its half alone")
            during = {}
            for node, all_of_it in ((north, "north-all"), (south, "south-all")):
                status, told, server = await stage.run(node, f"My name is {all_of_it}.")
                assert (status, server) == (200, all_of_it), told
                during[all_of_it] = told["session_id"]
            for half in halves:
                for place in half:
                    place.mend()
            await stage.together(*nodes, within_s=30)
            await stage.nobody_dies(nodes, for_s=3)
            for node in nodes:
                assert await stage.sees(node, north="alive", north_all="alive", south="alive", south_all="alive")
            for node in (north, south):
                for name, session in during.items():
                    _, told, server = await stage.run(node, "What is my name?", session)
                    assert name in told["answer"], (node.url, told)
                    assert server == name
                _, told, server = await stage.run(node, "What is my name?", before["session_id"])
                assert ("Ada" in told["answer"], server) == (True, served_by), told
        at_north.assert_content()
        at_south.assert_content()
