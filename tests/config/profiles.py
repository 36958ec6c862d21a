"""Profile texts for tests, and the problems or the profile that come of them."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from app.config import Configuration, load
from app.errors import ConfigError, Problem

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("full", "gateway", "inference", "mesh-gateway", "mesh-inference", "mesh-worker", "worker")
WORKER = """\
apiVersion: astromesh/v1
kind: RuntimeConfig
metadata:
  name: custom
spec:
  api: {host: "0.0.0.0", port: 8000}
  services:
    api: true
    agents: true
    inference: false
    memory: true
    tools: true
    channels: false
    rag: false
    observability: true
  peers:
    - name: inference-1
      url: http://inference:8000
      services: [inference]
"""
MESH = WORKER[: WORKER.index("  peers:")] + "  mesh:\n    enabled: true\n    bind: 0.0.0.0:8000\n"


def shipped_alone(folder: Path) -> str:
    """A configuration folder, inside ``folder``, that has the profiles of the node and none that somebody added to the checkout."""
    profiles = folder / "config" / "profiles"
    profiles.mkdir(parents=True)
    for name in SHIPPED:
        shutil.copy(ROOT / "config" / "profiles" / f"{name}.yaml", profiles)
    return str(folder / "config")


def load_text(folder: Path, text: str | bytes, **environ: str) -> Configuration:
    """Load ``text`` as the profile custom.yaml; keyword arguments are variables without their ASTROMESH_."""
    return load({"ASTROMESH_PROFILE": write(folder, text), **{f"ASTROMESH_{name}": value for name, value in environ.items()}})


def write(folder: Path, text: str | bytes) -> str:
    """Write custom.yaml and return its path."""
    file = folder / "custom.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return str(file)


def problems_of(folder: Path, text: str | bytes, **environ: str) -> list[Problem]:
    """The problems that refuse ``text``."""
    with pytest.raises(ConfigError) as caught:
        load_text(folder, text, **environ)
    return list(caught.value.problems)


def refused(environ: Mapping[str, str]) -> list[str]:
    """The problems of an environment, as people read them."""
    with pytest.raises(ConfigError) as caught:
        load(environ)
    return [str(problem) for problem in caught.value.problems]


def outcome(environ: Mapping[str, str]) -> Configuration | tuple[Problem, ...]:
    """The configuration, or the problems that refuse it; any other exception is the caller's."""
    try:
        return load(environ)
    except ConfigError as error:
        return error.problems


def line_of(text: str, part: str) -> int:
    """The line, from 1, on which ``part`` first stands."""
    return text[: text.index(part)].count("\n") + 1


def with_spec(text: str, **sections: object) -> str:
    """``text`` with sections of its spec replaced or added."""
    data = yaml.safe_load(text)
    data["spec"] |= sections
    return yaml.safe_dump(data, sort_keys=False)
