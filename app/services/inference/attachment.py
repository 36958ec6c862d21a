"""Which providers are attached: those of ``providers.yaml``, of the environment (which wins), of agent files; or else the rules."""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.config.address import check_url, masked
from app.config.secret import is_key
from app.config.yaml import read
from app.errors import ConfigError, Problem
from app.services.inference.provider import ProviderSpec
from app.services.inference.providers_file import KEY_REMEDY, KINDS, NAME, NO_KEY, RESERVED
from app.services.inference.variants import VARIANTS

_ENVIRONMENT = {"OLLAMA_HOST": "ollama", "VLLM_BASE_URL": "vllm", "TGI_BASE_URL": "tgi", "OPENAI_BASE_URL": "openai"}
_KINDS_BY_NAME = {"ollama": "ollama", "openai": "openai_compat", "builtin": "builtin", **{kind: kind for kind in VARIANTS}, **KINDS}
_OPENAI = "https://api.openai.com/v1"
log = logging.getLogger(__name__)

BUILTIN = ProviderSpec("builtin", "builtin", models=("builtin",), origin="nothing else is attached")


def from_environment(attached: Mapping[str, ProviderSpec], environ: Mapping[str, str]) -> dict[str, ProviderSpec]:
    """``attached`` and what the environment attaches. Raises ConfigError for values that are no addresses or keys."""
    result, problems = dict(attached), list[Problem]()
    for variable, name in _ENVIRONMENT.items():
        if not (value := environ.get(variable, "").strip()):
            continue
        url = _ollama_url(value) if name == "ollama" else value
        if wrong := _url_fault(url):
            problems.append(Problem("environment", f"is {masked(value)!r}, which {wrong}", variable, remedy="write http://host:port"))
        kind, known = _KINDS_BY_NAME[name], result.get(name)
        fresh = ProviderSpec(name, kind, origin=variable)
        result[name] = replace(known if known and known.kind == kind else fresh, endpoint=url, origin=variable)
    key = environ.get("OPENAI_API_KEY", "").strip()
    if key and not is_key(key):
        problems.append(Problem("environment", NO_KEY, "OPENAI_API_KEY", remedy=KEY_REMEDY))
    if problems:
        raise ConfigError(problems)
    return _with_openai_key(result, key)


def _with_openai_key(attached: dict[str, ProviderSpec], key: str) -> dict[str, ProviderSpec]:
    known = attached.get("openai", ProviderSpec("openai", "openai_compat", _OPENAI, origin="OPENAI_API_KEY"))
    if key and not known.key_name:
        attached["openai"] = replace(known, key_name="OPENAI_API_KEY", key=key)
    return attached


def _url_fault(url: str) -> str:
    """Why a server cannot be at that address; "" where it can."""
    try:
        check_url(url)
    except ValueError as error:
        return str(error)
    return ""


def _ollama_url(value: str) -> str:
    """OLLAMA_HOST as Ollama reads it (scheme and port may be missing); a server's wildcard address is reached on loopback."""
    scheme, _, rest = value.rpartition("://")
    host, slash, path = rest.partition("/")
    if not re.search(r":\d+$", host) and not scheme:
        host += ":11434"
    return f"{scheme or 'http'}://{re.sub(r'^0[.]0[.]0[.]0(?=:|$)', '127.0.0.1', host)}{slash}{path}"


def from_agent_files(folder: Path, environ: Mapping[str, str]) -> dict[str, ProviderSpec]:
    """The providers that agent files give an endpoint or a key for, each with the models named there.

    A file that cannot be read and an endpoint that is no address are the agents service's business and are passed over.
    """
    found: dict[str, ProviderSpec] = {}
    for path in sorted(folder.glob("*.agent.yaml")):
        try:
            document = read(path)
        except ConfigError:
            continue
        for section in () if document.problems else _sections(document.data):
            if spec := _agent_spec(section, path, environ):
                _join(found, spec)
    return found


def _sections(agent: Any) -> Iterator[Mapping[str, Any]]:
    """The candidates of ``spec.model``, in its old and its new form."""
    model = _mapping(_mapping(_mapping(agent).get("spec")).get("model"))
    groups = [model.get("default"), *_mapping(model.get("roles")).values()]
    lists = [model.get("extra"), *(_mapping(group).get("candidates") for group in groups)]
    candidates = [model.get("primary"), model.get("fallback"), *(item for each in lists if isinstance(each, list) for item in each)]
    yield from (candidate for candidate in candidates if isinstance(candidate, Mapping))


def _agent_spec(section: Mapping[str, Any], path: Path, environ: Mapping[str, str]) -> ProviderSpec | None:
    name, model, key_name = (_text(section.get(field)) for field in ("provider", "model", "api_key_env"))
    name = name or _text(section.get("source"))
    endpoint = _text(section.get("endpoint")) or (_OPENAI if name == "openai" and key_name else "")
    if _url_fault(endpoint) or not NAME.fullmatch(name) or name in RESERVED or name == "onnx":
        return None
    key = (_text(section.get("api_key")) or environ.get(key_name, "")).strip()
    if key and not is_key(key):
        log.warning("%s: the key of provider %s %s; it is not attached; %s", path, name, NO_KEY, KEY_REMEDY)
        return None
    models = (model.removeprefix(name + "/"),) if model else ()
    kind = _KINDS_BY_NAME.get(name, "openai_compat")
    return ProviderSpec(name, kind, endpoint, key_name or "its agent file", key, models, origin=str(path))


def _join(found: dict[str, ProviderSpec], spec: ProviderSpec) -> None:
    known = found.setdefault(spec.name, spec)
    if known.endpoint != spec.endpoint:
        log.warning(
            "%s: provider %s has another endpoint in %s, which is used; write both into providers.yaml under names of their own",
            spec.origin,
            spec.name,
            known.origin,
        )
    else:
        found[spec.name] = replace(known, key=known.key or spec.key, models=tuple(dict.fromkeys(known.models + spec.models)))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
