"""The files around the code agree with it: versions, variables, and what the stack hands on to whom."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from app import __version__
from app.config.settings import OF_COMPOSE, VARIABLES

ROOT = Path(__file__).resolve().parent.parent
PROVIDERS = {"OLLAMA_HOST", "VLLM_BASE_URL", "TGI_BASE_URL", "OPENAI_BASE_URL", "OPENAI_API_KEY"}


def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
    return loaded


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    label = re.search(r"^ARG VERSION=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert label
    assert project["version"] == __version__ == label[1]
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_stack_names_only_variables_that_the_node_reads_and_those_known_as_its_own() -> None:
    named = set(re.findall(r"ASTROMESH_[A-Z_]+", (ROOT / "docker-compose.yaml").read_text()))
    assert named - set(VARIABLES) == OF_COMPOSE


def test_only_the_inference_node_gets_the_providers_addresses_and_keys() -> None:
    for name, service in services().items():
        held = PROVIDERS & set(service.get("environment", {}))
        assert held == (PROVIDERS if name == "inference" else set()), name


def test_every_node_of_the_stack_is_locked_down_and_only_the_gateway_is_published() -> None:
    for name in ("gateway", "worker", "inference"):
        node = services()[name]
        assert node["read_only"] is True
        assert node["cap_drop"] == ["ALL"]
        assert ("ports" in node) == (name == "gateway")
    assert services()["gateway"]["ports"] == ["${ASTROMESH_PUBLISH_HOST:-127.0.0.1}:${ASTROMESH_PUBLISH_PORT:-8000}:8000"]


def test_the_files_that_hold_ones_own_secrets_reach_no_commit_and_no_image() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {".env", "docker-compose.override.yaml", "docker-compose.override.yml"} <= set(ignored)
    for name in (".dockerignore", "tests/Dockerfile.dockerignore"):
        assert "**/.env" in (ROOT / name).read_text().splitlines(), name


def test_every_locked_package_has_hashes_and_the_tests_use_the_versions_that_ship() -> None:
    locks = {name: (ROOT / name).read_text() for name in ("requirements.lock", "requirements-all.lock", "requirements-dev.lock")}
    pins = {name: set(re.findall(r"^(\S+==\S+)", text, re.MULTILINE)) for name, text in locks.items()}
    assert pins["requirements.lock"] < pins["requirements-all.lock"] < pins["requirements-dev.lock"]
    for text in locks.values():
        blocks = re.split(r"^(?=\S+==)", text, flags=re.MULTILINE)[1:]
        assert all("--hash=sha256:" in block for block in blocks)
        assert "://" not in text, "a lock names no package index"
