"""Where conversations live: the same store from every node, found where it is, and never a circle of nodes that ask one another."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.context import current
from app.errors import SessionNotFound
from app.session import new_session_id, rank_stores
from tests.spine import FakeService, Spine, free_port, service, spine

STORES = ["a" * 12, "b" * 12, "c" * 12]


class Store:
    """A memory service over a dict, with an id, that counts what it is asked."""

    def __init__(self, store_id: str) -> None:
        self.id = store_id
        self.kept: dict[tuple[str, str, str], list[Any]] = {}
        self.asked = 0

    def service(self) -> type[FakeService]:
        return service(Route("/v1/memory/{agent}/history/{session}", self._answer, methods=["GET", "POST"]), store_id=self.id)

    async def _answer(self, request: Request) -> Response:
        self.asked += 1
        conversation = (current().principal, request.path_params["agent"], request.path_params["session"])
        if request.method == "POST":
            self.kept.setdefault(conversation, []).append(json.loads(await request.body()))
        elif conversation not in self.kept:
            raise SessionNotFound("nothing here")
        return JSONResponse({"store": self.id, "turns": self.kept[conversation]})


async def gateway_and_stores(nodes: Spine, *stores: Store) -> str:
    """The URL of a node without memory whose peers keep the stores."""
    peers = {}
    for number, store in enumerate(stores):
        made = await nodes.node(f"worker-{number}", {"memory": store.service()})
        peers[f"worker-{number}"] = (made.url, ["memory"])
    return (await nodes.node("gateway", peers=peers)).url


async def store_of_turn(client: aiohttp.ClientSession, url: str, session: str, **headers: str) -> str:
    async with client.post(f"{url}/v1/memory/a/history/{session}", json={"n": 1}, headers=headers) as response:
        assert response.status == 200, await response.text()
        return str((await response.json())["store"])


def session_that_begins_in(store: str, stores: list[str]) -> str:
    return next(name for name in (f"chat-{number}" for number in range(1000)) if rank_stores(name, stores)[0] == store)


async def test_a_session_made_by_a_node_goes_to_the_store_that_its_id_names(nodes: Spine, client: aiohttp.ClientSession) -> None:
    stores = [Store(each) for each in STORES]
    url = await gateway_and_stores(nodes, *stores)
    for store in stores:
        for _ in range(4):
            assert await store_of_turn(client, url, new_session_id(store.id)) == store.id


async def test_a_clients_session_goes_to_the_same_store_from_every_node(nodes: Spine, client: aiohttp.ClientSession) -> None:
    one, two = Store(STORES[0]), Store(STORES[1])
    ports = [free_port(), free_port()]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    await nodes.node("one", {"memory": one.service()}, {"two": (urls[1], ["memory"])}, {"port": ports[0]})
    await nodes.node("two", {"memory": two.service()}, {"one": (urls[0], ["memory"])}, {"port": ports[1]})
    gateway = await nodes.node("gateway", peers={"one": (urls[0], ["memory"]), "two": (urls[1], ["memory"])})
    await until_up(client, urls[0])
    seen = set()
    for number in range(12):
        session = f"chat-{number}"
        places = {await store_of_turn(client, url, session) for url in (gateway.url, urls[0], urls[1])}
        assert len(places) == 1
        seen |= places
    assert seen == {one.id, two.id}  # and all of them spread


async def until_up(client: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(10):
        while True:
            async with client.get(f"{url}/v1/system/status") as response:
                if all(peer["state"] == "up" for peer in (await response.json())["peers"]):
                    return


async def test_nodes_that_keep_stores_and_know_each_other_do_not_ask_in_circles(nodes: Spine, client: aiohttp.ClientSession) -> None:
    one, two = Store(STORES[0]), Store(STORES[1])
    ports = [free_port(), free_port()]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    await nodes.node("one", {"memory": one.service()}, {"two": (urls[1], ["memory"])}, {"port": ports[0]}, {"ASTROMESH_DRAIN_S": "0"})
    await nodes.node("two", {"memory": two.service()}, {"one": (urls[0], ["memory"])}, {"port": ports[1]}, {"ASTROMESH_DRAIN_S": "0"})
    await until_up(client, urls[0])
    for url in urls:
        async with asyncio.timeout(5), client.get(f"{url}/v1/memory/a/history/chat-1") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, "session_not_found")
    assert one.asked + two.asked <= 6


async def test_a_node_is_asked_for_its_own_store_only_once_another_looks_for_the_conversation(
    nodes: Spine, client: aiohttp.ClientSession
) -> None:
    stores = [Store(each) for each in STORES]
    ports = [free_port() for _ in stores]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    for number, store in enumerate(stores):
        peers = {f"n{other}": (url, ["memory"]) for other, url in enumerate(urls) if other != number}
        await nodes.node(f"n{number}", {"memory": store.service()}, peers, {"port": ports[number]}, {"ASTROMESH_DRAIN_S": "0"})
    for url in urls:
        await until_up(client, url)
    async with client.get(f"{urls[0]}/v1/memory/a/history/chat-1") as response:
        assert response.status == 404
    assert sum(store.asked for store in stores) == 4  # each is asked whether it has the conversation, and the first one answers


async def test_a_conversation_is_found_in_another_store_than_its_first(nodes: Spine, client: aiohttp.ClientSession) -> None:
    one, two = Store(STORES[0]), Store(STORES[1])
    session = session_that_begins_in(one.id, [one.id, two.id])
    two.kept["", "a", session] = [{"n": 0}]  # begun while the other store did not exist
    url = await gateway_and_stores(nodes, one, two)
    async with client.get(f"{url}/v1/memory/a/history/{session}") as response:
        assert (response.status, (await response.json())["store"]) == (200, two.id)
    assert await store_of_turn(client, url, session) == two.id
    assert one.kept == {}


async def test_what_was_found_is_remembered(nodes: Spine, client: aiohttp.ClientSession) -> None:
    one, two = Store(STORES[0]), Store(STORES[1])
    session = session_that_begins_in(one.id, [one.id, two.id])
    two.kept["", "a", session] = [{"n": 0}]
    url = await gateway_and_stores(nodes, one, two)
    await store_of_turn(client, url, session)
    before = one.asked
    for _ in range(3):
        await store_of_turn(client, url, session)
    assert one.asked == before


async def test_agents_and_principals_have_homes_of_their_own(nodes: Spine, client: aiohttp.ClientSession) -> None:
    one, two = Store(STORES[0]), Store(STORES[1])
    session = session_that_begins_in(one.id, [one.id, two.id])
    two.kept["team-a", "a", session] = [{"n": 0}]
    url = await gateway_and_stores(nodes, one, two)
    headers = {"X-Astromesh-Forwarded": "entry", "X-Astromesh-Principal": "team-a"}
    assert await store_of_turn(client, url, session, **headers) == two.id
    assert await store_of_turn(client, url, session) == one.id  # the anonymous principal's conversation of that name begins


async def test_a_store_that_does_not_answer_is_passed_over(nodes: Spine, client: aiohttp.ClientSession) -> None:
    one, two = Store(STORES[0]), Store(STORES[1])
    session = session_that_begins_in(one.id, [one.id, two.id])

    async def fail(request: Request) -> Response:
        raise RuntimeError("the disk is gone")

    two.kept["", "a", session] = [{"n": 0}]
    broken = service(Route("/v1/memory/{agent}/history/{session}", fail, methods=["GET", "POST"]), store_id=one.id)
    worker = await nodes.node("one", {"memory": broken})
    other = await nodes.node("two", {"memory": two.service()})
    gateway = await nodes.node("gateway", peers={"one": (worker.url, ["memory"]), "two": (other.url, ["memory"])})
    assert await store_of_turn(client, gateway.url, session) == two.id


async def test_nodes_that_share_a_store_are_equal(nodes: Spine, client: aiohttp.ClientSession) -> None:
    store = Store(STORES[0])
    url = await gateway_and_stores(nodes, store, store)
    for number in range(8):
        assert await store_of_turn(client, url, f"chat-{number}") == store.id
    assert store.asked == 8  # one store: nobody else is asked


async def test_a_conversation_is_not_begun_anew_while_a_store_that_may_have_it_cannot_be_asked(
    nodes: Spine, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    one, two = Store(STORES[0]), Store(STORES[1])
    other = await nodes.node("two", {"memory": two.service()})
    async with spine(tmp_path) as mortal:
        made = await mortal.node("one", {"memory": one.service()})
        gateway = await nodes.node("gateway", peers={"one": (made.url, ["memory"]), "two": (other.url, ["memory"])})
    here, away = session_that_begins_in(two.id, [one.id, two.id]), session_that_begins_in(one.id, [one.id, two.id])
    two.kept["", "a", here] = [{"n": 0}]
    assert await store_of_turn(client, gateway.url, here) == two.id
    for session in (away, new_session_id(one.id)):
        async with client.post(f"{gateway.url}/v1/memory/a/history/{session}", json={}) as response:
            assert response.status == 503
    assert two.kept.keys() == {("", "a", here)}
