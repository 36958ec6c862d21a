"""`config`: all mistakes of all files at once, and where each value comes from."""

from pathlib import Path

import pytest

from tests.cli.command import Done, ctl
from tests.config.profiles import WORKER
from tests.nodes import ROOT


def folder(at: Path) -> Path:
    """A configuration folder with a mistake in each kind of file."""
    (at / "profiles").mkdir(parents=True)
    (at / "agents").mkdir()
    (at / "rag").mkdir()
    (at / "profiles" / "custom.yaml").write_text(WORKER.replace("memory: true", "memroy: true"))
    (at / "profiles" / "fine.yaml").write_text(WORKER.replace("name: custom", "name: fine"))
    agent = (ROOT / "config/agents/assistant.agent.yaml").read_text()
    (at / "agents" / "a.agent.yaml").write_text(agent)
    (at / "agents" / "b.agent.yaml").write_text(agent)
    (at / "agents" / "c.agent.yaml").write_text("kind: Agent\nspec: {tols: []}\n")
    (at / "agents" / "d.agent.yaml").write_text(agent.replace("name: assistant", "name: d") + "  output_schema: {a: {type: string}}\n")
    (at / "providers.yaml").write_text("kind: ProviderConfig\nspec: {providers: {x: {type: onnx}, y: {type: ollama, endpoint: nope}}}\n")
    (at / "channels.yaml").write_text("channels: {whatsapp: {}}\n")
    (at / "rag" / "r.rag.yaml").write_text("kind: RAGPipeline\nspec: {chunking: {overlap: 1000}, retreival: {}}\n")
    return at


async def validate(at: Path, *arguments: str, **environ: str) -> Done:
    return await ctl("config", "validate", *arguments, ASTROMESH_CONFIG_DIR=str(at), ASTROMESH_PROFILE="custom", **environ)


async def test_all_mistakes_of_all_files_are_told_at_once_with_78(tmp_path: Path) -> None:
    done = await validate(folder(tmp_path), ASTROMESH_PORT="80x", VLLM_BASE_URL="nowhere")
    assert done.code == 78
    told = [line for line in done.err.splitlines() if line.startswith("error: ")]
    for part in (
        "environment: ASTROMESH_PORT: is '80x'",
        "environment: VLLM_BASE_URL: is 'nowhere'",
        "custom.yaml:11: spec.services.memroy: `memroy` is not a service; did you mean `memory`?",
        "b.agent.yaml:6: metadata.name: 'assistant' is the name in",
        "c.agent.yaml:2: spec.tols: `tols` is not a known field; did you mean `tools`?",
        "spec.providers.x.type: onnx is not supported",
        "spec.providers.y.endpoint: is 'nope'",
        "r.rag.yaml:2: spec.retreival: `retreival` is not a known field; did you mean `retrieval`?",
    ):
        assert [line for line in told if part in line], (part, done.err)
    assert "config/profiles" not in done.err
    assert all(len(line) <= 80 for line in done.out.splitlines())


async def test_each_file_has_a_row_for_programs(tmp_path: Path) -> None:
    done = await validate(folder(tmp_path), "--json")
    assert (done.code, done.json["valid"]) == (78, False)
    rows = {Path(each["file"]).name: each for each in done.json["files"]}
    status = {name: row["status"] for name, row in rows.items()}
    assert status.pop("d.agent.yaml") in ("ok", "warning")  # it depends on what this build does with output_schema
    assert status == {
        "environment": "ok", "custom.yaml": "error", "fine.yaml": "ok", "a.agent.yaml": "ok", "b.agent.yaml": "error",
        "c.agent.yaml": "error", "providers.yaml": "error", "channels.yaml": "error", "r.rag.yaml": "error",
    }  # fmt: skip
    [problem] = [each for each in rows["custom.yaml"]["problems"] if "memroy" in each["path"]]
    assert (problem["line"], problem["remedy"]) == (11, "did you mean `memory`?")


@pytest.mark.processes
async def test_files_are_checked_by_what_they_say_they_are(tmp_path: Path) -> None:
    at = folder(tmp_path / "all")
    assert (await ctl("config", "validate", str(at / "profiles/fine.yaml"), str(at / "agents/a.agent.yaml"))).code == 0
    assert (await ctl("config", "validate", str(at / "agents/c.agent.yaml"))).code == 78
    odd = tmp_path / "odd.yaml"
    for text, told in (("kind: Agnet\n", "did you mean `Agent`?"), ("a: 1\n", "no kind of configuration file"), ("a: [\n", "is not YAML")):
        odd.write_text(text)
        done = await ctl("config", "validate", str(odd))
        assert (done.code, told in done.err) == (78, True), done
    for missing in (tmp_path / "none.yaml", tmp_path / "all" / "rag" / "none"):
        assert "No such file or directory" in (await ctl("config", "validate", str(missing))).err
    (tmp_path / "empty").mkdir()
    assert "holds no configuration" in (await ctl("config", "validate", str(tmp_path / "empty"))).err


async def test_what_ships_is_valid() -> None:
    done = await ctl("config", "validate")
    assert done.code == 0, done.err
    assert "0 errors, 0 warnings" in done.out


async def test_every_value_says_where_it_comes_from_and_secrets_are_masked(tmp_path: Path) -> None:
    file = tmp_path / "custom.yaml"
    file.write_text(WORKER + "  tools: {execute_timeout_s: 5}\n")
    (tmp_path / "mesh-key").write_text("m-s3cret")
    environ = {
        "ASTROMESH_PROFILE": str(file), "ASTROMESH_PORT": "8123", "ASTROMESH_API_KEYS": "ada:s3cret,s3cret-2", "OPENAI_API_KEY": "s3cret-3",
        "ASTROMESH_MESH_KEY_FILE": str(tmp_path / "mesh-key"), "OLLAMA_HOST": "http://me:s3cret-4@ollama:1",
    }  # fmt: skip
    done = await ctl("config", "print", "--json", **environ)
    assert "s3cret" not in done.out
    found = {each["name"]: (each["value"], each["source"]) for each in done.json["settings"]}
    assert found["profile"] == (str(file), "environment ASTROMESH_PROFILE")
    assert found["spec.api.port"] == (8123, "environment ASTROMESH_PORT")
    assert found["spec.api.host"] == ("0.0.0.0", "custom.yaml:6")
    assert found["spec.api.deadline_s"] == (600.0, "default")
    assert found["spec.services.memory"] == (True, "custom.yaml:11")
    assert found["spec.peers[0]"] == ("inference-1 at http://inference:8000 for inference", "custom.yaml:17")
    assert found["spec.tools.execute_timeout_s"] == (5, "custom.yaml:20")
    assert found["spec.tools.max_result_bytes"] == (262144, "default")
    assert found["spec.observability.traces.sample_ratio"] == (1.0, "default")
    assert found["api_keys"] == (["ada:***", "key-2:***"], "environment ASTROMESH_API_KEYS")
    assert found["mesh_key"] == (["***"], "environment ASTROMESH_MESH_KEY_FILE")
    assert found["OPENAI_API_KEY"] == ("***", "environment OPENAI_API_KEY")
    assert found["OLLAMA_HOST"] == ("http://***@ollama:1", "environment OLLAMA_HOST")
    shown = await ctl("config", "print", **environ)
    assert "s3cret" not in shown.out
    assert all(len(line) <= 80 for line in shown.out.splitlines())


async def test_a_mesh_nodes_address_says_what_moved_it() -> None:
    environ = {"ASTROMESH_ROLE": "worker", "ASTROMESH_MESH_ENABLED": "true", "ASTROMESH_PORT": "9000", "ASTROMESH_SEEDS": "http://a:1"}
    found = {each["name"]: each for each in (await ctl("config", "print", "--json", **environ)).json["settings"]}
    assert found["profile"]["source"] == "environment ASTROMESH_ROLE and environment ASTROMESH_MESH_ENABLED"
    assert (found["spec.mesh.bind"]["value"], found["spec.mesh.bind"]["source"]) == ("0.0.0.0:9000", "the address of spec.api")
    assert (found["spec.mesh.seeds"]["value"], found["spec.mesh.seeds"]["source"]) == (["http://a:1"], "environment ASTROMESH_SEEDS")
    assert found["node_name"]["value"] == "worker"


async def test_configuration_that_starts_no_node_is_not_printed() -> None:
    done = await ctl("config", "print", ASTROMESH_PORT="80x")
    assert (done.code, done.out) == (78, "")
    assert "ASTROMESH_PORT: is '80x'" in done.err
