"""The profiles that ship with the node: which services each runs, whom it asks, and that nothing about them is to be warned of."""

import re
from collections.abc import Mapping

import pytest

from app.config import Configuration, load
from app.services import SERVICE_NAMES
from tests.config.profiles import ROOT, SHIPPED

ROLES = ("full", "gateway", "worker", "inference")


def shipped(name: str) -> Configuration:
    return load({"ASTROMESH_PROFILE": name})


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_has_its_files_name_and_no_warnings(name: str) -> None:
    configuration = shipped(name)
    assert configuration.profile.name == name
    assert configuration.warnings == ()
    assert (configuration.profile.api.host, configuration.profile.api.port) == ("0.0.0.0", 8000)


def table() -> Mapping[str, Mapping[str, bool]]:
    """What the README says: by role, whether it has a service."""
    rows = re.search(r"^\| service \|.*\n(?:\|.*\n)+", (ROOT / "README.md").read_text(), re.M)
    assert rows
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows[0].splitlines()]
    named = [(service, cells) for services, *cells in body for service in services.split(", ")]
    assert len(named) == len({service for service, _ in named})
    assert {cell for _, cells in named for cell in cells} == {"yes", "\N{EN DASH}"}
    return {role: {service: cells[at] == "yes" for service, cells in named} for at, role in enumerate(head[1:])}


def test_the_table_of_the_readme_says_what_the_profiles_run_with_mesh_and_without() -> None:
    told = table()
    assert tuple(told) == ROLES
    for name in SHIPPED:
        services = shipped(name).profile.services
        assert set(services) == set(SERVICE_NAMES)
        assert services == told[name.removeprefix("mesh-")], name


def test_the_static_profiles_ask_one_another() -> None:
    [worker] = shipped("gateway").profile.peers
    assert (worker.name, worker.url, worker.services) == ("worker-1", "http://worker:8000", frozenset({"agents", "tools", "memory", "rag"}))
    [inference] = shipped("worker").profile.peers
    assert (inference.name, inference.url, inference.services) == ("inference-1", "http://inference:8000", frozenset({"inference"}))
    assert shipped("inference").profile.peers == shipped("full").profile.peers == ()


def test_the_mesh_profiles_join_at_the_gateway() -> None:
    for role in ("gateway", "worker", "inference"):
        configuration = shipped(f"mesh-{role}")
        mesh = configuration.profile.mesh
        assert mesh is not None
        assert (mesh.node_name, mesh.bind, mesh.gossip_fanout) == (role, "0.0.0.0:8000", 3)
        assert (mesh.heartbeat_interval, mesh.gossip_interval, mesh.failure_timeout, mesh.dead_timeout) == (5, 2, 15, 30)
        assert mesh.seeds == (() if role == "gateway" else ("http://gateway:8000",))
        assert configuration.settings.node_name == role
        assert configuration.profile.peers == ()


def test_full_hands_its_defaults_to_the_agents_and_lets_inference_read_agent_files() -> None:
    profile = shipped("full").profile
    assert profile.section("agents") == {"defaults": {"orchestration": {"pattern": "react", "max_iterations": 10}}}
    assert profile.section("inference") == {"agent_files": True}
    assert profile.section("memory") == {}
    assert shipped("inference").profile.section("inference") == {}
    assert shipped("worker").profile.section("agents") == {}
