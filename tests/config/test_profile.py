"""Each kind of mistake in a profile is an error of that kind, with its line, path, value and remedy; and the warnings."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.config.profile import ObservabilitySettings
from app.config.yaml import read
from app.errors import ConfigError
from app.tracing import TraceSettings
from tests.config.profiles import MESH, WORKER, line_of, load_text, outcome, problems_of, refused, with_spec, write


def test_a_custom_profile_loads(tmp_path: Path) -> None:
    profile = load_text(tmp_path, WORKER.replace("channels: false", "channels: true")).profile
    assert profile.name == "custom"
    assert profile.services["channels"] is True
    assert profile.file == str(tmp_path / "custom.yaml")
    assert profile.warnings == ()


@pytest.mark.parametrize(
    ("old", "new", "path", "message", "remedy"),
    [
        ("memory: true", "memroy: true", "spec.services.memroy", "`memroy` is not a service", "did you mean `memory`?"),
        ("    tools: true\n", "", "spec.services.tools", "is missing", "add `tools:`"),
        ("kind: RuntimeConfig", "kind: Agent", "kind", "is 'Agent'", "write `RuntimeConfig`"),
        ("astromesh/v1", "astromesh/v2", "apiVersion", "is 'astromesh/v2'", "write `astromesh/v1`"),
        ("agents: true", 'agents: "no"', "spec.services.agents", "is 'no', which is not true or false", "write true or false"),
        ("rag: false", "rag: false\n    rag: true", "spec.services.rag", "is given twice (first on line 14)", "keep one of the two"),
        ("port: 8000}", "port: 80000}", "spec.api.port", "is 80000", "write a port from 0 (any free one) to 65535"),
        ("port: 8000}", "port: 8000, deadline_s: 0}", "spec.api.deadline_s", "is 0", "write a number that is more than 0"),
        ("port: 8000}", "port: 8000, header_timeout_s: -1}", "spec.api.header_timeout_s", "is -1", "write a number that is more than 0"),
        ("port: 8000}", "port: 8000, max_body_bytes: 1}", "spec.api.max_body_bytes", "is 1", "write a number that is at least 1024"),
        ("port: 8000}", "port: 8000, cors_origin: []}", "spec.api.cors_origin", "`cors_origin` is not a field", "`cors_origins`?"),
        ("port: 8000}", "port: 8000, limits: {defualt: {}}}", "spec.api.limits.defualt", "`defualt` is not a field", "`default`?"),
        ("port: 8000}", "port: 8000, limits: {keys: {a: {rate: 1}}}}", "spec.api.limits.keys.a.rate", "`rate` is not a limit", ""),
        ("port: 8000}", "port: 8000, limits: {default: {burst: 2}}}", "spec.api.limits.default", "'requests_per_minute' is a dep", ""),
        ("port: 8000}", "port: 8000, limits: {default: {concurrent: 0}}}", "spec.api.limits.default.concurrent", "is 0", "at least 1"),
        ("name: custom", "name: a b", "metadata.name", "is 'a b', which does not fit", "write a name of 1 to 63 letters"),
        ("  peers:", "  pears:", "spec.pears", "`pears` is not a section of spec", "did you mean `peers`?"),
        ("[inference]", "[inferense]", "spec.peers[0].services[0]", "is 'inferense'", "did you mean `inference`?"),
        ("[inference]", "[]", "spec.peers[0].services", "is an empty list", "list what it is asked for"),
        ("[inference]", "[api]", "spec.peers[0].services[0]", "is 'api'", ""),
        ("      services: [inference]\n", "", "spec.peers[0].services", "is missing", "add `services:`"),
        ("http://inference:8000", "inference:8000", "spec.peers[0].url", "which is not an http or https URL", "write a URL like"),
        ("http://inference:8000", "http://:8000", "spec.peers[0].url", "which has no host", "write a URL like"),
        ("http://inference:8000", "http://i:8000/v1", "spec.peers[0].url", "which has more than scheme, host and port", ""),
        ("http://inference:8000", "http://i:8000?a=b", "spec.peers[0].url", "which has more than scheme, host and port", ""),
        ("http://inference:8000", "http://u:p@i:8000", "spec.peers[0].url", "is 'http://***@i:8000', which has credentials in it", ""),
        ("http://inference:8000", "http://0.0.0.0:8000", "spec.peers[0].url", "which is an address to listen on", "write a URL like"),
        ("http://inference:8000", "http://0:8000", "spec.peers[0].url", "which is an address to listen on", "write a URL like"),
        ("http://inference:8000", "http://[::]:8000", "spec.peers[0].url", "which is an address to listen on", "write a URL like"),
        ("http://inference:8000", "http://i:99999", "spec.peers[0].url", "which is not a URL", ""),
    ],
)
def test_a_mistake_names_line_path_value_and_remedy(tmp_path: Path, old: str, new: str, path: str, message: str, remedy: str) -> None:
    text = WORKER.replace(old, new, 1)
    found = [problem for problem in problems_of(tmp_path, text) if problem.path == path]
    assert len(found) == 1
    assert message in found[0].message
    assert remedy in found[0].remedy
    assert found[0].file == str(tmp_path / "custom.yaml")
    last = new.rsplit("\n", 1)[-1].strip() or {"spec.services.tools": "services:", "spec.peers[0].services": "- name"}[path]
    assert found[0].line == line_of(text, last)


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("", "is empty", None),
        ("# nothing but a comment\n", "is empty", None),
        ("- a\n- b\n", "holds a list where a mapping is wanted", 1),
        ("full", "holds the value 'full' where a mapping is wanted", 1),
        ("apiVersion: astromesh/v1\nspec: {api: [}\n", "is not YAML", 2),
        ("spec:\n\tapi: true\n", "is not YAML", 2),
        (b"metadata:\n  name: caf\xe9\n", "is not UTF-8 (byte 21)", None),
        ("a: 1\n---\nb: 2\n", "is not YAML: but found another document", 2),
        ("a: \x00", "is not YAML", None),
        ("[" * 200_000, "is nested more than 100 deep", 1),
        ("a: &a {<<: *a}", "is too large or refers to itself", 1),
        ("b: 1\na: &a [*a]", "is too large or refers to itself", 2),
        ("x" * 5000, f"holds the value '{'x' * 76}… where a mapping is wanted", 1),
    ],
)
def test_a_file_that_is_no_profile_at_all_is_told_in_one_problem(tmp_path: Path, text: str | bytes, message: str, line: int | None) -> None:
    [problem] = problems_of(tmp_path, text)
    assert message in problem.message
    assert problem.line == line
    assert problem.remedy
    assert "\n" not in str(problem)


def test_a_bomb_of_aliases_is_refused_quickly_with_the_line_where_it_goes_off(tmp_path: Path) -> None:
    text = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    [problem] = problems_of(tmp_path, text)
    assert "is too large" in problem.message
    assert problem.path
    assert problem.line == line_of(text, f"\n{problem.path}:") + 1
    merges = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
    [problem] = problems_of(tmp_path, merges)
    assert "is too large" in problem.message
    assert problem.line == line_of(merges, f"\n{problem.path}:") + 1


def test_an_unreadable_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("/proc/self/mem")
    [problem] = refused({"ASTROMESH_PROFILE": str(tmp_path / "loop.yaml")})
    assert "cannot be read: Input/output error; check the path and its permissions" in problem


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe: is not a regular file; put a file there"):
        read(tmp_path / "pipe")


def test_all_problems_of_file_and_environment_come_at_once(tmp_path: Path) -> None:
    text = WORKER.replace("memory: true", "memroy: 1").replace("port: 8000", "port: x").replace("http://inference", "ftp://inference")
    problems = problems_of(tmp_path, text, PORT="-1", DRAIN_S="soon")
    paths = [problem.path for problem in problems]
    assert paths == [
        "ASTROMESH_PORT",
        "ASTROMESH_DRAIN_S",
        "spec.api.port",
        "spec.services.memory",
        "spec.services.memroy",
        "spec.peers[0].url",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("  ? [a, b]\n  : 1", "has a key that is not text"),
        ("  mesh: {enabled: false, dead_timeout: .nan}", "'.nan': no field takes such a number"),
        ("  mesh: {enabled: false, gossip_fanout: 0x" + "f" * 6000 + "}", "no field takes such a number"),
        ("  mesh: {enabled: !!bool maybe}", "'maybe'"),
        ("  peers: []", "is given twice (first on line 16)"),
    ],
)
def test_what_cannot_be_read_hides_no_other_problem_and_is_told_once(tmp_path: Path, line: str, message: str) -> None:
    first, second = problems_of(tmp_path, WORKER.replace("memory: true", 'memory: "yes"') + line + "\n")
    assert (first.path, first.message) == ("spec.services.memory", "is 'yes', which is not true or false")
    assert message in second.message
    assert second.line == line_of(WORKER, "services: [inference]") + 1
    assert second.remedy


def test_a_wrong_field_of_the_mesh_hides_only_the_rules_that_speak_of_it(tmp_path: Path) -> None:
    mesh = {"enabled": True, "bind": 8000, "gossip_interval": -1, "failure_timeout": 40, "seeds": ["http://0.0.0.0:8000"]}
    problems = problems_of(tmp_path, with_spec(MESH, mesh=mesh))
    assert [problem.path.removeprefix("spec.mesh.") for problem in problems] == ["bind", "gossip_interval", "failure_timeout", "seeds[0]"]
    mesh = {"enabled": True, "dead_timeout": 0, "gossip_fanout": 1}
    problems = problems_of(tmp_path, with_spec(MESH, mesh=mesh))
    assert [problem.message.split(",")[0] for problem in problems] == ["is 15", "is 0"]


def test_two_peers_with_one_name_are_refused(tmp_path: Path) -> None:
    peer = {"name": "p", "url": "http://p:1", "services": ["rag"]}
    text = with_spec(WORKER, peers=[peer, {**peer, "url": "http://q:1"}])
    [problem] = problems_of(tmp_path, text)
    assert str(problem).endswith("spec.peers[1].name: is 'p', the name of spec.peers[0] too; give each peer a name of its own")
    assert problem.line == line_of(text, "http://q:1") - 1


@pytest.mark.parametrize(
    ("mesh", "path", "message"),
    [
        ({"failure_timeout": 30, "dead_timeout": 30}, "failure_timeout", "is 30, not below dead_timeout (30)"),
        ({"failure_timeout": 40, "dead_timeout": 30}, "failure_timeout", "is 40, not below dead_timeout (30)"),
        ({"failure_timeout": 11}, "failure_timeout", "is 11, too short"),
        ({"gossip_interval": 10}, "failure_timeout", "is 15, too short"),
        ({"dead_timeout": 22}, "dead_timeout", "is 22, which leaves a suspect no time to answer"),
        ({"gossip_interval": 0}, "gossip_interval", "is 0"),
        ({"heartbeat_interval": -5}, "heartbeat_interval", "is -5"),
        ({"gossip_fanout": 0}, "gossip_fanout", "is 0"),
        ({"gossip_fanout": 1.5}, "gossip_fanout", "is 1.5, which is not a whole number"),
        ({"failure_timeout": "15s"}, "failure_timeout", "is '15s', which is not a number"),
        ({"bind": "8000"}, "bind", "is '8000', which is not host:port"),
        ({"bind": "0.0.0.0:http"}, "bind", "is '0.0.0.0:http', which lacks a port from 0 to 65535"),
        ({"seeds": ["gateway:8000"]}, "seeds[0]", "is 'gateway:8000', which is not an http or https URL"),
        ({"enabled": "yes"}, "enabled", "is 'yes', which is not true or false"),
    ],
)
def test_a_mesh_that_could_not_work_is_refused(tmp_path: Path, mesh: dict[str, object], path: str, message: str) -> None:
    [problem] = problems_of(tmp_path, with_spec(MESH, mesh={"enabled": True, **mesh}))
    assert problem.path == f"spec.mesh.{path}"
    assert message in problem.message
    assert problem.remedy


def test_the_limits_of_the_mesh_timers_themselves_are_accepted(tmp_path: Path) -> None:
    mesh = load_text(tmp_path, with_spec(MESH, mesh={"enabled": True, "failure_timeout": 12, "dead_timeout": 20})).profile.mesh
    assert mesh is not None
    assert (mesh.failure_timeout, mesh.dead_timeout) == (12, 20)


@pytest.mark.parametrize(
    ("file", "environ", "bind"),
    [
        ({}, {}, "0.0.0.0:8000"),
        ({}, {"HOST": "::1", "PORT": "9000"}, "[::1]:9000"),
        ({"bind": "0.0.0.0:8000"}, {"PORT": "9000"}, "0.0.0.0:9000"),
        ({"bind": "0.0.0.0:7946"}, {"PORT": "9000"}, "0.0.0.0:7946"),
        ({"bind": "0.0.0.0:8000"}, {"PORT": "9000", "MESH_BIND": "0.0.0.0:7946"}, "0.0.0.0:7946"),
    ],
)
def test_one_port_for_mesh_and_api_is_one_listener_that_moves_as_a_whole(
    tmp_path: Path, file: dict[str, str], environ: dict[str, str], bind: str
) -> None:
    mesh = load_text(tmp_path, with_spec(MESH, mesh={"enabled": True, **file}), **environ).profile.mesh
    assert mesh is not None
    assert mesh.bind == bind


def test_a_disabled_mesh_is_no_mesh_but_is_checked(tmp_path: Path) -> None:
    profile = load_text(tmp_path, with_spec(WORKER, mesh={"enabled": False})).profile
    assert profile.mesh is None
    assert len(profile.peers) == 1
    [problem] = problems_of(tmp_path, with_spec(WORKER, mesh={"enabled": False, "gossip_fanout": 0}))
    assert problem.path == "spec.mesh.gossip_fanout"


def test_the_sections_of_services_are_checked_by_their_own_schemas(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, with_spec(WORKER, memory={"max_turn_bites": 1}, rag={"chunk_sise": 3}))
    assert [problem.path for problem in problems] == ["spec.memory.max_turn_bites", "spec.rag.chunk_sise"]
    assert problems[0].remedy == "did you mean `max_turn_bytes`?"
    assert problems[0].line is not None
    section = load_text(tmp_path, with_spec(WORKER, memory={"max_turn_bytes": 4096})).profile.section("memory")
    assert section == {"max_turn_bytes": 4096}


def test_observability_is_filled_in_and_off_with_its_service(tmp_path: Path) -> None:
    assert load_text(tmp_path, WORKER).profile.observability == ObservabilitySettings()
    given = {"content": True, "access_log": False, "traces": {"sample_ratio": 1, "max_traces": 5}}
    told = load_text(tmp_path, with_spec(WORKER, observability=given)).profile.observability
    assert (told.content, told.access_log, told.traces) == (True, False, TraceSettings(sample_ratio=1.0, max_traces=5))
    off = WORKER.replace("observability: true", "observability: false")
    assert not load_text(tmp_path, off).profile.observability.traces.enabled


@pytest.mark.parametrize(
    ("traces", "told"),
    [
        ({"sample_ratio": 1.5}, "0 is none, 1 is all"),
        ({"sample_ratio": -1}, "0 is none, 1 is all"),
        ({"max_per_second": 0}, ""),
        ({"max_traces": 0}, ""),
        ({"max_bytes": 1000}, ""),
        ({"max_spans": 1}, "did you mean"),
        ({"enabled": "maybe"}, ""),
    ],
)
def test_settings_of_traces_have_bounds(tmp_path: Path, traces: dict[str, object], told: str) -> None:
    [problem] = problems_of(tmp_path, with_spec(WORKER, observability={"traces": traces}))
    assert problem.path == f"spec.observability.traces.{next(iter(traces))}"
    assert told in problem.remedy
    assert problem.line is not None


def test_what_the_node_tells_its_services_itself_cannot_be_written_by_hand(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, with_spec(WORKER, agents={"defaults": {}}, inference={"agent_files": True}))
    assert [problem.path for problem in problems] == ["spec.agents.defaults", "spec.inference.agent_files"]


def test_a_node_without_api_needs_a_mesh_key(tmp_path: Path) -> None:
    text = WORKER.replace("api: true", "api: false")
    [problem] = problems_of(tmp_path, text)
    assert (problem.path, problem.line) == ("spec.services.api", line_of(text, "api: false"))
    assert load_text(tmp_path, text, MESH_KEY="k").settings.mesh_keys == ("k",)


def test_a_mesh_with_api_keys_needs_a_mesh_key(tmp_path: Path) -> None:
    [problem] = problems_of(tmp_path, MESH, API_KEYS="secret")
    assert problem.path == "spec.mesh.enabled"
    assert load_text(tmp_path, MESH, API_KEYS="secret", MESH_KEY="k").profile.mesh is not None


def test_agents_without_what_they_need_are_warned_about(tmp_path: Path) -> None:
    alone = WORKER.replace("tools: true", "tools: false").replace("memory: true", "memory: false")
    warnings = load_text(tmp_path, alone[: alone.index("  peers:")]).profile.warnings
    assert [warning.split(", but ")[1].split()[0] for warning in warnings] == ["inference", "tools", "memory"]
    assert load_text(tmp_path, alone.replace("[inference]", "[inference, tools, memory]")).profile.warnings == ()
    meshed = MESH.replace("tools: true", "tools: false")
    assert load_text(tmp_path, meshed).profile.warnings == ()


def test_a_mesh_beside_peers_wins_and_is_warned_about(tmp_path: Path) -> None:
    profile = load_text(tmp_path, WORKER + "  mesh: {enabled: true}\n").profile
    assert profile.peers == ()
    [warning] = profile.warnings
    assert "spec.peers has no effect while spec.mesh is enabled (inference-1)" in warning


def test_a_limit_for_a_key_that_there_is_not_is_warned_about(tmp_path: Path) -> None:
    limited = WORKER.replace("port: 8000}", "port: 8000, limits: {default: {concurrent: 9}, keys: {team-a: {}, team-b: {}}}}")
    warnings = load_text(tmp_path, limited, API_KEYS="node:sk-1,team-a:sk-2").profile.warnings
    [warning] = [each for each in warnings if "limits" in each]
    assert warning == "spec.api.limits.keys.team-b has no effect: the keys here are node, team-a."
    warnings = load_text(tmp_path, limited).profile.warnings
    assert len([each for each in warnings if "no API key is set here" in each]) == 2


def test_another_name_than_the_files_is_warned_about(tmp_path: Path) -> None:
    [warning] = load_text(tmp_path, WORKER.replace("name: custom", "name: worker")).profile.warnings
    assert "'worker' in a file named 'custom'" in warning


def test_the_last_slash_of_a_peers_url_is_dropped(tmp_path: Path) -> None:
    assert load_text(tmp_path, WORKER.replace("e:8000", "e:8000/")).profile.peers[0].url == "http://inference:8000"


YAML_PIECES = st.sampled_from(
    [
        *"-:?[]{},&*!|>'\"%@#\n ",
        "\n  ",
        "<<",
        "&a ",
        "*a",
        "!!int ",
        "!!bool ",
        "!!binary ",
        "!!set ",
        "~",
        ".nan",
        "1.5",
        "0x1f",
        "on",
        "2024-01-01",
        "é",
        *WORKER.splitlines(keepends=True),
    ]
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(YAML_PIECES, max_size=40).map("".join) | st.text() | st.binary())
@example("a: !!timestamp x\n")
@example("=: 1")
def test_no_text_makes_loading_fail_in_another_way(tmp_path: Path, text: str | bytes) -> None:
    assert outcome({"ASTROMESH_PROFILE": write(tmp_path, text)})


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["http://a:1", "a:1", "inference"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=8
)
FIELDS = [
    "enabled",
    "bind",
    "seeds",
    "failure_timeout",
    "dead_timeout",
    "host",
    "port",
    "idle_timeout_s",
    "cors_origins",
    "limits",
    "default",
    "keys",
    "burst",
    "concurrent",
    "name",
    "url",
    "services",
]
SECTIONS = ["api", "services", "peers", "mesh", "defaults", "memory", "rag"]
MAPPINGS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(SECTIONS), VALUES | MAPPINGS | st.lists(MAPPINGS, max_size=2), max_size=3))
def test_no_value_in_any_place_makes_loading_fail_in_another_way(tmp_path: Path, sections: dict[str, object]) -> None:
    assert outcome({"ASTROMESH_PROFILE": write(tmp_path, with_spec(WORKER, **sections))})
