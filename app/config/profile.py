"""One RuntimeConfig file, checked whole and parsed into one frozen Profile; the environment's addresses, where given, win over its own."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from app.config.address import check_node_url, parse_bind
from app.config.limits import NO_LIMITS, Limits, limits, strangers
from app.config.settings import Settings
from app.config.yaml import Document, check, read
from app.errors import ConfigError, Problem
from app.services import SERVICES
from app.tracing import TraceSettings

_PACKAGE = Path(__file__).resolve().parents[1]
_FROM_NODE = {"agents": "defaults", "inference": "agent_files"}
"""What the node puts into a service's section by itself; written there by hand it is an error."""
_TIMERS = ("gossip_interval", "gossip_fanout", "failure_timeout", "dead_timeout")
_NOTHING_YET = {"type": "object", "maxProperties": 0, "x-remedy": "leave it out: this build has no such settings"}
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """``spec.api``: where the node listens, and the limits of its public edge. Sizes in bytes, times in seconds."""

    host: str = "0.0.0.0"  # noqa: S104 - a node in a container listens to its network; Compose publishes loopback only
    port: int = 8000
    max_body_bytes: int = 10 * 1024 * 1024
    max_header_bytes: int = 64 * 1024
    header_timeout_s: float = 10.0
    body_idle_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0
    max_connections: int = 10_000
    max_concurrency: int = 1_000
    deadline_s: float = 600.0
    cors_origins: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """One of ``spec.peers``: a node at a fixed URL (without a last slash), and the services that it is asked for."""

    name: str
    url: str
    services: frozenset[str]


@dataclass(frozen=True, slots=True)
class MeshSettings:
    """``spec.mesh`` of a node that is in the mesh. Times in seconds; an empty name stands for the host's, an empty bind for the API's."""

    node_name: str = ""
    bind: str = ""
    seeds: tuple[str, ...] = ()
    heartbeat_interval: float = 5.0
    gossip_interval: float = 2.0
    gossip_fanout: int = 3
    failure_timeout: float = 15.0
    dead_timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class ObservabilitySettings:
    """``spec.observability``: what the node tells of its requests. ``content``: also what was asked and answered."""

    access_log: bool = True
    content: bool = False
    traces: TraceSettings = field(default_factory=TraceSettings)


@dataclass(frozen=True, slots=True)
class Profile:
    """What a node is. ``mesh`` is None where it is off; ``peers`` is empty where it is on; ``warnings`` are sentences for a person."""

    name: str
    file: str
    api: ApiSettings
    services: Mapping[str, bool]
    peers: tuple[PeerSettings, ...]
    mesh: MeshSettings | None
    defaults: Mapping[str, Any]
    sections: Mapping[str, Mapping[str, Any]]
    warnings: tuple[str, ...]
    observability: ObservabilitySettings = field(default_factory=ObservabilitySettings)

    def section(self, service: str) -> dict[str, Any]:
        """The configuration of one service: ``spec.<service>``, and what the node adds to it by itself."""
        section = dict(self.sections.get(service, {}))
        if service == "agents" and self.defaults:
            section["defaults"] = self.defaults
        if service == "inference" and self.services["agents"]:
            section["agent_files"] = True
        return section


def load(path: Path, settings: Settings) -> Profile:
    """Read one profile. Raises ConfigError with every problem in the file, or the one reason why it cannot be read."""
    document = read(path)
    problems = check(document, _schema())
    spec = document.data.get("spec")
    if isinstance(spec, Mapping):
        problems += [*_section_problems(document, spec), *_peer_problems(document, spec), *_mesh_problems(document, spec)]
        problems += _key_problems(document, spec, settings)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or 0))
    return _profile(document, settings)


@cache
def _schema() -> Mapping[str, Any]:
    schema: Mapping[str, Any] = json.loads((_PACKAGE / "config" / "profile.schema.json").read_bytes())
    return schema


def _section_schema(service: str) -> Mapping[str, Any]:
    """The schema of ``spec.<service>`` that the service's package brings; until it does, the section has to be empty."""
    file = _PACKAGE / "services" / service / "schema.json"
    if not file.exists():
        return _NOTHING_YET
    schemas = json.loads(file.read_bytes())
    schema = {"$defs": schemas.get("$defs", {}), **schemas["configuration"]}
    schema["properties"] = {name: each for name, each in schema.get("properties", {}).items() if name != _FROM_NODE.get(service)}
    return schema


def _section_problems(document: Document, spec: Mapping[str, Any]) -> Iterator[Problem]:
    for service in SERVICES:
        if isinstance(spec.get(service), Mapping):
            yield from check(document, _section_schema(service), ("spec", service))


def _peer_problems(document: Document, spec: Mapping[str, Any]) -> Iterator[Problem]:
    """Two peers of one name: metrics, logs and the status tell peers apart by it."""
    peers = spec.get("peers")
    first: dict[str, int] = {}
    for index, peer in enumerate(peers if isinstance(peers, list) else []):
        name = peer.get("name") if isinstance(peer, Mapping) else None
        if isinstance(name, str) and first.setdefault(name, index) != index:
            message = f"is {name!r}, the name of spec.peers[{first[name]}] too"
            yield document.problem(("spec", "peers", index, "name"), message, "give each peer a name of its own")


def _mesh_problems(document: Document, spec: Mapping[str, Any]) -> Iterator[Problem]:
    """Timers with which the mesh could not keep its promises: a healthy member would be called dead, or a dead one too late.

    A rule is tried when the fields that it speaks of are right by themselves, whatever else is wrong.
    """
    section = spec.get("mesh")
    if not isinstance(section, Mapping):
        return
    at = ("spec", "mesh")
    wrong = {problem.path for problem in (*document.problems, *check(document, {**_schema(), **_schema()["$defs"]["mesh"]}, at))}
    right = {name for name in _TIMERS if f"spec.mesh.{name}" not in wrong}
    mesh = _filled(MeshSettings, {name: section[name] for name in right & section.keys()})
    exchange_s = min(2.0, mesh.failure_timeout / 6)
    if {"failure_timeout", "dead_timeout"} <= right:
        least = mesh.failure_timeout + exchange_s + 6
        if mesh.failure_timeout >= mesh.dead_timeout:
            message = f"is {mesh.failure_timeout:g}, not below dead_timeout ({mesh.dead_timeout:g})"
            remedy = "a member is suspected before it is dead: make dead_timeout the larger one"
            yield document.problem((*at, "failure_timeout"), message, remedy)
        elif mesh.dead_timeout < least:
            message = f"is {mesh.dead_timeout:g}, which leaves a suspect no time to answer"
            yield document.problem((*at, "dead_timeout"), message, f"write at least {_above(least):g}")
    least = 7 * mesh.gossip_interval / mesh.gossip_fanout + 2.5 * exchange_s + 2
    if {"failure_timeout", "gossip_interval", "gossip_fanout"} <= right and mesh.failure_timeout < least:
        message = f"is {mesh.failure_timeout:g}, too short for this gossip_interval and gossip_fanout"
        yield document.problem(
            (*at, "failure_timeout"), message, f"write at least {_above(least):g}, or gossip faster or with more members"
        )


def _above(seconds: float) -> float:
    """The next tenth of a second that is no smaller, to be told and then to be taken."""
    return math.ceil(seconds * 10) / 10


def _key_problems(document: Document, spec: Mapping[str, Any], settings: Settings) -> Iterator[Problem]:
    """Profiles that cannot do without a mesh key."""
    services, mesh = ({} if not isinstance(spec.get(name), Mapping) else spec[name] for name in ("services", "mesh"))
    if settings.mesh_keys:
        return
    if services.get("api") is False:
        message = "is false, so only signed calls of other nodes would be answered, and there is no mesh key"
        yield document.problem(("spec", "services", "api"), message, "set ASTROMESH_MESH_KEY, or turn api on")
    if mesh.get("enabled") is True and settings.api_keys:
        message = "is true while ASTROMESH_API_KEYS is set, and there is no mesh key: the other nodes could not call"
        yield document.problem(("spec", "mesh", "enabled"), message, "set ASTROMESH_MESH_KEY to one key on all nodes of the mesh")


def _profile(document: Document, settings: Settings) -> Profile:
    spec = document.data["spec"]
    api = _filled(ApiSettings, spec.get("api", {}))
    mesh = _mesh(spec["mesh"], api, settings) if spec.get("mesh", {}).get("enabled") else None
    peers = tuple(PeerSettings(each["name"], check_node_url(each["url"]), frozenset(each["services"])) for each in spec.get("peers", ()))
    profile = Profile(
        name=document.data["metadata"]["name"],
        file=document.file,
        api=replace(api, host=settings.host or api.host, port=api.port if settings.port is None else settings.port),
        services=spec["services"],
        peers=() if mesh else peers,
        mesh=mesh,
        defaults=spec.get("defaults", {}),
        sections={service: spec.get(service, {}) for service in SERVICES},
        warnings=(),
        observability=_observability(spec),
    )
    warnings = [
        *_name_warning(profile),
        *strangers(api.limits, [key.name for key in settings.api_keys]),
        *_mesh_warning(peers, mesh),
        *_reach_warnings(profile),
    ]
    return replace(profile, warnings=tuple(warnings))


def _observability(spec: Mapping[str, Any]) -> ObservabilitySettings:
    """A node whose observability is off records no traces, as nobody could ask it for them."""
    section = spec.get("observability", {})
    given = {name: section[name] for name in ("access_log", "content") if name in section}
    traces = _filled(TraceSettings, section.get("traces", {}))
    return ObservabilitySettings(**given, traces=replace(traces, enabled=traces.enabled and spec["services"]["observability"]))


def _mesh(section: Mapping[str, Any], api: ApiSettings, settings: Settings) -> MeshSettings:
    """The mesh with its ``bind`` decided: where the file has one port for mesh and API there is one listener, which moves as a whole."""
    mesh = _filled(MeshSettings, section)
    host, port = settings.host or api.host, api.port if settings.port is None else settings.port
    shared = not mesh.bind or parse_bind(mesh.bind)[1] == api.port
    own = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return replace(
        mesh,
        node_name=settings.node_name or mesh.node_name,
        bind=settings.mesh_bind or (own if shared else mesh.bind),
        seeds=tuple(dict.fromkeys(check_node_url(seed) for seed in mesh.seeds)) if settings.seeds is None else settings.seeds,
    )


def _filled(kind: type[S], section: Mapping[str, Any]) -> S:
    """A settings dataclass from a checked section; a value gets the type of its field's default (YAML has 5 for 5.0, lists for tuples)."""
    types: dict[str, Callable[[Any], Any]] = {each.name: type(each.default) for each in fields(kind)}  # type: ignore[arg-type]
    types |= {name: limits for name in types if name == "limits"}
    given = {name: types[name](value) for name, value in section.items() if name in types}
    return kind(**given)


def _name_warning(profile: Profile) -> Iterator[str]:
    if (stem := Path(profile.file).stem) not in (profile.name, "runtime"):  # runtime.yaml is what `astromeshctl init` calls any profile
        yield f"metadata.name is {profile.name!r} in a file named {stem!r}; status and logs say {profile.name!r}."


def _mesh_warning(peers: Sequence[PeerSettings], mesh: MeshSettings | None) -> Iterator[str]:
    if mesh and peers:
        named = ", ".join(peer.name for peer in peers)
        yield f"spec.peers has no effect while spec.mesh is enabled ({named}): the mesh finds the other nodes; remove one of the two."


def _reach_warnings(profile: Profile) -> Iterator[str]:
    """What agents need and nobody named here has; in a mesh it may come with any member."""
    if not profile.services["agents"] or profile.mesh:
        return
    near = {service for service, on in profile.services.items() if on}.union(*(peer.services for peer in profile.peers))
    lacks = {"inference": "no agent can answer", "tools": "they have no tools", "memory": "they remember nothing"}
    for service, outcome in lacks.items():
        if service not in near:
            yield f"agents runs here, but {service} is neither on here nor offered by a peer, so {outcome}; turn it on or add a peer."
