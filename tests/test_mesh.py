"""The mesh as its users meet it: real processes that find each other, lose each other, and are asked questions meanwhile."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.mesh.members import Record, Status
from app.mesh.messages import Entry, Gossip, Header, Join, Leave, Message
from app.mesh.wire import encode
from app.signing import CHALLENGE, Claim, Signer
from tests.meshes import WORKER, Meshed, meshed
from tests.nodes import RunningNode
from tests.support import serve

STRANGER = "f" * 16


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Meshed]:
    async with meshed(tmp_path) as made:
        yield made


def says_hello(url: str = "http://127.0.0.1:9", sender: str = STRANGER) -> Message:
    entry = Entry(sender, (0, Status.ALIVE), Record(sender, 1, "stranger", url))
    return Message(Header("astromesh", sender, "", 1, 0, 0, 0, 1), Join(url), entries=(entry,))


async def post(mesh: Meshed, node: RunningNode, path: str, data: bytes, **headers: str) -> tuple[int, Any, Mapping[str, str]]:
    sent = {"Content-Type": "application/json", **headers}
    async with mesh.http.post(node.url + path, data=data, headers=sent) as response:
        return response.status, await response.json(), response.headers


async def test_nodes_find_each_other_and_a_question_is_answered_across_them(mesh: Meshed) -> None:
    gateway = await mesh.node("gateway")
    worker, inference = await asyncio.gather(mesh.node("worker", WORKER), mesh.node("inference", ["inference"]))
    await mesh.together(gateway, worker, inference)
    status, told, served_by = await mesh.run(gateway, "What is 17*23?")
    assert (status, served_by) == (200, "worker")
    assert "391" in told["answer"]
    state = await mesh.get(gateway, "/v1/mesh/state")
    rows = {row["name"]: row for row in state["nodes"]}
    assert {name: row["url"] for name, row in rows.items()} == {"gateway": gateway.url, "worker": worker.url, "inference": inference.url}
    assert set(rows["worker"]["services"]) == {"api", "agents", "tools", "memory", "observability"}

    async def catalogued() -> bool:
        nodes = (await mesh.get(gateway, "/v1/mesh/state"))["nodes"]
        return [row["agents"] for row in nodes if row["name"] == "worker"] == [["assistant"]]

    await mesh.until(catalogued, "the worker's agents are known")
    assert set(rows["worker"]["load"]) == {"cpu_percent", "memory_percent", "active_requests"}
    leaders = {(await mesh.get(node, "/v1/mesh/state"))["leader_id"] for node in (gateway, worker, inference)}
    assert leaders == {row["node_id"] for row in rows.values() if row["leader"]}
    summary = (await mesh.get(worker, "/v1/system/status"))["mesh"]
    assert (summary["cluster_size"], summary["status"], {summary["leader"]}) == (3, "alive", leaders)


@pytest.mark.processes
async def test_a_member_is_known_with_its_services_from_the_first(mesh: Meshed) -> None:
    gateway = await mesh.node("gateway")
    starting = asyncio.create_task(mesh.node("worker", WORKER))
    seen = list[list[str]]()

    async def known() -> bool:
        seen.extend(row["services"] for row in (await mesh.get(gateway, "/v1/mesh/state"))["nodes"] if row["name"] == "worker")
        return bool(seen)

    await mesh.until(known, "the worker is known")
    assert {"agents", "tools", "memory"} <= set(seen[0])
    await starting


async def test_a_killed_worker_leaves_the_routing_at_once_and_its_sessions_go_on_in_the_store_it_shared(mesh: Meshed) -> None:
    gateway = await mesh.node("gateway")
    one, two, inference = await asyncio.gather(
        mesh.node("one", WORKER, data="shared"), mesh.node("two", WORKER, data="shared"), mesh.node("inference", ["inference"])
    )
    await mesh.together(gateway, one, two, inference)
    _, told, _ = await mesh.run(gateway, "My name is Ada.")
    one.signal(signal.SIGKILL)
    await one.exit_code()
    for _ in range(10):
        status, answer, served_by = await mesh.run(gateway, "What is my name?", told["session_id"])
        assert (status, served_by) == (200, "two"), answer
        assert "Ada" in answer["answer"]
    assert (await mesh.members(gateway))["one"] != "dead", "users did not wait for the detector"

    async def dead() -> bool:
        return (await mesh.members(gateway)).get("one") == (await mesh.members(two)).get("one") == "dead"

    await mesh.until(dead, "the killed worker is dead everywhere")


async def test_a_seed_that_restarts_empty_is_found_again_without_a_duplicate(mesh: Meshed) -> None:
    gateway = await mesh.node("gateway")
    worker = await mesh.node("worker", WORKER)
    await mesh.together(gateway, worker)
    gateway.signal(signal.SIGKILL)
    await gateway.exit_code()
    again = await mesh.node("gateway", ASTROMESH_PORT=gateway.url.rsplit(":", 1)[1], ASTROMESH_SEEDS="")
    await mesh.together(again, worker)
    assert sorted(await mesh.members(worker)) == ["gateway", "worker"]
    worker.signal(signal.SIGKILL)
    await worker.exit_code()
    worker = await mesh.node("worker", WORKER, ASTROMESH_PORT=worker.url.rsplit(":", 1)[1])
    await mesh.together(again, worker)
    assert sorted(await mesh.members(again)) == ["gateway", "worker"]


async def test_a_node_that_stops_is_out_of_every_view_before_it_ends(mesh: Meshed) -> None:
    gateway = await mesh.node("gateway")
    worker = await mesh.node("worker", WORKER)
    await mesh.together(gateway, worker)
    worker.signal(signal.SIGTERM)

    async def draining() -> bool:
        peers = (await mesh.get(gateway, "/v1/system/status"))["peers"]
        return [peer["state"] for peer in peers] == ["draining"]

    await mesh.until(draining, "the drain is known to the gateway", 5)
    assert worker.process.returncode is None
    assert await worker.exit_code() == 0
    assert list(await mesh.members(gateway)) == ["gateway"]


@pytest.mark.processes
async def test_a_person_may_ask_a_node_to_leave_and_only_that_node(mesh: Meshed) -> None:
    gateway = await mesh.node("gateway")
    worker = await mesh.node("worker", WORKER)
    await mesh.together(gateway, worker)
    assert (await post(mesh, gateway, "/v1/mesh/leave", b'{"node_id": "abc"}'))[0] == 422
    status, told, _ = await post(mesh, worker, "/v1/mesh/leave", b'{"node_id": "self"}')
    assert (status, told["status"]) == (200, "left")

    async def alone() -> bool:
        return list(await mesh.members(gateway)) == ["gateway"]

    await mesh.until(alone, "the gateway has taken the leaver out")
    assert (await mesh.get(worker, "/v1/system/status"))["mesh"]["status"] == "left"

    async def not_ready() -> bool:
        async with mesh.http.get(f"{worker.url}/readyz") as response:
            return response.status == 503 and "has left the mesh" in (await response.json())["checks"]["mesh"]["message"]

    await mesh.until(not_ready, "a balancer sends nothing to who has left", 5)


@pytest.mark.parametrize(
    ("keys", "who", "expected"),
    [
        ("node:sk-node,team-a:sk-team", "sk-team", 403),
        ("node:sk-node,team-a:sk-team", "sk-node", 200),
        ("", "", 200),  # from the machine itself
    ],
)
async def test_who_operates_a_node_may_have_it_leave_and_no_other_client(tmp_path: Path, keys: str, who: str, expected: int) -> None:
    async with meshed(tmp_path, ASTROMESH_MESH_KEY="key", ASTROMESH_API_KEYS=keys) as mesh:
        gateway = await mesh.node("gateway")
        headers = {"Authorization": f"Bearer {who}"} if who else {}
        status, told, _ = await post(mesh, gateway, "/v1/mesh/leave", b'{"node_id": "self"}', **headers)
        assert status == expected, told
        assert status == 200 or "the first of ASTROMESH_API_KEYS" in told["error"]["message"]


async def test_a_refused_join_does_not_move_the_address_of_a_node(mesh: Meshed) -> None:
    gateway = await mesh.node("gateway")
    hello = says_hello()
    foreign = replace(hello, header=replace(hello.header, cluster="other"), body=Join("http://192.0.2.66:8000"))
    assert (await post(mesh, gateway, "/v1/mesh/join", encode(foreign)))[0] == 403
    [row] = (await mesh.get(gateway, "/v1/mesh/state"))["nodes"]
    assert "192.0.2.66" not in row["url"]


@pytest.mark.processes
async def test_an_address_that_was_copied_from_the_seed_is_named(mesh: Meshed) -> None:
    seed = await mesh.node("seed")
    copied = await mesh.node("copied", ASTROMESH_ADVERTISE_URL=seed.url)
    told = await copied.wait_for_log("ASTROMESH_ADVERTISE_URL is")
    assert seed.url in told
    assert "where another node answers (seed)" in told


async def test_a_node_that_no_seed_takes_in_says_so(mesh: Meshed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    lost = await mesh.node("lost", ASTROMESH_SEEDS=nobody)
    told = await lost.wait_for_log("this node is alone in its mesh")
    assert nobody in told
    assert "connection refused" in told
    check = (await mesh.get(lost, "/v1/system/doctor"))["checks"]["mesh"]
    assert (check["status"], nobody in check["message"]) == ("degraded", True)


@pytest.mark.processes
async def test_two_nodes_of_one_name_both_work_and_are_told_apart(mesh: Meshed) -> None:
    gateway = await mesh.node("gateway")
    twins = await asyncio.gather(*(mesh.node("worker", WORKER, data=f"data-{number}") for number in (1, 2)))
    await mesh.together(gateway, *twins)
    ids = [(await mesh.get(twin, "/v1/system/status"))["node_id"] for twin in twins]
    names = {f"worker-{each[:6]}" for each in ids}
    assert set(await mesh.members(gateway)) == {"gateway", *names}
    served = set[str]()

    async def both() -> bool:
        async with mesh.http.post(
            f"{gateway.url}/v1/tools/execute", json={"tool_name": "calculator", "arguments": {"expression": "1"}}
        ) as r:
            served.add(r.headers["X-Astromesh-Node"])
        return served >= names

    await mesh.until(both, "both were asked")
    assert served == names


POISON: Sequence[tuple[bytes, int]] = (
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b"\xff\xfe", 400),
    (b'{"node_id": "worker", "heartbeat": "soon"}', 400),
    (b'{"v": 1, "kind": "gossip", "beat": "soon"}', 400),
    (encode(says_hello()).replace(b'"beat":0', b'"beat":4102444800000'), 400),
    (encode(says_hello()).replace(b"stranger", b"n" * 60_000), 400),
    (encode(says_hello()).replace(b"stranger", b"n" * 70_000), 413),
    (b"[" * 60_000, 400),
    (encode(says_hello()).replace(b'"cluster":"astromesh"', b'"cluster":"other"'), 403),
)


async def test_poison_is_refused_and_changes_nothing(mesh: Meshed) -> None:
    gateway = await mesh.node("gateway")
    for data, status in POISON:
        answer = await post(mesh, gateway, "/v1/mesh/join", data)
        assert answer[0] == status, (data[:40], answer)
        assert set(answer[1]["error"]) == {"message", "type", "code", "param"}
        assert list(await mesh.members(gateway)) == ["gateway"]
    worker = await mesh.node("worker")
    await mesh.together(gateway, worker)


@pytest.mark.processes
async def test_nobody_speaks_for_another_node_and_a_message_goes_to_its_own_path(mesh: Meshed) -> None:
    gateway = await mesh.node("gateway")
    worker = await mesh.node("worker")
    await mesh.together(gateway, worker)
    worker_id = (await mesh.get(worker, "/v1/system/status"))["node_id"]
    lie = Entry(worker_id, (0, Status.ALIVE), Record(worker_id, 9, "worker", "http://10.9.9.9:80"))
    message = Message(Header("astromesh", STRANGER, "", 1, 0, 0, 0, 1), Gossip(), entries=(lie,))
    assert (await post(mesh, gateway, "/v1/mesh/gossip", encode(message)))[0] == 200

    async def corrected() -> bool:
        rows = (await mesh.get(gateway, "/v1/mesh/state"))["nodes"]
        return {row["name"]: row["url"] for row in rows}.get("worker") == worker.url

    await mesh.until(corrected, "the worker's own word is the last one")
    assert (await post(mesh, gateway, "/v1/mesh/gossip", encode(says_hello())))[0] == 400


ADDRESSES_OF_NOBODY = ["a..b:80", ".:80", "a" * 70 + ":80", "[:::]:80", "[1.2.3.4]:80", "0:80", "00.0.0.0:80", "[::0]:80", "-a:80"]


async def test_an_address_that_nobody_can_have_is_refused_and_stops_nobody(mesh: Meshed) -> None:
    gateway = await mesh.node("gateway")
    for url in (f"http://{address}" for address in ADDRESSES_OF_NOBODY):
        for message in (says_hello(url), Message(says_hello().header, Join(url))):
            assert (await post(mesh, gateway, "/v1/mesh/join", encode(message)))[0] == 400, url
    assert await mesh.members(gateway) == {"gateway": "alive"}


@pytest.mark.processes
async def test_counters_that_a_stranger_claims_to_be_used_up_stop_nobody(mesh: Meshed) -> None:
    gateway = await mesh.node("gateway")
    worker = await mesh.node("worker")
    await mesh.together(gateway, worker)
    accused = Message(Header("astromesh", STRANGER, "", 1, 0, 0, 0, 1), Gossip(), accused=(2**31 - 1, Status.SUSPECT))
    for node in (gateway, worker):
        assert (await post(mesh, node, "/v1/mesh/gossip", encode(accused)))[0] == 200
    await mesh.together(gateway, worker)


@pytest.mark.processes
async def test_an_answer_that_is_not_signed_is_not_believed_whatever_its_status(tmp_path: Path) -> None:
    async with meshed(tmp_path, ASTROMESH_MESH_KEY="key") as mesh:
        asked = asyncio.Event()
        for status in (200, 401, 409):
            asked.clear()

            async def pretend(scope: Any, receive: Any, send: Any, status: int = status) -> None:
                entry = Entry(STRANGER, (0, Status.ALIVE), Record(STRANGER, 1, "rogue", url))
                body = encode(Message(Header("astromesh", STRANGER, "", 1, 0, 0, 0, 1), Gossip(), entries=(entry,)))
                await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
                await send({"type": "http.response.body", "body": body})
                asked.set()

            async with serve(pretend) as url:
                node = await mesh.node(f"node-{status}", ASTROMESH_SEEDS=url)
                assert "ASTROMESH_MESH_KEY" in await node.wait_for_log("takes no messages of this one")
                assert list(await mesh.members(node)) == [f"node-{status}"]


async def test_a_second_authorization_header_opens_nothing(tmp_path: Path) -> None:
    async with meshed(tmp_path, ASTROMESH_MESH_KEY="key", ASTROMESH_API_KEYS="ada:sk-ada") as mesh:
        gateway = await mesh.node("gateway")
        headers = [("Authorization", "x"), ("Authorization", "Astromesh-HMAC x"), ("Content-Type", "application/json")]
        async with mesh.http.post(f"{gateway.url}/v1/mesh/leave", data=b'{"node_id": "self"}', headers=headers) as response:
            assert response.status == 400
        mesh.http.headers["Authorization"] = "Bearer sk-ada"
        assert (await mesh.get(gateway, "/v1/system/status"))["mesh"]["status"] == "alive"


async def test_with_a_mesh_key_a_node_that_lacks_it_is_refused_and_both_sides_say_why(tmp_path: Path) -> None:
    keys = {"ASTROMESH_MESH_KEY": "right", "ASTROMESH_API_KEYS": "ada:sk-ada"}
    async with meshed(tmp_path, **keys) as mesh:
        gateway = await mesh.node("gateway")
        mesh.http.headers["Authorization"] = "Bearer sk-ada"
        worker, inference = await asyncio.gather(mesh.node("worker", WORKER), mesh.node("inference", ["inference"]))
        await mesh.together(gateway, worker, inference)
        status, told, served_by = await mesh.run(gateway, "What is 17*23?")
        assert (status, served_by) == (200, "worker"), told
        strange = await mesh.node("strange", ASTROMESH_MESH_KEY="wrong")
        keyless = await mesh.node("keyless", ASTROMESH_MESH_KEY="", ASTROMESH_API_KEYS="")
        for outsider in (strange, keyless):
            assert "ASTROMESH_MESH_KEY" in await outsider.wait_for_log("takes no messages of this one")
        assert "ASTROMESH_MESH_KEY" in await gateway.wait_for_log("was refused")
        assert sorted(await mesh.members(gateway)) == ["gateway", "inference", "worker"]
        metrics = await (await mesh.http.get(f"{gateway.url}/metrics")).text()
        assert 'astromesh_mesh_refused_messages_total{reason="invalid_api_key"}' in metrics


@pytest.mark.processes
async def test_a_signed_message_that_was_recorded_is_of_no_use(tmp_path: Path) -> None:
    async with meshed(tmp_path, ASTROMESH_MESH_KEY="key") as mesh:
        gateway = await mesh.node("gateway")
        worker = await mesh.node("worker")
        await mesh.together(gateway, worker)
        signer, data = Signer(STRANGER, lambda: [b"key"]), encode(says_hello())

        async def send(node: RunningNode, path: str, body: bytes, authorization: str) -> tuple[int, str]:
            status, told, headers = await post(mesh, node, path, body, Authorization=authorization)
            if CHALLENGE in headers:
                assert signer.take_challenge(node.url, headers[CHALLENGE])
            return status, told.get("error", {}).get("message", "")

        path = "/v1/mesh/join"
        claim = Claim("POST", path, {}, data)
        assert (await send(gateway, path, data, signer.authorization(gateway.url, claim)))[0] == 401  # the challenge
        signed = signer.authorization(gateway.url, claim)
        assert (await send(gateway, path, data, signed))[0] == 200
        for node, to, body in ((gateway, path, data), (worker, path, data), (gateway, "/v1/mesh/leave", encode(leave()))):
            assert (await send(node, to, body, signed))[0] == 401
        other = encode(says_hello(sender="e" * 16))
        signed = signer.authorization(gateway.url, Claim("POST", path, {}, other))
        assert "signed by node" in (await send(gateway, path, other, signed))[1]


def leave() -> Message:
    return Message(Header("astromesh", STRANGER, "", 1, 0, 0, 0, 1), Leave())


@pytest.mark.processes
async def test_keys_in_a_file_rotate_without_a_stop(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("old\n")
    async with meshed(tmp_path, ASTROMESH_MESH_KEY_FILE=str(key)) as mesh:
        gateway = await mesh.node("gateway")
        worker = await mesh.node("worker", WORKER)
        await mesh.together(gateway, worker)
        for keys in ("old,new", "new,old", "new"):
            key.write_text(keys)
            for node in (gateway, worker):
                await node.wait_for_log("read 2 keys anew" if "," in keys else "read 1 keys anew")
        newcomer = await mesh.node("newcomer", ASTROMESH_MESH_KEY_FILE="", ASTROMESH_MESH_KEY="new")
        await mesh.together(gateway, worker, newcomer)


@pytest.mark.processes
async def test_a_wrong_advertised_address_is_named_on_both_sides(mesh: Meshed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
    gateway = await mesh.node("gateway")
    worker = await mesh.node("worker", ASTROMESH_ADVERTISE_URL=nowhere)
    line = await gateway.wait_for_log("does not answer this node")
    assert nowhere in line
    assert "worker" in line
    line = await worker.wait_for_log("cannot reach this node at")
    assert nowhere in line
    assert "ASTROMESH_ADVERTISE_URL" in line


@pytest.mark.processes
async def test_the_mesh_may_have_a_listener_of_its_own(mesh: Meshed, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
    gateway = await mesh.node("gateway", ASTROMESH_MESH_BIND=bind)
    worker = await mesh.node("worker", WORKER)
    await mesh.until(lambda: _sees(mesh, worker, 2), "the worker finds the seed at its API's address")
    rows = {row["name"]: row["url"] for row in (await mesh.get(worker, "/v1/mesh/state"))["nodes"]}
    assert rows["gateway"] == f"http://{bind}" != gateway.url
    async with mesh.http.get(f"http://{bind}/v1/mesh/state") as response:
        assert response.status == 200


async def _sees(mesh: Meshed, node: RunningNode, count: int) -> bool:
    return list((await mesh.members(node)).values()) == ["alive"] * count


async def test_what_clients_say_in_the_nodes_headers_is_dropped_where_there_is_a_mesh_key(tmp_path: Path) -> None:
    async with meshed(tmp_path, ASTROMESH_MESH_KEY="key") as mesh:
        gateway = await mesh.node("gateway")
        async with mesh.http.get(f"{gateway.url}/v1/system/status", headers={"X-Astromesh-Forwarded": "a1"}) as response:
            assert (await response.json())["believes_caller"] is False


async def test_a_node_without_a_public_api_answers_health_metrics_and_other_nodes_alone(tmp_path: Path) -> None:
    async with meshed(tmp_path, ASTROMESH_MESH_KEY="key") as mesh:
        gateway = await mesh.node("gateway")
        hidden = await mesh.node("hidden", WORKER, api=False)
        await mesh.together(gateway, count=2)
        asked = {"tool_name": "calculator", "arguments": {"expression": "6*7"}}
        async with mesh.http.post(f"{gateway.url}/v1/tools/execute", json=asked) as response:
            assert (await response.json())["result"]["result"] == 42
            assert response.headers["X-Astromesh-Node"] == "hidden"
        for path, status in (("/livez", 200), ("/metrics", 200), ("/v1/health", 200), ("/v1/system/status", 404), ("/v1/mesh/state", 404)):
            async with mesh.http.get(hidden.url + path) as response:
                assert response.status == status, path
        async with mesh.http.post(f"{hidden.url}/v1/tools/execute", json=asked) as response:
            assert response.status == 404
            assert "spec.services.api" in (await response.json())["error"]["message"]


async def test_a_mesh_that_is_off_says_how_to_turn_it_on(tmp_path: Path) -> None:
    async with meshed(tmp_path) as mesh:
        node = await mesh.node("plain", ASTROMESH_PROFILE=str(Path(__file__).parent.parent / "config" / "profiles" / "gateway.yaml"))
        status, told, _ = await post(mesh, node, "/v1/mesh/gossip", json.dumps({"v": 1}).encode())
        assert (status, told["error"]["code"]) == (503, "service_unavailable")
        assert "ASTROMESH_MESH_ENABLED" in told["error"]["message"]
