"""Look at ``channels.yaml`` without running a node."""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from app.errors import ConfigError, Examined
from app.services.channels.channels_file import read_channels

KIND = "channels"


def examine(paths: Sequence[Path], environ: Mapping[str, str]) -> Iterator[Examined]:
    """One Examined for each file; ``environ`` has the variables that the files name."""
    schemas = json.loads(files(__package__).joinpath("schema.json").read_bytes())
    for path in paths:
        try:
            read_channels(path, schemas, environ)
            yield Examined(str(path), KIND)
        except ConfigError as error:
            yield Examined(str(path), KIND, error.problems)
