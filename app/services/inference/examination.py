"""Look at ``providers.yaml``, and at what the environment attaches, without running a node."""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from app.config.secret import ENVIRONMENT
from app.errors import ConfigError, Examined
from app.services.inference.attachment import from_environment
from app.services.inference.providers_file import read_providers

KIND = "ProviderConfig"


def examine(paths: Sequence[Path], environ: Mapping[str, str]) -> Iterator[Examined]:
    """One Examined for each file, and one for the environment where a variable of a provider cannot be used."""
    schema = json.loads(files(__package__).joinpath("schema.json").read_bytes())["providers_file"]
    for path in paths:
        try:
            yield Examined(str(path), KIND, warnings=read_providers(path, schema, environ).warnings)
        except ConfigError as error:
            yield Examined(str(path), KIND, error.problems)
    try:
        from_environment({}, environ)
    except ConfigError as error:
        yield Examined(ENVIRONMENT, KIND, error.problems)
