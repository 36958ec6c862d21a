"""Agent files: what is read from them, what is told of them, and what a broken one does to others (nothing)."""

import json
import logging
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from app.call import call
from app.context import background
from app.errors import AgentUnavailable
from app.services.agents import Agents
from app.services.agents.library import Library
from app.services.agents.remembering import Remembering
from app.services.agents.settings import Orchestration, Settings
from tests.services.agents.world import ScriptedModel, agent_file, agents, ask
from tests.support import Neighbours, node_context

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "app" / "services" / "agents"
SCHEMA = json.loads((FOLDER / "schema.json").read_bytes())
FILE_SCHEMA = json.loads((FOLDER / "agent.schema.json").read_bytes())

EVERYTHING: dict[str, Any] = {
    "identity": {"display_name": "All", "description": "Has every field.", "avatar": "a.png"},
    "model": {
        "primary": {
            "provider": "ollama",
            "model": "m",
            "endpoint": "http://x",
            "api_key_env": "K",
            "api_key": "k",
            "parameters": {"top_p": 1},
        },
        "fallback": {"model": "n"},
        "extra": [{"model": "o"}],
        "routing": {"strategy": "cost_optimized", "health_check_interval": 30},
        "roles": {"planner": {"candidates": [{"source": "ollama", "model": "p"}], "strategy": "x"}},
    },
    "prompts": {"system": "You are {{ agent.name }}.", "templates": {"greet": "Hi {{ name }}"}},
    "orchestration": {
        "pattern": "react",
        "max_iterations": 3,
        "timeout_seconds": 9,
        "role_map": {"planner": "planner"},
        "stages": ["draft"],
        "narrate": {"to": "log"},
    },
    "tools": [
        {"name": "calculator", "type": "builtin"},
        {"name": "clerk", "type": "agent", "agent": "clerk", "description": "Asks."},
        {"name": "map", "type": "client", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
        {"name": "old_map", "type": "internal"},
        {"name": "hook", "type": "webhook", "url": "http://x"},
        {"name": "docs", "type": "rag", "collections": ["c"]},
        {"name": "files", "type": "mcp_stdio"},
        {"name": "remote", "type": "mcp_http"},
    ],
    "memory": {
        "conversational": {"backend": "redis", "strategy": "sliding_window", "max_turns": 7, "max_tokens": 100, "ttl": 60},
        "semantic": {"backend": "x", "similarity_threshold": 0.5, "max_results": 3},
    },
    "guardrails": {
        "input": [{"type": "pii_detection", "action": "redact"}, {"type": "max_length", "max_chars": 5}],
        "output": [
            {"type": "cost_limit", "max_tokens_per_turn": 5},
            {"type": "content_filter", "forbidden_keywords": ["x"]},
            {"type": "topic_filter", "forbidden_topics": ["y"]},
        ],
    },
    "permissions": {"allowed_actions": ["map"], "filesystem": {}, "network": {}, "execution": {}},
    "output_schema": {"answer": {"type": "string"}},
    "chain": {},
    "program": {},
}


def library(folder: Path, defaults: Orchestration | None = None) -> Library:
    loaded = Library(folder / "config" / "agents", defaults or Orchestration())
    loaded.load()
    return loaded


def test_every_public_field_is_accepted(tmp_path: Path) -> None:
    agent_file(tmp_path, "all", **EVERYTHING)
    agent = library(tmp_path).find("all")
    assert [choice.name for choice in agent.models] == ["ollama/m", "n", "o"]
    assert agent.models[0].parameters == {"top_p": 1}
    assert (agent.max_iterations, agent.timeout_s, agent.memory, agent.unavailable) == (3, 9, Remembering(max_turns=7, ttl_s=60), "")
    assert [(tool.name, tool.type) for tool in agent.tools] == [
        ("calculator", "builtin"),
        ("clerk", "agent"),
        ("map", "client"),
        ("old_map", "client"),
        ("hook", "webhook"),
        ("docs", "rag"),
    ]


@pytest.mark.parametrize(
    "named",
    [
        *(
            "spec.model.routing.strategy",
            "spec.model.routing.health_check_interval",
            "spec.model.roles",
            "spec.prompts.templates",
            "spec.orchestration.role_map",
        ),
        *("spec.orchestration.stages", "spec.orchestration.narrate", "spec.memory.conversational.max_tokens"),
        *("spec.memory.semantic.backend", "spec.permissions.execution", "spec.chain"),
        *("spec.program", "tool `files`", "tool `remote`", "backend `redis`"),
    ],
)
def test_a_field_that_is_not_acted_on_is_named_once(tmp_path: Path, named: str, caplog: pytest.LogCaptureFixture) -> None:
    agent_file(tmp_path, "all", **EVERYTHING)
    with caplog.at_level(logging.WARNING):
        loaded = library(tmp_path)
    assert sum(named in warning for warning in loaded.agents["all"].warnings) == 1
    assert sum(named in record.getMessage() for record in caplog.records) == 1
    assert named in loaded.check()["agents.fields"].message


def test_nothing_that_is_acted_on_is_warned_of(tmp_path: Path) -> None:
    assert Library(ROOT / "config" / "agents", Orchestration()).agents == {}
    loaded = Library(ROOT / "config" / "agents", Orchestration())
    loaded.load()
    assert (loaded.agents["assistant"].warnings, loaded.broken) == ((), [])
    assert loaded.check()["agents"].status == "ok"


def test_an_agent_names_its_guardrails(tmp_path: Path) -> None:
    agent_file(tmp_path, "all", **EVERYTHING)
    expected = ["input: pii_detection", "input: max_length", "output: cost_limit", "output: content_filter", "output: topic_filter"]
    assert library(tmp_path).rows()[0]["guardrails"] == expected


@pytest.mark.parametrize(
    ("guardrail", "told"),
    [
        ({"type": "max_length"}, "without `max_chars`"),
        ({"type": "cost_limit"}, "without `max_tokens_per_turn`"),
        ({"type": "content_filter"}, "without `forbidden_keywords`"),
        ({"type": "topic_filter"}, "without `forbidden_topics`"),
        ({"type": "content_filter", "forbidden_keywords": [" ", "\u200b"]}, "names nothing to look for"),
        ({"type": "topic_filter", "forbidden_topics": [" "]}, "names nothing to look for"),
    ],
)
def test_a_guardrail_that_would_guard_nothing_is_an_error(tmp_path: Path, guardrail: dict[str, Any], told: str) -> None:
    agent_file(tmp_path, guardrails={"output": [guardrail]})
    [broken] = library(tmp_path).broken
    assert "spec.guardrails.output[0]" in str(broken.problems[0])
    assert told in str(broken.problems[0])


def test_what_a_guardrail_does_not_do_is_warned_of(tmp_path: Path) -> None:
    limit = {"type": "max_length", "max_chars": 9, "action": "redact", "forbidden_topics": ["x"]}
    agent_file(tmp_path, guardrails={"input": [limit]})
    assert library(tmp_path).find("tester").warnings == (
        "guardrail `input: max_length` does not act on `forbidden_topics`",
        "guardrail `input: max_length` does not redact; it blocks",
    )


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"orchestration": {"pattern": "supervisor"}}, "nobody to delegate to"),
    ],
)
async def test_what_this_build_lacks_makes_one_agent_unavailable(tmp_path: Path, spec: dict[str, Any], reason: str) -> None:
    agent_file(tmp_path, "fancy", **spec)
    agent_file(tmp_path, "plain")
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["Hi."]))) as app:
        with pytest.raises(AgentUnavailable, match=f"'fancy' cannot run: .*{reason}"):
            await ask(app, name="fancy")
        assert (await ask(app, name="plain"))["answer"] == "Hi."
        async with call(app, "GET", "/v1/agents") as reply:
            rows = (await reply.json())["agents"]
    assert [(row["name"], row["status"]) for row in rows] == [("fancy", "unavailable"), ("plain", "ready")]
    assert reason in rows[0]["reason"]


HEAD = "{apiVersion: astromesh/v1, kind: Agent, metadata: {name: x}, spec: "
BROKEN = {
    "not-yaml": ("spec: [", "is not YAML"),
    "empty": ("", "is empty"),
    "a-list": ("- a", "holds a list"),
    "wrong-kind": ("{apiVersion: astromesh/v1, kind: Agnet, metadata: {name: x}, spec: {}}", "write `Agent`"),
    "no-name": ("{apiVersion: astromesh/v1, kind: Agent, metadata: {}, spec: {}}", "metadata.name: is missing"),
    "bad-name": ("{apiVersion: astromesh/v1, kind: Agent, metadata: {name: Big One}, spec: {}}", "lower-case letters"),
    "unknown-field": (HEAD + "{promts: {}}}", "did you mean `prompts`?"),
    "unknown-pattern": (
        HEAD + "{orchestration: {pattern: raect}}}",
        "did you mean `react`?",
    ),
    "bad-template": (
        HEAD + "{prompts: {system: '{% if %}'}}}",
        "spec.prompts.system: is not a template",
    ),
    "agent-tool-without-agent": (
        HEAD + "{tools: [{name: t, type: agent}]}}",
        "spec.tools[0].agent: is missing",
    ),
    "twice-the-tool": (
        HEAD + "{tools: [{name: t, type: client}, {name: t, type: client}]}}",
        "another tool has",
    ),
    "no-schema": (
        HEAD + "{tools: [{name: t, type: client, parameters: {a: {type: 7}}}]}}",
        "is no JSON Schema",
    ),
    "own-messages": (
        HEAD + "{model: {primary: {model: m, parameters: {stream: true}}}}}",
        "spec.model.primary.parameters",
    ),
    "bad-endpoint": (
        HEAD + "{model: {primary: {model: m, endpoint: 'http://u:p@x:99999'}}}}",
        "spec.model.primary.endpoint: is 'http://***@x:99999', which is not a URL; write a URL such as",
    ),
    "twice-and-more": (
        HEAD + "{tools: 7}, kind: Agent}",
        "kind: is given twice",
    ),
    "role-that-nobody-plays": (
        HEAD + "{model: {roles: {planer: {candidates: [{model: m}]}}}, orchestration: {pattern: swarm, role_map: {reasoner: planner}}}}",
        "spec.orchestration.role_map.reasoner: is 'planner', which `spec.model.roles` does not have; did you mean `planer`?",
    ),
    "twice-the-stage": (
        HEAD + "{orchestration: {pattern: pipeline, stages: [a, {name: b}, a]}}}",
        "spec.orchestration.stages[2]: is 'a', which another stage has",
    ),
    "no-stage": (
        HEAD + "{orchestration: {pattern: pipeline, stages: [a b]}}}",
        "spec.orchestration.stages[0]",
    ),
    "bad-template-of-a-stage": (
        HEAD + "{orchestration: {pattern: pipeline, stages: [a]}, prompts: {templates: {stage_a: '{% if %}'}}}}",
        "spec.prompts.templates.stage_a: is not a template",
    ),
    "passes-on-to-itself": (
        HEAD + "{orchestration: {pattern: swarm}, tools: [{name: t, type: agent, agent: x}]}}",
        "spec.tools[0].agent: is 'x', this very agent; name another agent",
    ),
    "bad-time": (
        HEAD + "{orchestration: {timeout_seconds: 0}}}",
        "spec.orchestration.timeout_seconds: is 0",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_file_is_listed_with_its_errors_and_stops_nobody(tmp_path: Path, case: str) -> None:
    text, said = BROKEN[case]
    agent_file(tmp_path, "plain")
    (tmp_path / "config" / "agents" / f"{case}.agent.yaml").write_text(text)
    service = Agents({}, node_context(tmp_path))
    async with service.open():
        pass
    check = (await service.check())["agents"]
    assert (check.status, said in check.message) == ("degraded", True)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["Hi."]))) as app:
        assert (await ask(app, name="plain"))["answer"] == "Hi."
        async with call(app, "GET", "/v1/agents") as reply:
            body = await reply.json()
        [broken] = [row for row in body["agents"] if row["status"] == "broken"]
        assert body["count"] == 2
        assert (broken["file"], said in broken["errors"][0]) == (f"{case}.agent.yaml", True)
        if "/" not in broken["name"] and " " not in broken["name"]:
            with pytest.raises(AgentUnavailable, match="its file is broken"):
                await ask(app, name=broken["name"])
            async with call(app, "GET", f"/v1/agents/{broken['name']}") as reply:
                assert (await reply.json())["status"] == "broken"
    assert service.facts().keys == frozenset({"plain"})


def test_a_file_that_is_not_text_or_cannot_be_read_is_broken(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "agents"
    folder.mkdir(parents=True)
    (folder / "latin.agent.yaml").write_bytes(b"name: \xff")
    (folder / "folder.agent.yaml").mkdir()
    os.mkfifo(folder / "pipe.agent.yaml")
    rows = library(tmp_path).rows()
    assert [(row["name"], row["status"]) for row in rows] == [("folder", "broken"), ("latin", "broken"), ("pipe", "broken")]
    assert "is not a regular file; put a file there" in rows[2]["errors"][0]


def test_the_second_of_two_files_with_one_name_is_broken(tmp_path: Path) -> None:
    first = agent_file(tmp_path, "same")
    (first.parent / "zweite.agent.yaml").write_text(first.read_text())
    loaded = library(tmp_path)
    [broken] = loaded.broken
    assert (broken.name, list(loaded.agents)) == ("zweite", ["same"])
    assert f"'same' is the name in {first} already" in str(broken.problems[0])
    assert broken.problems[0].line is not None


def test_a_missing_folder_has_no_agents(tmp_path: Path) -> None:
    assert library(tmp_path).rows() == []


def test_the_profiles_defaults_fill_in_what_a_file_leaves_out(tmp_path: Path) -> None:
    agent_file(tmp_path, "own", orchestration={"max_iterations": 2})
    agent_file(tmp_path, "none")
    loaded = library(tmp_path, Orchestration().filled({"max_iterations": 7, "timeout": 12}))
    shown = {name: (agent.max_iterations, agent.timeout_s) for name, agent in loaded.agents.items()}
    assert shown == {"own": (2, 12), "none": (7, 12)}


async def test_a_service_takes_its_settings_and_the_profiles_defaults(tmp_path: Path) -> None:
    agent_file(tmp_path, "plain")
    config = {"max_depth": 1, "defaults": {"orchestration": {"pattern": "react", "max_iterations": 4}}}
    async with agents(tmp_path, Neighbours(), config) as app, call(app, "GET", "/v1/agents/plain", context=background()) as reply:
        detail = await reply.json()
    assert detail["orchestration"] == {"pattern": "react", "max_iterations": 4, "timeout_seconds": 300.0}
    assert (detail["model"], detail["display_name"], detail["memory"]) == ("default", "plain", None)


def test_react_asks_for_the_reasoner_before_the_default(tmp_path: Path) -> None:
    role = {"candidates": [{"source": "ollama", "model": "r"}]}
    agent_file(tmp_path, model={"default": {"candidates": [{"model": "d"}]}, "roles": {"reasoner": role}})
    agent = library(tmp_path).find("tester")
    assert ([choice.name for choice in agent.models], agent.warnings) == (["ollama/r"], ())


def test_schema_settings_and_documentation_agree() -> None:
    names = {field.name for field in fields(Settings)}
    documented = (ROOT / "docs" / "agents.md").read_text()
    assert set(SCHEMA["configuration"]["properties"]) == names
    assert [name for name in names if f"`{name}`" not in documented] == []
    for schema in (FILE_SCHEMA, SCHEMA["configuration"], *SCHEMA["requests"].values()):
        Draft202012Validator.check_schema(schema)


def test_what_a_profile_may_set_as_default_an_agent_file_may_set_too() -> None:
    profile = json.loads((ROOT / "app" / "config" / "profile.schema.json").read_bytes())
    defaults = profile["$defs"]["defaults"]["properties"]["orchestration"]["properties"]
    own = FILE_SCHEMA["properties"]["spec"]["properties"]["orchestration"]["properties"]
    assert set(defaults) <= set(own)
    assert [name for name in ("pattern", "max_iterations") if defaults[name] != own[name]] == []


def test_every_field_of_an_agent_file_is_documented() -> None:
    documented = (ROOT / "docs" / "agents.md").read_text()
    assert [
        name for name in sorted(_names(FILE_SCHEMA)) if not {f"`{name}`", f"`spec.{name}`"} & set(re.findall("`[^`\n]+`", documented))
    ] == []


def _names(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return {name for item in schema for name in _names(item)}
    if not isinstance(schema, dict):
        return set()
    own = set(schema["properties"]) if isinstance(schema.get("properties"), dict) else set()
    return own | {name for value in schema.values() for name in _names(value)}


def test_the_example_in_the_documentation_loads_without_a_warning(tmp_path: Path) -> None:
    documented = (ROOT / "docs" / "agents.md").read_text()
    example = documented.split("```yaml\n")[1].split("```")[0]
    agent_file(tmp_path, "placeholder").write_text(example)
    name = yaml.safe_load(example)["metadata"]["name"]
    agent = library(tmp_path).find(name)
    assert (agent.warnings, agent.unavailable) == ((), "")
