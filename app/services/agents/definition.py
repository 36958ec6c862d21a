"""An agent as it is sent over HTTP and kept: the same document as a file, in JSON. Who may send one need not be who runs the node, so it
names no variables of the node's environment, and what is secret in it is never shown again."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.body import parse_json
from app.config.yaml import Document, YamlPath
from app.errors import BodyTooLarge, ConfigError, InvalidAgent, InvalidJSON, Problem
from app.services.agents.agent import Agent
from app.services.agents.mask import MASK, SECRET
from app.services.agents.settings import Orchestration
from app.services.agents.spec import read_agent

MAX_BYTES = 256 * 1024
_MAX_DEPTH = 100
_BODY = "the body"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_OF_A_PROVIDER = ("endpoint", "api_key", "api_key_env")


def encode(definition: Mapping[str, Any]) -> bytes:
    """A definition as it is kept. Raises BodyTooLarge, or InvalidJSON for text that no file can hold."""
    try:
        content = json.dumps(definition, ensure_ascii=False, indent=1).encode()
    except UnicodeEncodeError as error:
        raise InvalidJSON(f"The body has half of a surrogate pair in it ({error.object[error.start]!r}); send whole characters.") from None
    if len(content) > MAX_BYTES:
        raise BodyTooLarge(f"The agent has {len(content)} bytes, over the {MAX_BYTES} of an agent that is made over HTTP; send less.")
    return content


def checked(definition: Mapping[str, Any], defaults: Orchestration) -> Agent:
    """The agent of a definition. Raises InvalidAgent with every problem in it. Blocks on what templates and schemas take."""
    try:
        return read_made(_document(definition, _BODY), defaults)
    except ConfigError as error:
        raise InvalidAgent(error.problems) from None


def stored(path: Path) -> Document:
    """The document in a file of the store. Raises ConfigError."""
    remedy = "send the agent anew by PUT, or delete it"
    try:
        value = parse_json(path.read_bytes())
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be read: {error.strerror}", remedy="check its permissions")]) from None
    except InvalidJSON as error:
        raise ConfigError([Problem(str(path), f"is broken: {error.message}", remedy=remedy)]) from None
    if not isinstance(value, Mapping):
        raise ConfigError([Problem(str(path), "holds no JSON object", remedy=remedy)])
    document = _document(value, str(path))
    metadata = value.get("metadata")
    if isinstance(metadata, Mapping) and f"{metadata.get('name')}.agent.json" != path.name:
        raise ConfigError([document.problem(("metadata", "name"), "is not the name that the file has", "give the file its agent's name")])
    return document


def read_made(document: Document, defaults: Orchestration) -> Agent:
    """The agent of a document that came over HTTP. Raises ConfigError with every problem in it."""
    found = [(path, value) for path, value in _texts(document.data)]
    problems = [*_masked(document, found), *_variables(document, found), *_expressions(document)]
    # The names are told of already: any value will do for them.
    environ = {name: "-" for _, value in found for name in _VARIABLE.findall(value)}
    try:
        agent = read_agent(document, defaults, environ)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return replace(agent, made=True, warnings=(*agent.warnings, *_provider_warning(document.data)))


def _document(value: Mapping[str, Any], file: str) -> Document:
    """Raises ConfigError for what is nested too deeply for any agent, which checking would follow by recursion."""
    level: list[Any] = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for each in level for inner in _inner(each)]
        if not level:
            return Document(file, value, {})
    raise ConfigError([Problem(file, f"is nested more than {_MAX_DEPTH} deep", remedy="make it flatter")])


def _inner(value: Any) -> list[Any]:
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [each for each in values if isinstance(each, Mapping | list)]


def _texts(value: Any, at: YamlPath = ()) -> Iterator[tuple[YamlPath, str]]:
    """Every text in a definition, with its path."""
    if isinstance(value, str):
        yield at, value
    entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, each in entries:
        yield from _texts(each, (*at, key))


def _masked(document: Document, found: list[tuple[YamlPath, str]]) -> Iterator[Problem]:
    """What an answer showed in place of a secret, sent back as if it were the secret."""
    for path, value in found:
        secret = path and (SECRET.search(str(path[-1])) or "headers" in path[-2:-1])
        if (secret and value == MASK) or (path and path[-1] == "url" and f"/{MASK}" in value):
            yield document.problem(path, f"has {MASK}, which stands for a secret in answers", "write the secret itself")


def _variables(document: Document, found: list[tuple[YamlPath, str]]) -> Iterator[Problem]:
    for path, value in found:
        of_webhook = path[:2] == ("spec", "tools") and path[3:4] in (("url",), ("headers",))
        if of_webhook and (names := _VARIABLE.findall(value)):
            message = f"names ${{{names[0]}}}, and an agent that is made over HTTP sees no variables of the node"
            yield document.problem(path, message, "write the value itself, or write the agent as a file")


def _expressions(document: Document) -> Iterator[Problem]:
    """Regular expressions that the node would carry out: a short one can hold it up for hours, and nothing stops it."""
    spec = document.data.get("spec")
    if not isinstance(spec, Mapping):
        return
    tools = spec.get("tools")
    webhooks = enumerate(tools) if isinstance(tools, list) else ()
    schemas: list[tuple[YamlPath, Any]] = [(("spec", "output_schema"), spec.get("output_schema"))]
    schemas += [
        (("spec", "tools", index, "parameters"), tool.get("parameters"))
        for index, tool in webhooks
        if isinstance(tool, Mapping) and tool.get("type") == "webhook"
    ]
    for path in (path for at, schema in schemas for path in _patterns(schema, at)):
        message = "is a regular expression, which the node carries out for no agent that is made over HTTP"
        yield document.problem(path, message, "write enum, format or maxLength instead, or write the agent as a file")


def _patterns(schema: Any, at: YamlPath) -> Iterator[YamlPath]:
    entries = schema.items() if isinstance(schema, Mapping) else enumerate(schema) if isinstance(schema, list) else ()
    for key, value in entries:
        if (key == "pattern" and isinstance(value, str)) or (key == "patternProperties" and isinstance(value, Mapping)):
            yield (*at, key)
        yield from _patterns(value, (*at, key))


def _provider_warning(definition: Mapping[str, Any]) -> Iterator[str]:
    named = {str(path[-1]) for path, _ in _texts(definition.get("spec", {}).get("model", {}), ("model",))}
    if unused := [name for name in _OF_A_PROVIDER if name in named]:
        told = "attached to no provider, for the agent was made over HTTP; write the provider into providers.yaml"
        yield f"`spec.model`: {', '.join(unused)}: {told}"
