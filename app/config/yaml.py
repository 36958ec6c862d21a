"""Read YAML with a line number for every path. Duplicate keys, syntax errors and unreadable files are Problems, never tracebacks.

PyYAML's YAML 1.1 rules hold (an unquoted ``on`` is true, ``1.10`` is 1.1), but dates stay text. Checking is by JSON Schema, and each
violation names file, line, YAML path, value and remedy.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from app.config.address import FORMATS, masked
from app.errors import ConfigError, Problem

YamlPath = tuple[str | int, ...]
_MAX_NODES = 100_000
_MAX_DEPTH = 100
_UNREAD = object()
"""Stands for a value that could not be read and has its problem already."""
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML file: its plain data, the line (from 1) of every path in it, and what was wrong with it before any schema.

    Data that has ``problems`` is for ``check`` alone, which tells them too: it finds the rest of them.
    """

    file: str
    data: Any
    lines: Mapping[YamlPath, int]
    problems: tuple[Problem, ...] = ()

    def line(self, path: Iterable[str | int]) -> int | None:
        """The line of ``path``, or of the nearest thing above it that the file has."""
        at = tuple(path)
        while at and at not in self.lines:
            at = at[:-1]
        return self.lines.get(at)

    def problem(self, path: Iterable[str | int], message: str, remedy: str = "") -> Problem:
        at = tuple(path)
        return Problem(self.file, message, dotted(at), self.line(at), remedy)


def dotted(path: Iterable[str | int]) -> str:
    """A YAML path as people write it: "spec.peers[0].url"."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def read(path: Path) -> Document:
    """Read one mapping from a file. Raises ConfigError with the one reason why it cannot be read at all."""
    file = str(path)
    try:
        if not S_ISREG(path.stat().st_mode):  # opening a pipe waits for somebody to write into it
            raise ConfigError([Problem(file, "is not a regular file", remedy="put a file there, or take it away")])
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(file, f"is not UTF-8 (byte {error.start})", remedy="save it as UTF-8")]) from None
    except OSError as error:
        raise ConfigError([Problem(file, f"cannot be read: {error.strerror}", remedy="check the path and its permissions")]) from None
    return parse(text, file)


def parse(text: str, file: str) -> Document:
    """Like ``read``, for text at hand."""
    try:
        _check_depth(text, file)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise ConfigError([Problem(file, f"is not YAML: {error.problem}", line=line, remedy="mend the syntax there")]) from None
    except yaml.YAMLError as error:
        raise ConfigError([Problem(file, f"is not YAML: {' '.join(str(error).split())}", remedy="mend the syntax")]) from None
    if root is None:
        raise ConfigError([Problem(file, "is empty", remedy="start from one of the files that ship with the node")])
    if not isinstance(root, yaml.MappingNode):
        found = "a list" if isinstance(root, yaml.SequenceNode) else f"the value {_shown(root.value)}"
        raise ConfigError([Problem(file, f"holds {found} where a mapping is wanted", line=1, remedy="start with `apiVersion:`")])
    walk = _Walk(file)
    data = walk.value(root, ())
    return Document(file, data, walk.lines, tuple(walk.problems))


def check(document: Document, schema: Mapping[str, Any], at: YamlPath = ()) -> list[Problem]:
    """Every violation of a JSON Schema (2020-12) by what is ``at`` that path (which exists), in the order of the file; for the whole
    file, the document's own problems too.

    A schema's ``x-remedy`` words the remedy, ``x-name`` names the kind of a mapping's keys ("a service"); ``format`` is one of FORMATS.
    """
    value = document.data
    for part in at:
        value = value[part]
    found = Draft202012Validator(schema, format_checker=FORMATS).iter_errors(value)
    problems = [*(document.problems if not at else ()), *(problem for error in found for problem in _problems_of(document, at, error))]
    return sorted(problems, key=lambda problem: problem.line or 0)


def nearest(word: str, known: Iterable[str]) -> str:
    """The remedy for an unknown word: the nearest known one, else all of them."""
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1)
    return f"did you mean `{close[0]}`?" if close else f"there is {', '.join(options) or 'nothing'}"


def _check_depth(text: str, file: str) -> None:
    """Refuse deep nesting before libyaml composes it, for it does so by recursion in C, without a limit: deep enough is a crash."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else None
            raise ConfigError([Problem(file, f"is nested more than {_MAX_DEPTH} deep", line=line, remedy="make it flatter")])


class _Walk:
    """Builds plain data from composed nodes, noting lines and problems on the way."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[YamlPath, int] = {}
        self.problems: list[Problem] = []
        self._construct = yaml.SafeLoader("").construct_object
        self._visited = self._depth = 0

    def value(self, node: yaml.Node, path: YamlPath) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._visited += 1
        self._depth += 1
        if self._visited > _MAX_NODES or self._depth > _MAX_DEPTH:
            at = self._up_to_alias(path)
            raise ConfigError([Problem(self.file, "is too large or refers to itself", dotted(at), self.lines[at], "make it smaller")])
        value = self._plain(node, path)
        self._depth -= 1
        return value

    def _plain(self, node: yaml.Node, path: YamlPath) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _up_to_alias(self, path: YamlPath) -> YamlPath:
        """Where an alias stands that leads on to ``path``: what is under it has the lines of its anchor, which come before."""
        for length in range(1, len(path) + 1):
            if self.lines[path[:length]] < self.lines[path[: length - 1]]:
                return path[: length - 1]
        return path[:5]

    def _mapping(self, node: yaml.MappingNode, path: YamlPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                inherited = self.value(value_node, path)
                for part in inherited if isinstance(inherited, list) else [inherited]:
                    merged |= part if isinstance(part, dict) else {}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(self.file, "has a key that is not text", dotted(path), line, "write `key: value`"))
                continue
            key = key_node.value
            at = (*path, key)
            if key in result:
                self.problems.append(
                    Problem(self.file, f"is given twice (first on line {self.lines[at]})", dotted(at), line, "keep one of the two")
                )
            else:
                self.lines[at] = line
            result.setdefault(key, self.value(value_node, at))
        return merged | result

    def _scalar(self, node: yaml.Node, path: YamlPath) -> Any:
        if node.tag == "tag:yaml.org,2002:timestamp":
            return node.value
        try:
            value = self._construct(node)
            if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and value.bit_length() > 64):
                raise ValueError("no field takes such a number")
        except (yaml.YAMLError, ValueError, LookupError) as error:  # LookupError: `!!bool maybe`, `!!int ""`
            reason = getattr(error, "problem", None) or error
            self.problems.append(
                Problem(self.file, f"{_shown(node.value)}: {reason}", dotted(path), node.start_mark.line + 1, "put it in quotes")
            )
            return _UNREAD
        return value


_KINDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "nothing",
}


_LIMITS = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "less than"}


def _problems_of(document: Document, at: YamlPath, error: ValidationError) -> list[Problem]:
    return [] if error.instance is _UNREAD else _told(document, at, error)


def _told(document: Document, at: YamlPath, error: ValidationError) -> list[Problem]:
    path = (*at, *error.absolute_path)
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    remedy = schema.get("x-remedy", "")
    shown = _shown(error.instance)
    match error.validator:
        case "additionalProperties" if isinstance(error.instance, Mapping):
            known = set(schema.get("properties", {}))
            what = schema.get("x-name", "a known field")
            unknown = [key for key in error.instance if key not in known]
            return [document.problem((*path, key), f"`{key}` is not {what}", nearest(str(key), known)) for key in unknown]
        case "required" if isinstance(error.instance, Mapping):
            key = error.message.split("'")[1]
            return [document.problem((*path, key), "is missing", remedy or f"add `{key}:`")]
        case "type":
            expected: Any = error.validator_value
            wanted = expected if isinstance(expected, list) else [expected]
            kinds = " or ".join(_KINDS[kind] for kind in wanted)
            quote = "put it in quotes" if "string" in wanted and isinstance(error.instance, bool | int | float) else f"write {kinds}"
            return [document.problem(path, f"is {shown}, which is not {kinds}", remedy or quote)]
        case "enum":
            allowed: Any = error.validator_value
            options = [str(option) for option in allowed]
            return [document.problem(path, f"is {shown}", remedy or nearest(str(error.instance), options))]
        case "const":
            return [document.problem(path, f"is {shown}", remedy or f"write `{error.validator_value}`")]
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            limit = f"write a number that is {_LIMITS[error.validator]} {error.validator_value}"
            return [document.problem(path, f"is {shown}", remedy or limit)]
        case "format" if error.cause:
            return [document.problem(path, f"is {shown}, which {error.cause}", remedy)]
        case "pattern" | "format":
            return [document.problem(path, f"is {shown}, which does not fit", remedy or f"it must match {error.validator_value}")]
        case "anyOf" | "oneOf" if error.context:
            inner = min(error.context, key=lambda each: (len(each.absolute_path) == 0, str(each.validator) == "type"))
            return [document.problem(path, f"is {shown}, which does not fit", remedy)] if remedy else _problems_of(document, at, inner)
        case _:
            return [document.problem(path, f"is {shown}" if remedy else f"is {shown}: {error.message[:200]}", remedy)]


def _shown(value: Any) -> str:
    """A value as a person recognises it: text in quotes, YAML's words for the rest, cut at 80 characters."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "an empty list" if not value else "a list"
    if isinstance(value, str) and "://" in value:
        value = masked(value)
    text = {True: "true", False: "false", None: "nothing"}.get(value) if value is None or isinstance(value, bool) else repr(value)
    return text if text and len(text) <= 80 else f"{text[:77] if text else ''}…"
