"""Read ``providers.yaml``: the providers, and how they are chosen. All problems of the file are reported at once."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.config.yaml import Document, check, read
from app.errors import ConfigError, Problem
from app.services.inference.breaker import BreakerPolicy
from app.services.inference.provider import ProviderSpec

KINDS = {"tgi": "hf_tgi"}
"""Other spellings of a provider's type."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
RESERVED = frozenset({"agent", "default"})
_OLLAMA_ENDPOINT = "http://localhost:11434"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProvidersFile:
    """What the file says; a file that is not there says nothing."""

    providers: tuple[ProviderSpec, ...] = ()
    fallback_enabled: bool = True
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)


def read_providers(path: Path, schema: Mapping[str, Any], environ: Mapping[str, str]) -> ProvidersFile:
    """Read the file if it is there. Raises ConfigError with every problem in it."""
    if not path.exists():
        return ProvidersFile()
    document = read(path)
    if problems := check(document, schema) or _further_problems(document):
        raise ConfigError(problems)
    spec = document.data.get("spec") or {}
    routing = spec.get("routing") or {}
    if "default_strategy" in routing:
        log.warning("%s: spec.routing.default_strategy is not acted on yet: the model's name picks the provider", path)
    breaker = routing.get("circuit_breaker") or {}
    found = (spec.get("providers") or {}).items()
    return ProvidersFile(
        tuple(_spec(name, section, path, environ) for name, section in found),
        routing.get("fallback_enabled", True),
        BreakerPolicy(breaker.get("failure_threshold", 5), breaker.get("recovery_timeout", 30.0)),
    )


def _further_problems(document: Document) -> list[Problem]:
    problems = []
    for name, section in ((document.data.get("spec") or {}).get("providers") or {}).items():
        at = ("spec", "providers", name)
        if name in RESERVED:
            problems.append(document.problem(at, f"`{name}` is a reserved name", "give the provider another name"))
        elif not NAME.fullmatch(name):
            problems.append(document.problem(at, f"`{name}` cannot stand before a `/` in a model's name", "take letters, digits and ._-"))
        if section["type"] == "onnx":
            problems.append(document.problem((*at, "type"), "onnx is not supported by this build", "serve the model by llamacpp or vllm"))
        elif "endpoint" not in section and section["type"] not in ("ollama", "builtin"):
            problems.append(document.problem((*at, "endpoint"), "is missing", "add the server's URL as `endpoint:`"))
    return problems


def _spec(name: str, section: Mapping[str, Any], path: Path, environ: Mapping[str, str]) -> ProviderSpec:
    key_name = section.get("api_key_env", "")
    if key_name and not environ.get(key_name):
        log.warning("%s: provider %s: the variable %s is not set; requests go without a key", path, name, key_name)
    kind = section["type"]
    return ProviderSpec(
        name=name,
        kind=KINDS.get(kind, kind),
        endpoint=section.get("endpoint") or (_OLLAMA_ENDPOINT if kind == "ollama" else ""),
        key_name=key_name,
        key=environ.get(key_name, ""),
        models=tuple(section.get("models") or ()),
        health_check_interval_s=section.get("health_check_interval"),
        parameters=section.get("parameters") or {},
        origin=str(path),
    )
