"""Real nodes that share a store of conversations: equal in it, and honest when it is away."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.session import store_of
from tests.databases.server import PASSWORD, Server
from tests.nodes import RunningNode, launch, profile, start

WORKER = ["agents", "tools", "memory", "inference"]
VARIABLES = {"postgres": "ASTROMESH_DATABASE_URL", "redis": "ASTROMESH_REDIS_URL"}
pytestmark = pytest.mark.databases
both = pytest.mark.parametrize("kind", ["postgres", "redis"])


@dataclass
class Nodes:
    """Nodes of one test, which end with it."""

    folder: Path
    stack: AsyncExitStack
    http: aiohttp.ClientSession
    made: list[RunningNode] = field(default_factory=list)

    async def worker(self, name: str, environ: Mapping[str, str], **memory: Any) -> RunningNode:
        path = profile(self.folder / f"{name}.yaml", WORKER, memory=memory)
        self.made.append(await start(self.stack, path, self.folder / name, **environ))
        return self.made[-1]

    async def gateway(self, **workers: RunningNode) -> RunningNode:
        peers = {name: (node.url, WORKER) for name, node in workers.items()}
        gateway = await start(self.stack, profile(self.folder / "gateway.yaml", ["channels"], peers=peers), self.folder / "gateway")
        await self.until(gateway, "status", lambda told: all(peer["state"] == "up" for peer in told["peers"]))
        return gateway

    async def ask(self, node: RunningNode, query: str, session: str | None = None) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        body = {"query": query} | ({"session_id": session} if session else {})
        async with self.http.post(f"{node.url}/v1/agents/assistant/run", json=body) as response:
            return response.status, await response.json(), response.headers

    async def told(self, node: RunningNode, what: str) -> Any:
        async with self.http.get(f"{node.url}/v1/system/{what}") as response:
            return await response.json()

    async def ready(self, node: RunningNode) -> int:
        async with self.http.get(f"{node.url}/readyz") as response:
            return response.status

    async def until(self, node: RunningNode, what: str, fits: Any) -> Any:
        async with asyncio.timeout(30):
            while True:
                if fits(told := await self.told(node, what)):
                    return told


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    async with AsyncExitStack() as stack:
        yield Nodes(tmp_path, stack, await stack.enter_async_context(aiohttp.ClientSession()))


@pytest.fixture
def environ(request: pytest.FixtureRequest, kind: str) -> dict[str, str]:
    return {VARIABLES[kind]: request.getfixturevalue(f"{kind}_url")}


@pytest.fixture
def troubled(request: pytest.FixtureRequest, kind: str) -> Server:
    server: Server = request.getfixturevalue(f"troubled_{kind}")
    return server


@both
async def test_a_conversation_goes_on_at_the_other_worker_when_its_worker_is_killed(nodes: Nodes, environ: dict[str, str]) -> None:
    one, two = await nodes.worker("one", environ), await nodes.worker("two", environ)
    gateway = await nodes.gateway(one=one, two=two)
    status, told, headers = await nodes.ask(gateway, "My name is Ann.")
    assert status == 200, told
    session = told["session_id"]
    stores = {(await nodes.told(node, "status"))["store_id"] for node in (one, two)}
    assert stores == {store_of(session)}
    served = {"one": one, "two": two}[headers["X-Astromesh-Node"]]
    served.signal(signal.SIGKILL)
    await served.exit_code()
    status, told, headers = await nodes.ask(gateway, "Who am I?", session)
    assert (status, headers["X-Astromesh-Node"]) == (200, "two" if served is one else "one"), told
    assert "Ann" in told["answer"]
    async with nodes.http.get(f"{gateway.url}/v1/memory/assistant/history/{session}") as response:
        assert len((await response.json())["turns"]) == 2


@both
async def test_a_node_says_which_store_it_uses_and_never_its_password(nodes: Nodes, environ: dict[str, str], kind: str) -> None:
    one = await nodes.worker("one", environ)
    doctor = await nodes.told(one, "doctor")
    place = {"postgres": "PostgreSQL at 127.0.0.1:", "redis": "Redis at 127.0.0.1:"}[kind]
    assert (doctor["checks"]["memory"]["status"], place in doctor["checks"]["memory"]["message"]) == ("ok", True)
    session = (await nodes.ask(one, "Hello."))[1]["session_id"]
    assert store_of(session) == (await nodes.told(one, "status"))["store_id"] != (nodes.folder / "one" / "store_id").read_text()
    everything = "\n".join(one.log) + str(doctor)
    for secret in (PASSWORD, environ[VARIABLES[kind]], "p%40ss"):
        assert secret not in everything


@both
async def test_a_node_whose_store_is_away_starts_says_so_and_takes_up_work_when_it_comes(nodes: Nodes, troubled: Server, kind: str) -> None:
    troubled.kill()
    one = await nodes.worker("one", {VARIABLES[kind]: troubled.url("postgres" if kind == "postgres" else 0)})
    assert await nodes.ready(one) == 503
    status, told, headers = await nodes.ask(one, "My name is Ann.", "chat")
    assert (status, told["error"]["code"]) == (503, "store_unavailable"), told
    assert int(headers["Retry-After"]) > 0
    assert VARIABLES[kind] in told["error"]["message"]
    assert "nodes connect again by themselves" in told["error"]["message"]
    assert (await nodes.told(one, "status"))["store_id"] is None
    troubled.start()
    store = (await nodes.until(one, "status", lambda told: told["store_id"]))["store_id"]
    await nodes.until(one, "doctor", lambda told: told["checks"]["memory"]["status"] == "ok")
    assert await nodes.ready(one) == 200
    status, told, _ = await nodes.ask(one, "My name is Ann.")
    assert (status, store_of(told["session_id"])) == (200, store)
    assert PASSWORD not in "\n".join(one.log)


@both
async def test_what_was_acknowledged_is_there_after_the_server_was_killed_and_a_paused_one_holds_nobody_up_for_ever(
    nodes: Nodes, troubled: Server, kind: str
) -> None:
    one = await nodes.worker("one", {VARIABLES[kind]: troubled.url("postgres" if kind == "postgres" else 0)})
    history = f"{one.url}/v1/memory/assistant/history/chat"
    acknowledged, enough = list[str](), asyncio.Event()

    async def write() -> None:
        for number in range(10_000):
            body = {"messages": [{"role": "user", "content": str(number)}]}
            async with nodes.http.put(f"{history}/turns/t{number}", json=body) as response:
                if response.status != 201:
                    assert (await response.json())["error"]["code"] == "store_unavailable"
                    return
                acknowledged.append(f"t{number}")
                if number == 50:
                    enough.set()

    writing = asyncio.create_task(write())
    await asyncio.wait_for(enough.wait(), 30)
    await asyncio.to_thread(troubled.kill)
    await asyncio.wait_for(writing, 30)
    await asyncio.to_thread(troubled.start)
    await nodes.until(one, "doctor", lambda told: told["checks"]["memory"]["status"] == "ok")
    async with nodes.http.get(history) as response:
        kept = [turn["turn_id"] for turn in (await response.json())["turns"]]
    assert kept[: len(acknowledged)] == acknowledged
    assert len(kept) <= len(acknowledged) + 1

    await asyncio.to_thread(troubled.pause)
    try:
        async with asyncio.timeout(25), nodes.http.get(history) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "store_unavailable")
        assert await nodes.ready(one) == 503
    finally:
        await asyncio.to_thread(troubled.resume)
    await nodes.until(one, "doctor", lambda told: told["checks"]["memory"]["status"] == "ok")
    async with nodes.http.get(history) as response:
        assert response.status == 200


@both
async def test_a_conversation_that_one_worker_deleted_is_gone_for_the_other_at_once(nodes: Nodes, environ: dict[str, str]) -> None:
    one, two = await nodes.worker("one", environ), await nodes.worker("two", environ)
    await nodes.ask(one, "My name is Ann.", "chat")
    history = "/v1/memory/assistant/history/chat"
    async with nodes.http.get(two.url + history) as response:
        assert len((await response.json())["turns"]) == 1
    async with nodes.http.delete(two.url + history) as response:
        assert (await response.json())["deleted"] == 1
    async with nodes.http.get(one.url + history) as response:
        assert response.status == 404


async def test_with_both_redis_keeps_the_conversations(nodes: Nodes, postgres_url: str, redis_url: str) -> None:
    one = await nodes.worker("one", {"ASTROMESH_DATABASE_URL": postgres_url, "ASTROMESH_REDIS_URL": redis_url})
    assert "Redis at" in (await nodes.told(one, "doctor"))["checks"]["memory"]["message"]


async def test_a_url_in_a_file_works_too(nodes: Nodes, redis_url: str) -> None:
    secret = nodes.folder / "secret"
    secret.write_text(redis_url + "\n")
    one = await nodes.worker("one", {"ASTROMESH_REDIS_URL_FILE": str(secret)})
    assert "Redis at" in (await nodes.told(one, "doctor"))["checks"]["memory"]["message"]


@both
async def test_a_url_that_is_none_ends_the_node_with_78_and_shows_no_password(nodes: Nodes, kind: str) -> None:
    made = await launch(
        nodes.stack, profile(nodes.folder / "one.yaml", WORKER), nodes.folder / "one", **{VARIABLES[kind]: "http://u:hush@db/1"}
    )
    assert await made.exit_code() == 78
    told = "\n".join(made.log)
    assert VARIABLES[kind] in told
    assert "hush" not in told
