"""The environment, parsed: each variable of the node once, here. An empty one counts as unset. Every problem is kept, none is raised."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from app.config.address import check_host, check_node_url, masked, parse_bind, parse_port
from app.config.secret import ENVIRONMENT, parse_keys, parse_secrets
from app.config.secret import ApiKey as ApiKey
from app.config.yaml import nearest
from app.errors import Problem

VARIABLES = (
    "ASTROMESH_PROFILE",
    "ASTROMESH_ROLE",
    "ASTROMESH_MESH_ENABLED",
    "ASTROMESH_CONFIG_DIR",
    "ASTROMESH_DATA_DIR",
    "ASTROMESH_HOST",
    "ASTROMESH_PORT",
    "ASTROMESH_MESH_BIND",
    "ASTROMESH_NODE_NAME",
    "ASTROMESH_SEEDS",
    "ASTROMESH_ADVERTISE_URL",
    "ASTROMESH_CLUSTER",
    "ASTROMESH_MESH_KEY",
    "ASTROMESH_MESH_KEY_FILE",
    "ASTROMESH_API_KEYS",
    "ASTROMESH_API_KEYS_FILE",
    "ASTROMESH_DATABASE_URL",
    "ASTROMESH_DATABASE_URL_FILE",
    "ASTROMESH_EMBEDDING_MODEL",
    "ASTROMESH_REDIS_URL",
    "ASTROMESH_REDIS_URL_FILE",
    "ASTROMESH_DRAIN_S",
    "ASTROMESH_LOG_LEVEL",
    "ASTROMESH_LOG_FORMAT",
)
OF_COMPOSE = frozenset(("ASTROMESH_PUBLISH_HOST", "ASTROMESH_PUBLISH_PORT", "ASTROMESH_LOCK"))
"""What docker-compose.yaml alone reads; exported, they reach a node that runs without Docker too, and mean nothing to it."""
OF_COMMAND = frozenset(("ASTROMESH_URL", "ASTROMESH_API_KEY", "ASTROMESH_API_KEY_FILE"))
"""What astromeshctl alone reads; whoever exports them for it may start a node in the same shell."""
ROLES = ("full", "gateway", "worker", "inference")
_HOME = Path(__file__).resolve().parents[2]
_IN_IMAGE = Path("/app") == _HOME
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_BOOLEANS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)
_NAME_REMEDY = "write 1 to 63 letters, digits and ._-, a letter or digit first"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says. None: the profile decides, or nothing was said. ``mesh_key_file`` is to be watched for a new mesh key."""

    config_dir: Path
    data_dir: Path
    profile_path: Path
    node_name: str
    host: str | None
    port: int | None
    mesh_bind: str | None
    seeds: tuple[str, ...] | None
    advertise_url: str | None
    cluster: str
    api_keys: tuple[ApiKey, ...]
    mesh_keys: tuple[str, ...] = field(repr=False)
    mesh_key_file: Path | None
    drain_s: float
    log_level: str
    log_format: Literal["text", "json"]
    warnings: tuple[str, ...]


def parse(environ: Mapping[str, str]) -> tuple[Settings, list[Problem]]:
    """The settings (the default where a variable cannot be used) and all problems. ``node_name`` is "" where the environment has none."""
    env = _Environment(environ)
    config_dir = Path(env.text("ASTROMESH_CONFIG_DIR") or _HOME / "config").absolute()
    key_file = env.text("ASTROMESH_MESH_KEY_FILE")
    settings = Settings(
        config_dir=config_dir,
        data_dir=Path(env.text("ASTROMESH_DATA_DIR") or ("/data" if _IN_IMAGE else ".data")).absolute(),
        profile_path=_profile_path(env, config_dir / "profiles"),
        node_name=env.parsed("ASTROMESH_NODE_NAME", _name, _NAME_REMEDY, ""),
        host=env.parsed("ASTROMESH_HOST", check_host, "write an address like 0.0.0.0", None),
        port=env.parsed("ASTROMESH_PORT", parse_port, "write a port from 0 (any free one) to 65535", None),
        mesh_bind=env.parsed("ASTROMESH_MESH_BIND", _bind, "write host:port, like 0.0.0.0:8000", None),
        seeds=env.parsed("ASTROMESH_SEEDS", _seeds, "write URLs like http://gateway:8000, with commas between them", None),
        advertise_url=env.parsed("ASTROMESH_ADVERTISE_URL", check_node_url, "write what peers call, like http://worker:8000", None),
        cluster=env.parsed("ASTROMESH_CLUSTER", _name, _NAME_REMEDY, "astromesh"),
        api_keys=env.keep(parse_keys("ASTROMESH_API_KEYS", env.text("ASTROMESH_API_KEYS"))),
        mesh_keys=env.keep(parse_secrets("ASTROMESH_MESH_KEY", env.text("ASTROMESH_MESH_KEY"))),
        mesh_key_file=Path(key_file).absolute() if key_file else None,
        drain_s=env.parsed("ASTROMESH_DRAIN_S", _drain_s, "write seconds from 0 to 3600", 8.0),
        log_level=env.parsed("ASTROMESH_LOG_LEVEL", _one_of("debug", "info", "warning", "error", "critical"), "", "info"),
        log_format=env.parsed("ASTROMESH_LOG_FORMAT", _log_format, "", "text"),
        warnings=tuple(_unknown(environ)),
    )
    return settings, env.problems


class _Environment:
    """The environment as its reader sees it: values stripped, empty ones unset, problems noted."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.problems: list[Problem] = []

    def text(self, variable: str) -> str:
        return self._values.get(variable, "").strip()

    def parsed(self, variable: str, parse: Callable[[str], T], remedy: str, default: T) -> T:
        """The value that ``parse`` makes of the variable; its ValueError, with an own remedy as second argument, becomes a Problem."""
        text = self.text(variable)
        try:
            return parse(text) if text else default
        except ValueError as error:
            what, *own = error.args
            self.add(variable, f"is {masked(text)!r}, which {what}", own[0] if own else remedy)
            return default

    def keep(self, found: tuple[T, list[Problem]]) -> T:
        self.problems += found[1]
        return found[0]

    def add(self, variable: str, message: str, remedy: str) -> None:
        self.problems.append(Problem(ENVIRONMENT, message, variable, remedy=remedy))


def _profile_path(env: _Environment, folder: Path) -> Path:
    """The profile's file: what ASTROMESH_PROFILE names, or else that of role and mesh. The folder itself where a problem was noted."""
    mesh = env.parsed("ASTROMESH_MESH_ENABLED", parse_boolean, "write true or false", False)
    if wanted := env.text("ASTROMESH_PROFILE"):
        variable, candidates = "ASTROMESH_PROFILE", [folder / f"{wanted}.yaml", folder / wanted]
        if "/" in wanted or wanted.endswith((".yaml", ".yml")):
            candidates.insert(0, Path(wanted).absolute())
    else:
        variable, wanted = "ASTROMESH_ROLE", env.text("ASTROMESH_ROLE") or "full"
        if wanted not in ROLES:
            remedy = f"write one of {', '.join(ROLES)}, or name a profile by ASTROMESH_PROFILE: {_listed(folder)}"
            env.add(variable, f"is {wanted!r}, which is no role", remedy)
            return folder
        wanted = f"mesh-{wanted}" if mesh else wanted
        candidates = [folder / f"{wanted}.yaml"]
    for candidate in candidates:
        if os.path.isfile(candidate):
            return candidate
    env.add(variable, f"leads to the profile {wanted!r}, and there is none of that name", f"in {folder} there is {_listed(folder)}")
    return folder


def _listed(folder: Path) -> str:
    """The names of the profiles that there are."""
    try:
        return ", ".join(sorted(file.stem for file in folder.iterdir() if file.suffix == ".yaml" and file.is_file())) or "nothing"
    except OSError as error:
        return f"nothing ({error.strerror})"


def parse_boolean(text: str) -> bool:
    """True or false in any of the accepted words, in any case; raises ValueError."""
    if text.lower() not in _BOOLEANS:
        raise ValueError("is neither true nor false")
    return _BOOLEANS[text.lower()]


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("cannot be used as a name")
    return text


def _bind(text: str) -> str:
    parse_bind(text)
    return text


def _seeds(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_seed(part.strip()) for part in text.split(",") if part.strip()))


def _seed(text: str) -> str:
    try:
        return check_node_url(text)
    except ValueError as error:
        raise ValueError(f"has a seed {masked(text)!r} that {error}") from None


def _drain_s(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError("is no number") from None
    if not 0 <= seconds <= 3600:  # false for NaN as well
        raise ValueError("is out of range")
    return seconds


def _one_of(*words: str) -> Callable[[str], str]:
    def choose(text: str) -> str:
        if text.lower() not in words:
            raise ValueError("is none of its values", nearest(text.lower(), words))
        return text.lower()

    return choose


def _log_format(text: str) -> Literal["text", "json"]:
    return "json" if _one_of("text", "json")(text) == "json" else "text"


def _unknown(environ: Mapping[str, str]) -> list[str]:
    unknown = sorted(name for name in environ if name.startswith("ASTROMESH_") and name not in OF_COMPOSE.union(OF_COMMAND, VARIABLES))
    return [f"{name} is not a variable of the node; {nearest(name, VARIABLES)}" for name in unknown]
