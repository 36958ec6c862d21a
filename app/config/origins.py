"""Every setting that a node would have, and where it comes from: environment, profile or default. Secrets are masked."""

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from app.config import Configuration, load
from app.config.address import masked
from app.config.secret import ENVIRONMENT
from app.config.yaml import Document, read
from app.services import SERVICES

DEFAULT = "default"
HIDDEN = "***"
_SECRET = re.compile(r"(?i)(key|secret|token|password)s?$")
_PROVIDERS = ("OLLAMA_HOST", "VLLM_BASE_URL", "TGI_BASE_URL", "OPENAI_BASE_URL", "OPENAI_API_KEY")


@dataclass(frozen=True, slots=True)
class Setting:
    """``source`` is "default", a variable of the environment, or "file:line"."""

    name: str
    value: Any
    source: str


def settings(environ: Mapping[str, str]) -> list[Setting]:
    """In the order of the reference documentation. Raises ConfigError for what no node could start with."""
    configuration = load(environ)
    origins = _Origins(configuration, environ, read(configuration.settings.profile_path))
    found = [*origins.node(), *origins.api(), *origins.services(), *origins.peers(), *origins.mesh(), *origins.sections()]
    return [Setting(each.name, _shown(each.name, each.value), each.source) for each in found]


class _Origins:
    def __init__(self, configuration: Configuration, environ: Mapping[str, str], document: Document) -> None:
        self._settings, self._profile = configuration.settings, configuration.profile
        self._environ, self._document = environ, document

    def node(self) -> Iterator[Setting]:
        chosen = self._from("ASTROMESH_PROFILE") or " and ".join(
            filter(None, map(self._from, ("ASTROMESH_ROLE", "ASTROMESH_MESH_ENABLED")))
        )
        yield Setting("profile", str(self._settings.profile_path), chosen or DEFAULT)
        for name in ("config_dir", "data_dir", "cluster", "drain_s", "log_level", "log_format"):
            value = getattr(self._settings, name)
            yield Setting(name, value if isinstance(value, float) else str(value), self._from(f"ASTROMESH_{name.upper()}") or DEFAULT)
        in_file = self._line("spec", "mesh", "node_name") if self._profile.mesh else ""
        yield Setting("node_name", self._settings.node_name, self._from("ASTROMESH_NODE_NAME") or in_file or "the host's name")
        if self._settings.advertise_url:
            yield Setting("advertise_url", self._settings.advertise_url, self._from("ASTROMESH_ADVERTISE_URL"))
        yield from self._secrets()

    def _secrets(self) -> Iterator[Setting]:
        keys = [f"{key.name}:{HIDDEN}" for key in self._settings.api_keys]
        yield Setting("api_keys", keys, self._from("ASTROMESH_API_KEYS") or DEFAULT)
        yield Setting("mesh_key", [HIDDEN] * len(self._settings.mesh_keys), self._from("ASTROMESH_MESH_KEY") or DEFAULT)
        for name in _PROVIDERS:
            if source := self._from(name):
                yield Setting(name, HIDDEN if name.endswith("KEY") else masked(self._environ[name]), source)

    def api(self) -> Iterator[Setting]:
        moved = {"host": "ASTROMESH_HOST", "port": "ASTROMESH_PORT"}
        for each in fields(self._profile.api):
            source = self._from(moved.get(each.name, "")) or self._line("spec", "api", each.name)
            yield Setting(f"spec.api.{each.name}", getattr(self._profile.api, each.name), source or DEFAULT)

    def services(self) -> Iterator[Setting]:
        for name, on in self._profile.services.items():
            yield Setting(f"spec.services.{name}", on, self._line("spec", "services", name))

    def peers(self) -> Iterator[Setting]:
        for place, peer in enumerate(self._profile.peers):
            told = f"{peer.name} at {peer.url} for {', '.join(sorted(peer.services))}"
            yield Setting(f"spec.peers[{place}]", told, self._line("spec", "peers", place))

    def mesh(self) -> Iterator[Setting]:
        if self._profile.mesh is None:
            yield Setting("spec.mesh.enabled", False, self._line("spec", "mesh", "enabled") or DEFAULT)
            return
        variables = {"node_name": "ASTROMESH_NODE_NAME", "bind": "ASTROMESH_MESH_BIND", "seeds": "ASTROMESH_SEEDS"}
        yield Setting("spec.mesh.enabled", True, self._line("spec", "mesh", "enabled"))
        for each in fields(self._profile.mesh):
            source = self._from(variables.get(each.name, "")) or self._line("spec", "mesh", each.name)
            value = getattr(self._profile.mesh, each.name)
            if each.name == "bind" and value != self._written("spec", "mesh", "bind") and not self._from("ASTROMESH_MESH_BIND"):
                source = "the address of spec.api"
            yield Setting(f"spec.mesh.{each.name}", value, source or DEFAULT)

    def sections(self) -> Iterator[Setting]:
        yield from self._leaves(("spec", "defaults"), self._profile.defaults)
        for service, entry in SERVICES.items():
            given = self._profile.sections.get(service, {})
            yield from self._leaves(("spec", service), given)
            if entry.settings:
                module, _, name = entry.settings.partition(":")
                yield from _left_out(f"spec.{service}", getattr(importlib.import_module(module), name)(), given)

    def _leaves(self, path: tuple[str, ...], value: Any) -> Iterator[Setting]:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                yield from self._leaves((*path, name), inner)
        else:
            yield Setting(".".join(path), value, self._line(*path))

    def _from(self, variable: str) -> str:
        """The variable, where the environment has it, or its _FILE; "" where it does not."""
        for name in (variable, f"{variable}_FILE"):
            if variable and self._environ.get(name, "").strip():
                return f"{ENVIRONMENT} {name}"
        return ""

    def _line(self, *path: str | int) -> str:
        """Where the profile says it; "" where it does not."""
        line = self._document.lines.get(path)
        return f"{self._settings.profile_path.name}:{line}" if line else ""

    def _written(self, *path: str) -> Any:
        value = self._document.data
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


def _left_out(path: str, defaults: Any, given: Mapping[str, Any]) -> Iterator[Setting]:
    """The settings of a section that the profile leaves out, with their defaults; what the node itself sets is none of them."""
    for each in fields(defaults):
        value = getattr(defaults, each.name)
        if is_dataclass(value):
            yield from _left_out(f"{path}.{each.name}", value, given.get(each.name, {}))
        elif each.name not in given and each.name != "agent_files":
            yield Setting(f"{path}.{each.name}", value, DEFAULT)


def _shown(name: str, value: Any) -> Any:
    """The value as JSON can carry it, without secrets."""
    if isinstance(value, str):
        return HIDDEN if value and _SECRET.search(name.rpartition(".")[2]) and HIDDEN not in value else masked(value)
    if isinstance(value, list | tuple | frozenset):
        return [_shown(name, each) if isinstance(each, str) else each for each in value]
    return value
