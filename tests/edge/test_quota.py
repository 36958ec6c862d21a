"""How much one client may ask: rate and requests at once, by key or by address, counted where the request arrives."""

import asyncio
import time
from typing import Any

import aiohttp
import openai
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.config.limits import Limit, Limits
from app.edge import quota
from app.edge.quota import Quota
from app.errors import RateLimited
from tests.edge.services import Worker, tell, telling, tools
from tests.spine import Spine, service

KEYS = {"ASTROMESH_API_KEYS": "node:sk-node,team-a:sk-a,team-b:sk-b"}
A, B = {"Authorization": "Bearer sk-a"}, {"Authorization": "Bearer sk-b"}


def refusal(accounts: Quota, principal: str, address: str, now: float) -> RateLimited:
    with pytest.raises(RateLimited) as raised:
        accounts.admit(principal, address, now)
    return raised.value


def test_a_bucket_gives_its_burst_and_then_what_comes_in() -> None:
    accounts = Quota(Limits(Limit(requests_per_minute=60, burst=3)))
    for _ in range(3):
        accounts.admit("a", "", 100.0)
    refused = refusal(accounts, "a", "", 100.25)
    assert refused.headers == {"Retry-After": "1", "Retry-After-Ms": "750"}
    assert "60 requests a minute, and 3 of them at once" in refused.message
    accounts.admit("a", "", 101.0)  # the refused one has taken nothing
    refusal(accounts, "a", "", 101.5)
    for _ in range(3):
        accounts.admit("a", "", 1000.0)
    refusal(accounts, "a", "", 1000.0)


def test_without_a_burst_the_requests_of_one_second_may_come_at_once() -> None:
    accounts = Quota(Limits(Limit(requests_per_minute=120)))
    for _ in range(2):
        accounts.admit("a", "", 0.0)
    assert refusal(accounts, "a", "", 0.0).headers["Retry-After-Ms"] == "500"
    slow = Quota(Limits(Limit(requests_per_minute=0.5)))
    slow.admit("a", "", 0.0)
    assert refusal(slow, "a", "", 60.0).headers["Retry-After"] == "60"


def test_requests_at_work_are_counted_until_they_are_answered() -> None:
    accounts = Quota(Limits(Limit(concurrent=2)))
    first, _ = accounts.admit("a", "", 0.0), accounts.admit("a", "", 0.0)
    assert "2 requests at work" in refusal(accounts, "a", "", 0.0).message
    accounts.admit("b", "", 0.0)
    first.give_back()
    accounts.admit("a", "", 0.0)


def test_a_keys_own_limits_take_the_place_of_the_default() -> None:
    accounts = Quota(Limits(Limit(concurrent=1), {"big": Limit(concurrent=2), "free": Limit()}))
    for name, taken in (("small", 1), ("big", 2), ("free", 50)):
        for _ in range(taken):
            accounts.admit(name, "", 0.0)
    refusal(accounts, "small", "", 0.0)
    refusal(accounts, "big", "", 0.0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "", True),
    ],
)
def test_a_caller_without_a_key_is_an_address_or_a_network_of_ipv6(one: str, other: str, same: bool) -> None:
    accounts = Quota(Limits(Limit(concurrent=1)))
    accounts.admit("", one, 0.0)
    if same:
        refusal(accounts, "", other, 0.0)
    else:
        accounts.admit("", other, 0.0)


def test_addresses_are_forgotten_but_not_those_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "MAX_ADDRESSES", 10)
    accounts = Quota(Limits(Limit(requests_per_minute=1, concurrent=1)))
    accounts.admit("", "10.0.0.1", 0.0)
    for number in range(2, 40):
        accounts.admit("", f"10.0.0.{number}", 0.0).give_back()
    assert len(accounts._addresses) == 10
    assert "at work" in refusal(accounts, "", "10.0.0.1", 100.0).message


async def test_a_key_over_its_rate_is_429_with_the_wait_and_others_are_served(nodes: Spine, client: aiohttp.ClientSession) -> None:
    limits = {"keys": {"team-a": {"requests_per_minute": 1, "burst": 2}}}
    node = await nodes.node("limited", telling(), api={"limits": limits}, environ=KEYS)
    for status in (200, 200, 429):
        async with client.get(f"{node.url}/v1/tools/x", headers=A) as response:
            assert response.status == status
            body = await response.json()
    error = body["error"]
    assert (error["code"], error["type"]) == ("rate_limited", "rate_limit_error")
    assert "The API key team-a may make 1 requests a minute, and 2 of them at once" in error["message"]
    assert 55 < int(response.headers["Retry-After"]) <= 60
    assert response.headers["X-Request-Id"]
    for path, headers in (("/v1/tools/x", B), ("/livez", A), ("/v1/health", A)):
        async with client.get(node.url + path, headers=headers) as response:
            assert response.status == 200


async def test_a_key_has_so_many_requests_at_once_and_one_that_is_left_makes_room(nodes: Spine, client: aiohttp.ClientSession) -> None:
    worker = Worker()
    node = await nodes.node(
        "limited", {"tools": tools(worker.after_the_body)}, api={"limits": {"default": {"concurrent": 1}}}, environ=KEYS
    )
    busy = asyncio.create_task(client.post(f"{node.url}/v1/tools/x", headers=A).__aenter__())
    await asyncio.wait_for(worker.begun.wait(), 5)
    async with client.post(f"{node.url}/v1/tools/x", headers=A) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
        assert "has 1 requests at work" in (await response.json())["error"]["message"]
    busy.cancel()
    await asyncio.wait_for(worker.stopped.wait(), 5)
    async with asyncio.timeout(5):
        while (await client.get(f"{node.url}/v1/tools/nothing", headers=A)).status == 429:
            pass


async def test_without_keys_each_address_is_counted(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("open", telling(), api={"limits": {"default": {"requests_per_minute": 1, "burst": 1}}})
    for status in (200, 429):
        async with client.get(f"{node.url}/v1/tools/x") as response:
            assert response.status == status
            body = await response.json()
    assert "The address 127.0.0.1 may make" in body["error"]["message"]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))) as other:
        async with other.get(f"{node.url}/v1/tools/x") as response:
            assert response.status == 200


async def test_a_forwarded_request_is_counted_once_where_it_arrives(nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", telling(), api={"limits": {"default": {"requests_per_minute": 1, "burst": 1}}}, environ=KEYS)
    near = await nodes.node(
        "near",
        peers={"far": (far.url, ["tools"])},
        api={"limits": {"default": {"requests_per_minute": 1, "burst": 3}}},
        environ=KEYS,
    )
    for status in (200, 200, 200, 429):
        async with client.get(f"{near.url}/v1/tools/x", headers=A) as response:
            assert (response.status, response.headers["X-Astromesh-Node"]) == (status, "far" if status == 200 else "near")
    async with client.get(f"{far.url}/v1/tools/x", headers=A) as response:  # what was passed on has taken nothing there
        assert response.status == 200


async def test_what_platforms_bring_to_a_webhook_is_not_counted(nodes: Spine, client: aiohttp.ClientSession) -> None:
    limits = {"default": {"requests_per_minute": 1, "burst": 1}}
    offered = {"channels": service(Route("/v1/channels/{name}/webhook", tell, methods=["POST"]))}
    node = await nodes.node("limited", offered, api={"limits": limits}, environ=KEYS)
    for _ in range(3):
        async with client.post(f"{node.url}/v1/channels/crm/webhook") as response:
            assert response.status == 200


async def test_what_is_not_allowed_at_all_takes_nothing(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("limited", telling(), api={"limits": {"default": {"requests_per_minute": 1, "burst": 1}}}, environ=KEYS)
    for _ in range(5):
        async with client.get(f"{node.url}/v1/tools/x", headers={"Authorization": "Bearer wrong"}) as response:
            assert response.status == 401
    async with client.get(f"{node.url}/v1/tools/x", headers=A) as response:
        assert response.status == 200


async def test_the_openai_sdk_waits_and_tries_again(nodes: Spine) -> None:
    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "x"}]})

    limits: dict[str, Any] = {"default": {"requests_per_minute": 120, "burst": 1}}
    offered = {"inference": service(Route("/v1/models", models), keys=["m"])}
    node = await nodes.node("limited", offered, api={"limits": limits}, environ=KEYS)
    async with openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key="sk-a") as client:
        began = time.monotonic()
        for _ in range(3):
            assert [model.id async for model in await client.models.list()] == ["m"]
        assert 0.8 < time.monotonic() - began < 5  # a request each 0.5 s, and none that was lost
        with pytest.raises(openai.RateLimitError) as raised:
            await asyncio.gather(*(client.with_options(max_retries=0).models.list() for _ in range(3)))
    assert raised.value.code == "rate_limited"
