"""Configuration: the environment and one profile, checked together and parsed once into frozen values."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from app.config import profile, secret, settings
from app.config.profile import Profile
from app.config.settings import Settings
from app.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that a node is told. ``environ`` is the environment with the secrets that ``X_FILE`` names read into ``X``; ``notes`` are for
    whoever looks for a mistake."""

    settings: Settings
    profile: Profile
    environ: Mapping[str, str] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for a person: nothing here stops the node, and all of it may be a mistake."""
        return (*self.settings.warnings, *self.profile.warnings)


def load(environ: Mapping[str, str]) -> Configuration:
    """Read environment and profile. Raises ConfigError with all problems of both."""
    secrets = secret.read_files(environ)
    parsed, found = settings.parse(secrets.environ)
    problems = [*secrets.problems, *found]
    try:
        loaded = profile.load(parsed.profile_path, parsed) if os.path.isfile(parsed.profile_path) else None
    except ConfigError as error:
        loaded = None
        problems += error.problems
    if problems or not loaded:
        raise ConfigError(problems)
    name = parsed.node_name or (loaded.mesh.node_name if loaded.mesh else "") or socket.gethostname()
    return Configuration(replace(parsed, node_name=name), loaded, secrets.environ, secrets.notes)
