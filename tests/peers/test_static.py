"""The peers of the profile: how their states follow what they do."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.connection import BrokenError
from app.credentials import ApiKeyCredentials
from app.node_client import NodeClient
from app.peers.peer import Peer, PeerFacts
from app.peers.static import StaticPeers
from app.upstream import Upstream
from tests.support import serve

STATUS = {"node_id": "n1", "node_name": "one", "services": {"tools": True, "memory": False}, "store_id": "a" * 12, "in_flight": 3}


class Watched(StaticPeers):
    """Counts the probes and tells of each."""

    probes = 0
    probed: asyncio.Event

    async def probe(self, peer: Peer) -> None:
        await super().probe(peer)
        self.probes += 1
        self.probed.set()

    async def until(self, state: str) -> None:
        async with asyncio.timeout(10):
            while self.all()[0].state != state:
                self.probed = asyncio.Event()
                await self.probed.wait()


@asynccontextmanager
async def watched(url: str, key: str = "") -> AsyncIterator[tuple[Watched, Peer]]:
    peer = Peer("one", url, ["tools", "memory"])
    async with Upstream() as upstream:
        peers = Watched([peer], NodeClient(upstream, "n" * 16, ApiKeyCredentials(key)))
        peers.probed = asyncio.Event()
        yield peers, peer


@asynccontextmanager
async def probing(peers: Watched) -> AsyncIterator[None]:
    running = asyncio.create_task(peers.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def answering(status: int, body: Any, asked: list[Any] | None = None) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if asked is not None:
            asked.append((scope["path"], dict(scope["headers"])))
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", str(len(raw)).encode())]})
        await send({"type": "http.response.body", "body": raw})

    return app


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def test_a_probe_takes_in_what_the_peer_says_and_presents_the_node() -> None:
    asked: list[Any] = []
    async with serve(answering(200, STATUS, asked)) as url, watched(url, "k") as (peers, peer):
        assert not peer.usable  # until it has spoken: who takes us for a client would mix up the clients' conversations
        await peers.probe(peer)
    assert (peer.state, peer.node_id, peer.store_id, peer.busy) == ("up", "n1", "a" * 12, 3)
    assert asked[0][0] == "/v1/system/status"
    assert asked[0][1][b"authorization"] == b"Bearer k"


async def test_what_the_profile_names_and_the_peer_lacks_is_not_offered() -> None:
    async with serve(answering(200, STATUS)) as url, watched(url) as (peers, peer):
        assert peer.offers("memory")  # until it speaks, the profile is believed
        await peers.probe(peer)
        assert peer.offers("tools")
        assert not peer.offers("memory")


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, {}, "ASTROMESH_API_KEYS"),
        (500, {}, "500"),
        (200, b"<html>", "Astromesh node"),
        (200, b"[" * 200_000, "Astromesh node"),
        (200, b" " * 2_000_000, "over 1048576 bytes"),
        (200, {"believes_caller": False}, "the first of ASTROMESH_API_KEYS"),
    ],
)
async def test_an_answer_that_is_no_status_puts_the_peer_out_of_the_view(status: int, body: Any, reason: str) -> None:
    async with serve(answering(status, body)) as url, watched(url) as (peers, peer):
        await peers.probe(peer)
    assert (peer.state, peer.usable) == ("down", False)
    assert reason in peer.reason


@pytest.mark.parametrize(
    "body", [None, [], "text", {"services": 1, "keys": {"agents": 5}, "reaches": 5, "in_flight": "many"}, {"services": {"tools": 1}}]
)
async def test_odd_facts_are_left_out_and_end_nothing(body: Any) -> None:
    async with serve(answering(200, body)) as url, watched(url) as (peers, peer):
        await peers.probe(peer)
    assert peer.state == "up"
    assert peer.busy == 0


async def test_a_draining_peer_is_not_usable_and_says_so() -> None:
    async with serve(answering(200, STATUS | {"draining": True})) as url, watched(url) as (peers, peer):
        await peers.probe(peer)
    assert (peer.state, peer.usable) == ("up", False)


async def test_a_peer_that_refuses_is_down_is_asked_calmly_and_comes_back() -> None:
    port = free_port()
    async with watched(f"http://127.0.0.1:{port}") as (peers, peer):
        async with probing(peers):
            await peers.until("down")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.8):
                    await asyncio.Event().wait()
            assert 2 <= peers.probes <= 6
            assert "refused" in peer.reason
            server = await asyncio.start_server(_status, "127.0.0.1", port)
            async with server:
                await peers.until("up")
                assert peer.reason == ""


async def _status(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    body = json.dumps(STATUS).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    writer.close()


async def test_a_peer_that_failed_a_request_is_probed_at_once() -> None:
    async with serve(answering(200, STATUS)) as url, watched(url) as (peers, peer), probing(peers):
        await peers.until("up")
        failed_at = asyncio.get_running_loop().time()
        peers.failed(peer, "it broke")
        assert not peer.usable
        await peers.until("up")
        assert asyncio.get_running_loop().time() - failed_at < 1  # the next one would have been due in two seconds


async def test_a_silent_peer_is_a_last_resort_first_and_then_loses_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.peers.static.PROBE_TIMEOUT_S", 0.1)
    monkeypatch.setattr("app.peers.static.LOST_AFTER_S", 0.25)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with watched(f"http://127.0.0.1:{mute.getsockname()[1]}") as (peers, peer):
            await peers.probe(peer)
            assert (peer.state, peer.usable) == ("suspect", False)
            async with asyncio.timeout(5), Upstream() as upstream:
                work = asyncio.create_task(upstream.send("POST", peer.url, [], b"{}", peer.in_flight))
                while peer.state != "down":
                    await peers.probe(peer)
                with pytest.raises(BrokenError, match="no answer for"):
                    await work
            assert not peer.in_flight


async def test_a_peer_whose_machine_has_vanished_loses_its_work_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.peers.static.LOST_AFTER_S", 0.25)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with watched(f"http://127.0.0.1:{mute.getsockname()[1]}") as (peers, peer):
            async with asyncio.timeout(5), Upstream() as upstream:
                work = asyncio.create_task(upstream.send("POST", peer.url, [], b"{}", peer.in_flight))
                peer.url = f"http://127.0.0.1:{free_port()}"  # a probe is refused at once; the open connection is silent for ever
                while not work.done():
                    await peers.probe(peer)
                with pytest.raises(BrokenError, match="refused"):
                    await work
            assert peer.state == "down"


def test_a_peer_has_a_key_when_it_says_so_or_takes_any() -> None:
    peer = Peer("one", "http://one:8000/", ["agents", "memory"])
    assert peer.url == "http://one:8000"
    assert peer.has("agents", "assistant")
    peer.facts = PeerFacts.parse({"services": {"agents": True, "memory": True}, "keys": {"agents": ["assistant"]}})
    assert peer.has("agents", "assistant")
    assert not peer.has("agents", "other")
    assert peer.has("agents", None)
    assert peer.has("memory", "any-session")
