"""Browsers: no CORS header unless origins are configured; with them, also on errors, and preflights need no key."""

import aiohttp
import pytest

from tests.edge.services import telling
from tests.spine import Spine

ORIGIN = "https://app.example.com"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, x-session-id, x-stainless-lang",
}
KEYS = {"ASTROMESH_API_KEYS": "node:sk-1,app:sk-2"}


def cors_headers(response: aiohttp.ClientResponse) -> set[str]:
    return {name.lower() for name in response.headers if name.lower().startswith("access-control-")}


async def test_without_configured_origins_there_is_no_cors_header(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("closed", telling())
    async with client.get(f"{node.url}/v1/tools/x", headers={"Origin": ORIGIN}) as response:
        assert (response.status, cors_headers(response)) == (200, set())
    async with client.options(f"{node.url}/v1/tools/x", headers=PREFLIGHT) as response:
        assert (response.status, cors_headers(response)) == (405, set())


async def test_a_preflight_of_a_configured_origin_needs_no_key(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("web", telling(), api={"cors_origins": [ORIGIN]}, environ=KEYS)
    async with client.options(f"{node.url}/v1/chat/completions", headers=PREFLIGHT) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        allowed = response.headers["Access-Control-Allow-Headers"]
        assert all(name in allowed for name in ("authorization", "content-type", "x-session-id", "x-stainless-lang"))


@pytest.mark.parametrize(("key", "status"), [("sk-2", 200), ("wrong", 401)])
async def test_answers_to_a_configured_origin_can_be_read_also_errors(
    nodes: Spine, client: aiohttp.ClientSession, key: str, status: int
) -> None:
    node = await nodes.node("web", telling(), api={"cors_origins": [ORIGIN]}, environ=KEYS)
    headers = {"Origin": ORIGIN, "Authorization": f"Bearer {key}"}
    async with client.get(f"{node.url}/v1/tools/x", headers=headers) as response:
        assert response.status == status
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "Origin" in response.headers["Vary"]
        readable = response.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"X-Request-Id", "Retry-After", "Idempotency-Attempt", "Idempotency-Replayed"} <= set(readable)
        assert "Access-Control-Allow-Credentials" not in response.headers


async def test_another_origin_is_not_allowed(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("web", telling(), api={"cors_origins": [ORIGIN]})
    evil = "https://app.example.com.evil"
    async with client.get(f"{node.url}/v1/tools/x", headers={"Origin": evil}) as response:
        assert "Access-Control-Allow-Origin" not in response.headers
    async with client.options(f"{node.url}/v1/tools/x", headers=PREFLIGHT | {"Origin": evil}) as response:
        assert response.status == 400
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_every_origin_may_be_configured(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("web", telling(), api={"cors_origins": ["*"]})
    async with client.get(f"{node.url}/v1/tools/x", headers={"Origin": "https://any.example"}) as response:
        assert response.headers["Access-Control-Allow-Origin"] == "*"
