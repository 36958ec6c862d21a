"""Read ``channels.yaml``: which channels there are, with ``${VAR}`` for what is secret. All problems of the file are reported at once."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.config.variables import expand
from app.config.yaml import Document, check, nearest, read
from app.errors import ConfigError, Problem
from app.services.channels.store import Limit

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_LONG_ENOUGH = "x" * 16
_NAME_REMEDY = "take 1 to 32 small letters, digits and -, a letter first"


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """One channel of the file. ``section`` is what its type wants to know, its variables put in. ``while_busy``: what comes while an
    answer is on its way is answered one by one (queue), or together (merge). ``failure_reply`` is sent where no answer could be had."""

    name: str
    type: str
    agent: str
    section: Mapping[str, Any]
    limit: Limit | None
    while_busy: str
    failure_reply: str


def read_channels(path: Path, schemas: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[ChannelSpec, ...]:
    """The channels of the file; none where it is not there. Raises ConfigError with every problem in it."""
    if not path.exists():
        return ()
    document = read(path)
    problems = check(document, schemas["file"])
    channels = document.data.get("channels") or {}
    found = list[ChannelSpec]()
    for name, section in channels.items() if isinstance(channels, Mapping) else ():
        if isinstance(section, Mapping):
            expanded, wrong = expand(document, ("channels", name), environ)
            wrong += _problems(document, name, section, schemas)
            if not wrong and len(expanded.get("secret", _LONG_ENOUGH)) < len(_LONG_ENOUGH):
                told = f"has fewer than {len(_LONG_ENOUGH)} characters"
                wrong.append(
                    document.problem(("channels", name, "secret"), told, "take a long random text, such as `openssl rand -hex 32` gives")
                )
            problems += wrong
            found += [] if wrong else [_spec(name, expanded)]
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or 0))
    return tuple(found)


def _problems(document: Document, name: str, section: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[Problem]:
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        yield document.problem(("channels", name), f"{name!r} cannot be a channel's name", _NAME_REMEDY)
    kind = section.get("type", name)
    if kind not in schemas["types"]:
        yield document.problem(
            ("channels", name), f"is of type {kind!r}, which there is not", f"write `type:`; {nearest(str(kind), schemas['types'])}"
        )
        return
    own = schemas["types"][kind]
    schema = {**own, "type": "object", "additionalProperties": False, "properties": {**schemas["common"], **own["properties"]}}
    yield from check(document, schema, ("channels", name))


def _spec(name: str, section: Mapping[str, Any]) -> ChannelSpec:
    limit = section.get("rate_limit")
    return ChannelSpec(
        name,
        section.get("type", name),
        section["default_agent"],
        section,
        Limit(limit["window_seconds"], limit["max_messages"]) if limit else None,
        section.get("while_busy", "queue"),
        section.get("failure_reply", ""),
    )
