"""Read an agent file: check it against agent.schema.json and turn it into an Agent. What this build does not act on becomes a warning."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import TemplateSyntaxError
from jsonschema import Draft202012Validator, SchemaError

from app.config.address import check_url
from app.config.backend import backend_of, told_of
from app.config.variables import expand
from app.config.yaml import Document, check, nearest
from app.errors import ConfigError, Problem
from app.services.agents.agent import SEARCH, Agent, Tool
from app.services.agents.casting import Casting
from app.services.agents.guardrails.reading import idle_fields, read_guardrails
from app.services.agents.output import OutputSchema
from app.services.agents.patterns import PATTERNS
from app.services.agents.prompt import Prompt
from app.services.agents.recollection import Recollecting
from app.services.agents.remembering import Remembering
from app.services.agents.settings import Orchestration

_TOOL_TYPES = {"builtin": "builtin", "agent": "agent", "client": "client", "internal": "client", "webhook": "webhook", "rag": "rag"}
_AGENTS_OF_AGENTS = frozenset({"supervisor", "swarm"})
_NETWORK, _FILES = frozenset({"http_request"}), frozenset({"read_file"})
"""The builtin tools that a permission turned off takes away."""
_NOT_ACTED_ON = (
    "model.routing.health_check_interval",
    "memory.semantic.backend",
    "permissions.execution",
    "chain",
    "program",
)


def read_agent(document: Document, defaults: Orchestration, environ: Mapping[str, str] | None = None) -> Agent:
    """The agent of a file; ``environ`` has the variables that it names. Raises ConfigError with every problem in it."""
    problems = check(document, _schema())
    if problems:
        raise ConfigError(problems)
    reading = _Reading(document, environ or {})
    agent = reading.agent(defaults)
    if reading.problems:
        raise ConfigError(reading.problems)
    return agent


@cache
def _schema() -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = json.loads(files(__package__).joinpath("agent.schema.json").read_bytes())
    return loaded


class _Reading:
    """One file whose shape is right; ``problems`` collects what a schema cannot see."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.document, self.environ = document, environ
        self.spec: Mapping[str, Any] = document.data["spec"]
        self.problems: list[Problem] = []

    def agent(self, defaults: Orchestration) -> Agent:
        metadata, identity = self.document.data["metadata"], self.spec.get("identity", {})
        orchestration = defaults.filled(self.spec.get("orchestration", {}))
        casting = Casting(self.spec, orchestration.pattern)
        cast = casting.cast()
        for problem in casting.problems:
            self.problem(*problem)
        return Agent(
            name=metadata["name"],
            file=self.document.file,
            version=str(metadata.get("version", "")),
            namespace=metadata.get("namespace", "default"),
            labels={key: str(value) for key, value in metadata.get("labels", {}).items()},
            display_name=identity.get("display_name", ""),
            description=identity.get("description", ""),
            avatar=identity.get("avatar", ""),
            cast=cast,
            system=self.system(),
            pattern=orchestration.pattern,
            max_iterations=orchestration.max_iterations,
            timeout_s=orchestration.timeout_s,
            tools=tuple(self.tools(orchestration.pattern)),
            permitted=self.permitted(),
            memory=self.memory(),
            semantic=self.semantic(),
            output=self.output(),
            guardrails=tuple(read_guardrails(self.spec.get("guardrails", {}), self.problem)),
            warnings=(*self.warnings(), *casting.warnings),
            unavailable=self.unavailable(orchestration.pattern),
        )

    def system(self) -> Prompt | None:
        source = self.spec.get("prompts", {}).get("system")
        if source is None:
            return None
        try:
            return Prompt(source)
        except TemplateSyntaxError as error:
            message = f"is not a template: {error.message} (line {error.lineno} of the text)"
            self.problem(("prompts", "system"), message, "mend it there")
            return None

    def tools(self, pattern: str) -> Iterator[Tool]:
        own, seen = self.document.data["metadata"]["name"], set()
        for index, tool in enumerate(self.spec.get("tools", [])):
            if tool["name"] in seen:
                self.problem(("tools", index, "name"), f"is {tool['name']!r}, which another tool has", "give each tool a name of its own")
            seen.add(tool["name"])
            if pattern in _AGENTS_OF_AGENTS and tool["type"] == "agent" and tool["agent"] == own:
                self.problem(("tools", index, "agent"), f"is {own!r}, this very agent", "name another agent")
            if kind := _kind(tool):
                parameters = self.parameters(tool, index)
                description, target, collections = tool.get("description", ""), tool.get("agent", ""), tuple(tool.get("collections", ()))
                yield Tool(tool["name"], kind, description, parameters, target, collections, *self.webhook(tool, index))

    def webhook(self, tool: Mapping[str, Any], index: int) -> tuple[str, Mapping[str, str]]:
        """The URL and the headers of a webhook tool, with the values of the variables in them."""
        if tool["type"] != "webhook":
            return "", {}
        expanded, problems = expand(self.document, ("spec", "tools", index), self.environ)
        self.problems += problems
        if "url" not in tool:
            self.problem(("tools", index, "url"), "is missing", "write the URL that the arguments are sent to")
        elif not problems:
            try:
                check_url(expanded["url"].partition("?")[0])
            except ValueError as error:
                self.problem(("tools", index, "url"), str(error), "write one like https://example.org/hook")
        return expanded.get("url", ""), expanded.get("headers", {})

    def permitted(self) -> frozenset[str] | None:
        """The names of the tools that may be called; None for all."""
        permissions = self.spec.get("permissions", {})
        types = {tool["name"]: tool["type"] for tool in self.spec.get("tools", [])}
        allowed = set(permissions.get("allowed_actions", types))
        if permissions.get("network") is False:
            allowed -= _NETWORK | {name for name, kind in types.items() if kind == "webhook"}
        if permissions.get("filesystem") is False:
            allowed -= _FILES
        return None if allowed == set(types) else frozenset(allowed)

    def parameters(self, tool: Mapping[str, Any], index: int) -> Mapping[str, Any] | None:
        if "parameters" not in tool:
            return None
        schema = _object_schema(tool["parameters"])
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            self.problem(
                ("tools", index, "parameters"), f"is no JSON Schema: {error.message[:200]}", "write name: {type: …} for each parameter"
            )
        return schema

    def memory(self) -> Remembering | None:
        section = self.spec.get("memory", {}).get("conversational")
        return None if section is None else Remembering.read(section)

    def semantic(self) -> Recollecting | None:
        """Only beside ``conversational``: what is recollected are turns that were stored."""
        section = self.spec.get("memory", {})
        return Recollecting.read(section["semantic"]) if {"semantic", "conversational"} <= section.keys() else None

    def output(self) -> OutputSchema | None:
        if not (fields := self.spec.get("output_schema")):
            return None
        schema = _whole_object(fields)
        try:
            OutputSchema.check(schema)
        except ValueError as error:
            self.problem(("output_schema",), str(error), "write name: {type: …} for each field of the answer")
            return None
        return OutputSchema(schema)

    def unavailable(self, pattern: str) -> str:
        if pattern not in PATTERNS:
            return f"orchestration pattern `{pattern}` is not in this build; use one of {', '.join(PATTERNS)}"
        if pattern == "supervisor" and not any(tool["type"] == "agent" for tool in self.spec.get("tools", [])):
            return "a supervisor has nobody to delegate to; add tools of the type `agent`"
        return ""

    def warnings(self) -> Iterator[str]:
        """What the file says and this build does not do, each thing once."""
        for path in _NOT_ACTED_ON:
            if _has(self.spec, path):
                yield f"`spec.{path}` is not acted on by this build"
        for tool in self.spec.get("tools", []):
            if tool["type"] not in _TOOL_TYPES:
                yield f"tool `{tool['name']}`: type `{tool['type']}` is not in this build; the model is not told of it"
            elif not _kind(tool):
                yield f"tool `{tool['name']}` names no `collections` to search; the model is not told of it"
            elif "collections" in tool and _kind(tool) != "rag":
                yield f"tool `{tool['name']}`: `collections` is not acted on; only `{SEARCH}` and tools of the type `rag` search some"
        yield from self.permission_warnings()
        yield from self.memory_warnings()
        yield from idle_fields(self.spec.get("guardrails", {}))

    def memory_warnings(self) -> Iterator[str]:
        section, used = self.spec.get("memory", {}).get("conversational", {}), backend_of(self.environ)
        if section.get("backend", used) != used:
            yield f"memory backend `{section['backend']}` is not what this node uses: it keeps all conversations in {told_of(used)}"
        if self.semantic() is None and "semantic" in self.spec.get("memory", {}):
            yield "`spec.memory.semantic` is not acted on without `spec.memory.conversational`, whose turns it would find"
        if "max_tokens" in section and section.get("strategy", "sliding_window") == "sliding_window":
            yield "`spec.memory.conversational.max_tokens` is not acted on by `sliding_window`; write `strategy: token_budget` for it"

    def permission_warnings(self) -> Iterator[str]:
        permissions, names = self.spec.get("permissions", {}), [tool["name"] for tool in self.spec.get("tools", [])]
        for name in permissions.get("allowed_actions", ()):
            if name not in names:
                yield f"`spec.permissions.allowed_actions` names `{name}`, which is no tool of this agent; {nearest(name, names)}"
        for name in ("network", "filesystem"):
            if not isinstance(permissions.get(name, True), bool):
                yield f"`spec.permissions.{name}` is acted on only as true or false; what it says is not enforced by this build"

    def problem(self, path: tuple[str | int, ...], message: str, remedy: str) -> None:
        self.problems.append(self.document.problem(("spec", *path), message, remedy))


def _kind(tool: Mapping[str, Any]) -> str:
    """The type that a tool works as; "" for one that cannot be used."""
    kind = "rag" if tool["name"] == SEARCH and tool["type"] == "builtin" else _TOOL_TYPES.get(tool["type"], "")
    return "" if kind == "rag" and not tool.get("collections") else kind


def _object_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON Schema for an object, from one or from a map of name -> JSON Schema (where ``required: true`` may stand beside a type)."""
    if parameters.get("type") == "object":
        return dict(parameters)
    required = [name for name, schema in parameters.items() if isinstance(schema, Mapping) and schema.get("required") is True]
    properties = {name: _without_flag(schema) for name, schema in parameters.items()}
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def _whole_object(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON Schema for an object, from one or from a map of name -> JSON Schema: each field is there, but for those with ``required:
    false`` beside their type, and no other."""
    if fields.get("type") == "object":
        return dict(fields)
    required = [name for name, schema in fields.items() if not (isinstance(schema, Mapping) and schema.get("required") is False)]
    properties = {name: _without_flag(schema) for name, schema in fields.items()}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _without_flag(schema: Any) -> Any:
    if isinstance(schema, Mapping) and isinstance(schema.get("required"), bool):
        return {key: value for key, value in schema.items() if key != "required"}
    return schema


def _has(value: Any, path: str) -> bool:
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True
