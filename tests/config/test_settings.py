"""The environment: precedence, each variable's mistakes, secrets from files, and the choice of the profile."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config import load
from app.config.settings import ROLES, VARIABLES, parse, parse_boolean
from tests.config.profiles import SHIPPED, WORKER, load_text, outcome, refused, shipped_alone


def test_the_environment_wins_over_the_profile_and_the_profile_over_the_defaults(tmp_path: Path) -> None:
    assert load_text(tmp_path, WORKER.replace("port: 8000", "port: 8001")).profile.api.port == 8001
    api = load_text(tmp_path, WORKER, HOST="127.0.0.1", PORT="0").profile.api
    assert (api.host, api.port) == ("127.0.0.1", 0)
    assert api.max_body_bytes == 10 * 1024 * 1024
    assert load_text(tmp_path, WORKER, NODE_NAME="w-1").settings.node_name == "w-1"


CHOICES = list(itertools.product(["", "false", "0", "No", "OFF", "true", "1", "Yes", "ON"], ["", *ROLES]))


@pytest.mark.parametrize(("mesh", "role"), CHOICES)
def test_role_and_mesh_choose_the_profile(tmp_path: Path, mesh: str, role: str) -> None:
    environ = {"ASTROMESH_MESH_ENABLED": mesh, "ASTROMESH_ROLE": role, "ASTROMESH_CONFIG_DIR": shipped_alone(tmp_path)}
    on = mesh.lower() in {"true", "1", "yes", "on"}
    if on and role in {"", "full"}:
        [problem] = refused(environ)
        assert "'mesh-full', and there is none of that name" in problem
        assert problem.endswith(f"there is {', '.join(SHIPPED)}")
    else:
        assert load(environ).profile.name == ("mesh-" if on else "") + (role or "full")


def test_a_profile_is_named_by_path_or_bare_name_and_wins_over_the_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "config" / "profiles"
    folder.mkdir(parents=True)
    (folder / "custom.yaml").write_text(WORKER)
    monkeypatch.chdir(folder)
    for named in ("custom", "custom.yaml", "./custom.yaml", str(folder / "custom.yaml")):
        environ = {"ASTROMESH_CONFIG_DIR": str(tmp_path / "config"), "ASTROMESH_PROFILE": named, "ASTROMESH_ROLE": "gateway"}
        assert load(environ).profile.file == str(folder / "custom.yaml")


def test_an_unknown_profile_or_role_lists_what_there_is(tmp_path: Path) -> None:
    shipped = shipped_alone(tmp_path)
    for named in ("custom", "/nowhere/custom.yaml", str(tmp_path)):
        [problem] = refused({"ASTROMESH_PROFILE": named, "ASTROMESH_CONFIG_DIR": shipped})
        assert repr(named) in problem
        assert problem.endswith(f"there is {', '.join(SHIPPED)}")
    [problem] = refused({"ASTROMESH_ROLE": "wroker"})
    assert "is 'wroker', which is no role; write one of full, gateway, worker, inference" in problem
    [problem] = refused({"ASTROMESH_CONFIG_DIR": str(tmp_path / "none")})
    assert "nothing (No such file or directory)" in problem


def test_only_files_are_listed_as_profiles(tmp_path: Path) -> None:
    shipped = shipped_alone(tmp_path)
    (tmp_path / "config" / "profiles" / "folder.yaml").mkdir()
    (tmp_path / "config" / "profiles" / "own.yaml").write_text(WORKER)
    [problem] = refused({"ASTROMESH_PROFILE": "folder", "ASTROMESH_CONFIG_DIR": shipped})
    assert problem.endswith("mesh-worker, own, worker")
    assert problem.count("folder") == 1


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("MESH_ENABLED", "maybe", "is 'maybe', which is neither true nor false; write true or false"),
        ("PORT", "65536", "which lacks a port from 0 to 65535"),
        ("PORT", "tcp://10.0.0.1:8000", "which lacks a port from 0 to 65535"),
        ("HOST", "a b", "which is no host name or IP address; write an address like 0.0.0.0"),
        ("MESH_BIND", "0.0.0.0", "which is not host:port"),
        ("MESH_BIND", "::1:80", "which is not host:port"),
        ("NODE_NAME", "a/b", "which cannot be used as a name"),
        ("CLUSTER", "-", "which cannot be used as a name"),
        ("SEEDS", "http://a:1,http://0.0.0.0:8000", "has a seed 'http://0.0.0.0:8000' that is an address to listen on"),
        ("SEEDS", "http://me:hidden@a:1", "has a seed 'http://***@a:1' that has credentials in it"),
        ("SEEDS", "http://a:1,b:2", "has a seed 'b:2' that is not an http or https URL"),
        ("ADVERTISE_URL", "http://0.0.0.0:8000", "which is an address to listen on, which nobody can call; write what peers call"),
        ("ADVERTISE_URL", "http://[::]:8000", "which is an address to listen on, which nobody can call; write what peers call"),
        ("ADVERTISE_URL", "http://a:1/x", "which has more than scheme, host and port"),
        ("DRAIN_S", "soon", "is 'soon', which is no number"),
        ("DRAIN_S", "-1", "which is out of range; write seconds from 0 to 3600"),
        ("DRAIN_S", "nan", "which is out of range"),
        ("LOG_LEVEL", "inf", "which is none of its values; did you mean `info`?"),
        ("LOG_FORMAT", "xml", "which is none of its values"),
        ("API_KEYS", "a,b c", "has a key in place 2 whose secret is empty, or has a space"),
        ("API_KEYS", "team a:x", "has a key in place 1 whose name cannot be used"),
        ("API_KEYS", "team:", "has a key in place 1 whose secret is empty"),
        ("API_KEYS", "t:x,t:y", "has a key in place 2 whose name 't' another key has"),
        ("API_KEYS", "t:x,u:x", "has a key in place 2 ('u') whose secret another key has"),
        ("API_KEYS", "x,key-1:y", "has a key in place 2 whose name 'key-1' another key has"),
        ("API_KEYS", " , ", "is set and holds no key"),
        ("MESH_KEY", "a b", "has a key in place 1 with a space"),
    ],
)
def test_a_mistake_names_variable_value_and_remedy(variable: str, value: str, message: str) -> None:
    [problem] = refused({f"ASTROMESH_{variable}": value})
    assert problem.startswith(f"environment: ASTROMESH_{variable}: ")
    assert message in problem
    assert "; " in problem


def test_good_values_are_parsed() -> None:
    environ = {
        "ASTROMESH_SEEDS": "http://a:1/, http://b:2,http://a:1",
        "ASTROMESH_DRAIN_S": "2.5",
        "ASTROMESH_LOG_LEVEL": "DEBUG",
        "ASTROMESH_LOG_FORMAT": "json",
        "ASTROMESH_ADVERTISE_URL": "https://node.example/",
        "ASTROMESH_MESH_KEY": "new,old",
        "ASTROMESH_CLUSTER": " blue ",
        "ASTROMESH_DATA_DIR": "/somewhere",
    }
    parsed = load(environ).settings
    assert parsed.seeds == ("http://a:1", "http://b:2")
    assert (parsed.drain_s, parsed.log_level, parsed.log_format) == (2.5, "debug", "json")
    assert (parsed.advertise_url, parsed.cluster) == ("https://node.example", "blue")
    assert parsed.mesh_keys == ("new", "old")
    assert parsed.data_dir == Path("/somewhere")


def test_api_keys_have_names_and_are_never_shown() -> None:
    configuration = load({"ASTROMESH_API_KEYS": "sk-hidden-1, team-a:sk-hidden:2", "ASTROMESH_MESH_KEY": "sk-hidden-3"})
    keys = configuration.settings.api_keys
    assert [(key.name, key.secret) for key in keys] == [("key-1", "sk-hidden-1"), ("team-a", "sk-hidden:2")]
    assert "hidden" not in repr(configuration)
    assert "hidden" not in "".join(refused({"ASTROMESH_API_KEYS": "sk-hidden,sk-hidden,a b:sk-hidden,c:sk hidden"}))


@pytest.mark.parametrize("variable", ["ASTROMESH_API_KEYS", "ASTROMESH_MESH_KEY", "OPENAI_API_KEY"])
def test_every_secret_of_the_nodes_own_may_come_as_a_file(tmp_path: Path, variable: str) -> None:
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    assert load({f"{variable}_FILE": str(file)}).environ[variable] == "s3cret"
    both = refused({f"{variable}_FILE": str(file), variable: "other"})
    assert both == [f"environment: {variable}: is set, and {variable}_FILE too; set one of the two"]
    [missing] = refused({f"{variable}_FILE": str(tmp_path / "none")})
    assert "which gives no secret: No such file or directory; check the path" in missing
    file.write_bytes(b"\xff")
    assert "it is not UTF-8 text" in refused({f"{variable}_FILE": str(file)})[0]
    file.write_text("\n")
    assert "it is empty" in refused({f"{variable}_FILE": str(file)})[0]


def test_keys_in_files_reach_the_settings(tmp_path: Path) -> None:
    keys, mesh = tmp_path / "keys", tmp_path / "mesh"
    keys.write_text("a:one\nb:two\n")
    mesh.write_text("shared\r\n")
    parsed = load({"ASTROMESH_API_KEYS_FILE": str(keys), "ASTROMESH_MESH_KEY_FILE": str(mesh)}).settings
    assert [(key.name, key.secret) for key in parsed.api_keys] == [("a", "one"), ("b", "two")]
    assert (parsed.mesh_keys, parsed.mesh_key_file) == (("shared",), mesh)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "GOOGLE_CLIENT_SECRET_FILE"])
def test_file_variables_of_other_software_are_left_alone(tmp_path: Path, variable: str) -> None:
    (tmp_path / "file").write_text("text")
    for file in ("/nope", str(tmp_path / "file")):
        assert load({variable: file}).environ == {variable: file}


def test_a_file_with_another_api_key_is_read_where_that_works_and_left_alone_otherwise(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("k\n")
    environ = {"GROQ_API_KEY_FILE": str(tmp_path / "file")}
    assert load(environ).environ["GROQ_API_KEY"] == "k"
    both = load({**environ, "GROQ_API_KEY": "other"})
    assert both.environ["GROQ_API_KEY"] == "other"
    assert both.notes == ("GROQ_API_KEY_FILE is left alone: GROQ_API_KEY is set, and GROQ_API_KEY_FILE too",)
    missing = load({"GROQ_API_KEY_FILE": "/nope"})
    assert "GROQ_API_KEY" not in missing.environ
    assert "which gives no secret: No such file or directory" in missing.notes[0]


def test_an_unknown_variable_is_warned_about_with_the_nearest_name() -> None:
    assert load({"ASTROMESH_PROT": "1"}).warnings == ("ASTROMESH_PROT is not a variable of the node; did you mean `ASTROMESH_PORT`?",)


def test_what_compose_alone_reads_is_not_warned_about() -> None:
    assert load({"ASTROMESH_PUBLISH_HOST": "0.0.0.0", "ASTROMESH_PUBLISH_PORT": "9000"}).warnings == ()
    assert len(load({"ASTROMESH_PUBLISH_PROT": "9000"}).warnings) == 1


def test_empty_variables_count_as_unset() -> None:
    assert parse(dict.fromkeys(VARIABLES, "")) == parse({})


@pytest.mark.parametrize("text", ["", "y", "t", "2", "enabled", "wahr"])
def test_other_words_are_no_booleans(text: str) -> None:
    with pytest.raises(ValueError, match="neither true nor false"):
        parse_boolean(text)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)  # no environment has a NUL


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(VARIABLES), TEXT | st.sampled_from(["http://a:1", "http://[::1", "a:1", "0.0.0.0:1", "1"])))
def test_no_environment_makes_loading_fail_in_another_way(environ: dict[str, str]) -> None:
    assert outcome(environ)
