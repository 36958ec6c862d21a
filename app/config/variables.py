"""``${VAR}`` in the text values of a configuration file: from the environment, or from the file that VAR_FILE names. Never shown."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.config.secret import content_of
from app.config.yaml import Document, YamlPath
from app.errors import Problem

_OF_THE_NODE = frozenset(("ASTROMESH_MESH_KEY", "ASTROMESH_API_KEYS"))
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expand(document: Document, at: YamlPath, environ: Mapping[str, str]) -> tuple[Any, list[Problem]]:
    """What stands ``at`` that path with every variable put in, and a Problem for each one that has no value."""
    value = document.data
    for part in at:
        value = value[part]
    problems: list[Problem] = []
    return _expanded(value, at, (document, environ, problems)), problems


def _expanded(value: Any, at: YamlPath, into: tuple[Document, Mapping[str, str], list[Problem]]) -> Any:
    if isinstance(value, Mapping):
        return {key: _expanded(each, (*at, key), into) for key, each in value.items()}
    if isinstance(value, list):
        return [_expanded(each, (*at, index), into) for index, each in enumerate(value)]
    if not isinstance(value, str):
        return value
    document, environ, problems = into
    for name in dict.fromkeys(_VARIABLE.findall(value)):
        found = _value(name, environ)
        if isinstance(found, tuple):
            problems.append(document.problem(at, *found))
        else:
            value = value.replace(f"${{{name}}}", found)
    return value


def _value(name: str, environ: Mapping[str, str]) -> str | tuple[str, str]:
    """The variable's value, or what is wrong and the remedy."""
    if name.removesuffix("_FILE") in _OF_THE_NODE:
        return f"names ${{{name}}}, and the node's own keys go nowhere else", "make a key for this purpose, in a variable of its own"
    if environ.get(name):
        return environ[name]
    file = environ.get(f"{name}_FILE")
    if not file:
        return f"names ${{{name}}}, which is not set", f"set {name}, or {name}_FILE to a file that holds it"
    try:
        return content_of(Path(file))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return f"names ${{{name}}}, and the file {file!r} of {name}_FILE gives nothing: {reason}", "check the path and its permissions"
