"""Configuration: the environment and one profile, checked together and parsed once into frozen values."""

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from app.config import profile, secret, settings
from app.config.profile import Profile
from app.config.settings import Settings
from app.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that a node is told. ``environ`` is the environment with every ``X_FILE`` secret read into ``X``."""

    settings: Settings
    profile: Profile
    environ: Mapping[str, str] = field(repr=False)

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self.settings.warnings, *self.profile.warnings)


def load(environ: Mapping[str, str]) -> Configuration:
    """Read environment and profile. Raises ConfigError with all problems of both."""
    environ, problems = secret.read_files(environ)
    parsed, found = settings.parse(environ)
    problems += found
    try:
        loaded = profile.load(parsed.profile_path, parsed) if os.path.isfile(parsed.profile_path) else None
    except ConfigError as error:
        loaded = None
        problems += error.problems
    if loaded:
        problems += _key_problems(parsed, loaded)
    if problems or not loaded:
        raise ConfigError(problems)
    name = parsed.node_name or (loaded.mesh.node_name if loaded.mesh else "") or socket.gethostname()
    warnings = parsed.warnings if parsed.api_keys else (*parsed.warnings, _OPEN)
    return Configuration(replace(parsed, node_name=name, warnings=warnings), loaded, environ)


_OPEN = "No API key is set, so whoever reaches this node may use it; set ASTROMESH_API_KEYS before you open it to a network."


def _key_problems(parsed: Settings, loaded: Profile) -> Iterator[Problem]:
    """Keys that a profile cannot do without."""
    if parsed.mesh_keys:
        return
    if not loaded.services["api"]:
        message, remedy = "is false, so only signed calls of other nodes are answered", "set ASTROMESH_MESH_KEY, or turn api on"
        yield Problem(loaded.file, message, "spec.services.api", remedy=remedy)
    if loaded.mesh and parsed.api_keys:
        message = "is not set, while ASTROMESH_API_KEYS is and the mesh is on"
        yield Problem(secret.ENVIRONMENT, message, "ASTROMESH_MESH_KEY", remedy="set one shared key on all nodes of the mesh")
