"""Read ``providers.yaml``: the providers, and how they are chosen. All problems of the file are reported at once."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.config.secret import is_key
from app.config.yaml import Document, check, read
from app.errors import ConfigError, Problem
from app.services.inference.breaker import BreakerPolicy
from app.services.inference.provider import ProviderSpec

KINDS = {"tgi": "hf_tgi"}
"""Other spellings of a provider's type."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
RESERVED = frozenset({"agent", "default"})
NO_KEY = "has a space, a line break or a character beyond ASCII in it, which no request can carry"
KEY_REMEDY = "write the key alone"
_NEED_ENDPOINT = ("openai_compat", *KINDS, *KINDS.values(), "vllm", "llamacpp")
_OLLAMA_ENDPOINT = "http://localhost:11434"


@dataclass(frozen=True, slots=True)
class ProvidersFile:
    """What the file says; a file that is not there says nothing."""

    providers: tuple[ProviderSpec, ...] = ()
    fallback_enabled: bool = True
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    warnings: tuple[str, ...] = ()


def read_providers(path: Path, schema: Mapping[str, Any], environ: Mapping[str, str]) -> ProvidersFile:
    """Read the file if it is there. Raises ConfigError with every problem in it."""
    if not path.exists():
        return ProvidersFile()
    document = read(path)
    if problems := [*check(document, schema), *_further_problems(document, environ)]:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or 0))
    spec = document.data.get("spec") or {}
    routing = spec.get("routing") or {}
    breaker = routing.get("circuit_breaker") or {}
    found = (spec.get("providers") or {}).items()
    return ProvidersFile(
        tuple(_spec(name, section, path, environ) for name, section in found),
        routing.get("fallback_enabled", True),
        BreakerPolicy(breaker.get("failure_threshold", 5), breaker.get("recovery_timeout", 30.0)),
        tuple(_warnings(spec, environ)),
    )


def _warnings(spec: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    if "default_strategy" in (spec.get("routing") or {}):
        yield "spec.routing.default_strategy is not acted on yet: the model's name picks the provider"
    for name, section in (spec.get("providers") or {}).items():
        if section.get("api_key_env") and not _key(section, environ):
            yield f"provider {name}: the variable {section['api_key_env']} is not set; requests go without a key"


def _further_problems(document: Document, environ: Mapping[str, str]) -> Iterator[Problem]:
    """What the schema cannot see, of a file that may be wrong in any way."""
    spec = document.data.get("spec")
    providers = spec.get("providers") if isinstance(spec, Mapping) else None
    for name, section in providers.items() if isinstance(providers, Mapping) else ():
        at = ("spec", "providers", name)
        if name in RESERVED:
            yield document.problem(at, f"`{name}` is a reserved name", "give the provider another name")
        elif not NAME.fullmatch(name):
            yield document.problem(at, f"`{name}` cannot stand before a `/` in a model's name", "take letters, digits and ._-")
        if not isinstance(section, Mapping):
            continue
        if section.get("type") == "onnx":
            yield document.problem((*at, "type"), "onnx is not supported by this build", "serve the model by llamacpp or vllm")
        elif "endpoint" not in section and section.get("type") in _NEED_ENDPOINT:
            yield document.problem((*at, "endpoint"), "is missing", "add the server's URL as `endpoint:`")
        if (key := _key(section, environ)) and not is_key(key):
            yield document.problem((*at, "api_key_env"), f"names {section['api_key_env']}, whose value {NO_KEY}", KEY_REMEDY)


def _key(section: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """The value of the variable that a provider's section names for its key; "" where there is none."""
    name = section.get("api_key_env")
    return environ.get(name, "").strip() if isinstance(name, str) else ""


def _spec(name: str, section: Mapping[str, Any], path: Path, environ: Mapping[str, str]) -> ProviderSpec:
    kind = section["type"]
    return ProviderSpec(
        name=name,
        kind=KINDS.get(kind, kind),
        endpoint=section.get("endpoint") or (_OLLAMA_ENDPOINT if kind == "ollama" else ""),
        key_name=section.get("api_key_env", ""),
        key=_key(section, environ),
        models=tuple(section.get("models") or ()),
        health_check_interval_s=section.get("health_check_interval"),
        parameters=section.get("parameters") or {},
        origin=str(path),
    )
