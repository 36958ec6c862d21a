import logging
import os
import re
from pathlib import Path

import pytest

from app.errors import ConfigError
from app.services.inference import Inference
from app.services.inference.attachment import from_agent_files, from_environment
from app.services.inference.breaker import BreakerPolicy
from app.services.inference.provider import ProviderSpec
from app.services.inference.providers_file import ProvidersFile, read_providers
from tests.services.inference.fakes import SCHEMA, ask, inference, write_providers
from tests.support import mounted, node_context

SHIPPED = Path(__file__).parents[3] / "config" / "providers.yaml"


def load(folder: Path, providers: str, more: str = "", **environ: str) -> ProvidersFile:
    write_providers(folder, providers, more)
    return read_providers(folder / "config" / "providers.yaml", SCHEMA["providers_file"], environ)


def problems(folder: Path, providers: str, more: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, providers, more)
    return caught.value.message


def agent(folder: Path, name: str, model: str) -> None:
    folder.mkdir(exist_ok=True)
    head = f"apiVersion: astromesh/v1\nkind: Agent\nmetadata: {{name: {name}}}\nspec:\n"
    (folder / f"{name}.agent.yaml").write_text(head + f"  model:\n{model}\n")


def test_a_file_is_read_field_by_field(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        "    a: {type: tgi, endpoint: 'http://t:80', api_key_env: K, models: [m], health_check_interval: 9, parameters: {top_p: 1}}\n"
        "    b: {type: ollama}",
        "  routing: {fallback_enabled: false, circuit_breaker: {failure_threshold: 3, recovery_timeout: 60}}\n",
        K="secret",
    )
    first, second = found.providers
    assert first == ProviderSpec("a", "hf_tgi", "http://t:80", "K", "secret", ("m",), 9, {"top_p": 1}, first.origin)
    assert (second.kind, second.endpoint) == ("ollama", "http://localhost:11434")
    assert (found.fallback_enabled, found.breaker) == (False, BreakerPolicy(3, 60))
    assert "secret" not in repr(first)


def test_no_file_and_the_shipped_file_attach_nothing(tmp_path: Path) -> None:
    assert read_providers(tmp_path / "none.yaml", SCHEMA["providers_file"], {}) == ProvidersFile()
    assert read_providers(SHIPPED, SCHEMA["providers_file"], {}) == ProvidersFile()


def test_the_shipped_files_examples_are_valid_when_uncommented(tmp_path: Path) -> None:
    text = SHIPPED.read_text()
    head, _, rest = text.partition("  providers:\n")
    examples, _, tail = rest.partition("  routing:")
    path = tmp_path / "providers.yaml"
    path.write_text(head + "  providers:\n" + re.sub(r"(?m)^    # ?", "    ", examples) + "  routing:" + tail)
    found = read_providers(path, SCHEMA["providers_file"], {"OPENAI_API_KEY": "k"})
    assert [spec.name for spec in found.providers] == ["ollama", "vllm", "tgi", "llamacpp", "openai"]


def test_every_problem_is_told_with_line_path_and_remedy(tmp_path: Path) -> None:
    told = problems(
        tmp_path,
        "    a: {type: olama}\n    b: {type: vllm, endpint: 'http://x'}\n    c: {type: vllm, endpoint: 'x:80'}\n"
        "    d: {type: vllm, endpoint: 'http://x', api_key_env: 'sk-abc'}",
        "  routing: {circuit_breaker: {failure_threshold: 0}}\n",
    )
    assert "providers.yaml:5: spec.providers.a.type: is 'olama'; did you mean `ollama`?" in told
    assert "providers.yaml:6: spec.providers.b.endpint: `endpint` is not a field of a provider; did you mean `endpoint`?" in told
    assert "write a URL such as http://ollama:11434" in told
    assert "not the key itself" in told
    assert "spec.routing.circuit_breaker.failure_threshold" in told


@pytest.mark.parametrize(
    ("provider", "told"),
    [
        ("agent: {type: ollama}", "reserved"),
        ("default: {type: ollama}", "reserved"),
        ("a/b: {type: ollama}", "cannot stand before a `/`"),
        ("a: {type: onnx}", "onnx is not supported"),
        ("a: {type: vllm}", "spec.providers.a.endpoint: is missing"),
        ("a: {endpoint: 'http://x'}", "spec.providers.a.type: is missing"),
    ],
)
def test_what_cannot_be_attached_is_an_error(tmp_path: Path, provider: str, told: str) -> None:
    assert told in problems(tmp_path, "    " + provider)


async def test_what_is_not_acted_on_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    providers, routing = (
        "    a: {type: ollama, endpoint: 'http://127.0.0.1:1', api_key_env: MISSING}",
        "  routing: {default_strategy: round_robin}\n",
    )
    assert len(load(tmp_path, providers, routing).warnings) == 2
    async with mounted(Inference({}, node_context(tmp_path))):
        told = [record.getMessage() for record in caplog.records if "providers.yaml" in record.getMessage()]
    assert len(told) == 2
    assert "default_strategy is not acted on yet" in told[0]
    assert "MISSING is not set" in told[1]


@pytest.mark.parametrize(
    ("value", "endpoint"),
    [
        ("http://ollama:11434", "http://ollama:11434"),
        ("gpu", "http://gpu:11434"),
        ("gpu:9000", "http://gpu:9000"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:9000", "http://127.0.0.1:9000"),
        ("https://gpu.example", "https://gpu.example"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(value: str, endpoint: str) -> None:
    assert from_environment({}, {"OLLAMA_HOST": value})["ollama"].endpoint == endpoint


def test_the_environment_attaches_each_server() -> None:
    environ = {"VLLM_BASE_URL": "http://v/v1", "TGI_BASE_URL": "http://t", "OPENAI_BASE_URL": "http://o/v1", "OPENAI_API_KEY": "k"}
    found = from_environment({}, {**environ, "OLLAMA_HOST": ""})
    assert [(spec.name, spec.kind, spec.endpoint, spec.key) for spec in found.values()] == [
        ("vllm", "vllm", "http://v/v1", ""),
        ("tgi", "hf_tgi", "http://t", ""),
        ("openai", "openai_compat", "http://o/v1", "k"),
    ]


def test_a_key_alone_means_openai_itself() -> None:
    assert from_environment({}, {"OPENAI_API_KEY": "k"})["openai"].endpoint == "https://api.openai.com/v1"


def test_the_environment_wins_over_the_file_and_keeps_what_it_does_not_say() -> None:
    filed = {
        "ollama": ProviderSpec("ollama", "ollama", "http://old", models=("m",)),
        "vllm": ProviderSpec("vllm", "openai_compat", "http://v"),
    }
    found = from_environment(filed, {"OLLAMA_HOST": "http://new", "VLLM_BASE_URL": "http://other"})
    assert (found["ollama"].endpoint, found["ollama"].models) == ("http://new", ("m",))
    assert (found["vllm"].endpoint, found["vllm"].kind) == ("http://other", "vllm")


def test_openais_key_does_not_go_where_the_file_names_another_key() -> None:
    filed = {"openai": ProviderSpec("openai", "openai_compat", "http://proxy", "PROXY_KEY", "p")}
    assert from_environment(filed, {"OPENAI_API_KEY": "k"})["openai"].key == "p"


def test_addresses_that_are_none_are_all_told() -> None:
    with pytest.raises(ConfigError) as caught:
        from_environment({}, {"VLLM_BASE_URL": "vllm:8000", "TGI_BASE_URL": "ftp://t", "OPENAI_API_KEY": "sk-\nhidden"})
    assert [problem.path for problem in caught.value.problems] == ["VLLM_BASE_URL", "TGI_BASE_URL", "OPENAI_API_KEY"]
    assert "hidden" not in caught.value.message


WRONG_ADDRESSES = ["http://x:99999999", "http://[::1", "http://x:0", "http://x y", "http://me:hidden@x:99999", "http://x?a=b", "http://:80"]


@pytest.mark.parametrize("value", WRONG_ADDRESSES)
def test_an_address_is_refused_wherever_it_stands(tmp_path: Path, value: str) -> None:
    for variable in ("OPENAI_BASE_URL", "OLLAMA_HOST", "VLLM_BASE_URL", "TGI_BASE_URL"):
        with pytest.raises(ConfigError, match=f"environment: {variable}: is 'http://.*write http://host:port$") as caught:
            from_environment({}, {variable: value})
        assert "hidden" not in caught.value.message
    told = problems(tmp_path, f"    p: {{type: vllm, endpoint: '{value}'}}")
    assert "providers.yaml:5: spec.providers.p.endpoint: is 'http://" in told
    assert "write a URL such as" in told
    assert "hidden" not in told
    agent(tmp_path / "agents", "a", f"    primary: {{provider: vllm, model: m, endpoint: '{value}'}}")
    assert from_agent_files(tmp_path / "agents", {}) == {}


def test_a_key_that_no_header_can_carry_is_told_and_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match=r"spec\.providers\.a\.api_key_env: names K, whose value has a space.*alone$") as caught:
        load(tmp_path, "    a: {type: vllm, endpoint: 'http://x', api_key_env: K}", K="sk hidden")
    agent(tmp_path, "a", "    primary: {provider: vllm, model: m, endpoint: 'http://x', api_key: 'sk hidden'}")
    assert from_agent_files(tmp_path, {}) == {}
    assert "the key of provider vllm has a space" in caplog.text
    assert "hidden" not in caplog.text + caught.value.message


def test_a_key_is_taken_without_the_line_end_around_it(tmp_path: Path) -> None:
    providers = load(tmp_path, "    a: {type: vllm, endpoint: 'http://x', api_key_env: K}", K="key\n").providers
    assert providers[0].key == "key"


def test_a_pipe_in_the_place_of_a_file_stops_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.agent.yaml")
    assert from_agent_files(tmp_path, {}) == {}
    os.mkfifo(tmp_path / "providers.yaml")
    with pytest.raises(ConfigError, match="is not a regular file"):
        read_providers(tmp_path / "providers.yaml", SCHEMA["providers_file"], {})


def test_agent_files_attach_providers_in_both_forms(tmp_path: Path) -> None:
    agent(
        tmp_path, "a", "    primary: {provider: ollama, model: m1, endpoint: 'http://o:11434'}\n    fallback: {provider: vllm, model: m2}"
    )
    agent(tmp_path, "b", "    primary: {provider: ollama, model: m3, endpoint: 'http://o:11434'}")
    agent(
        tmp_path,
        "c",
        "    default: {candidates: [{source: openai, model: gpt, api_key_env: K}]}\n"
        "    roles: {planner: {candidates: [{source: big, model: big/m4, endpoint: 'http://b', api_key: k4}]}}",
    )
    (tmp_path / "broken.agent.yaml").write_text("spec: [")
    (tmp_path / "odd.agent.yaml").write_text("spec: {model: {primary: 7, extra: {}, roles: [x]}}")
    found = from_agent_files(tmp_path, {"K": "k"})
    assert {name: (spec.kind, spec.endpoint, spec.key, spec.models) for name, spec in found.items()} == {
        "ollama": ("ollama", "http://o:11434", "", ("m1", "m3")),
        "openai": ("openai_compat", "https://api.openai.com/v1", "k", ("gpt",)),
        "big": ("openai_compat", "http://b", "k4", ("m4",)),
    }


def test_two_endpoints_under_one_providers_name_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    agent(tmp_path, "a", "    primary: {provider: vllm, model: m1, endpoint: 'http://one'}")
    agent(tmp_path, "b", "    primary: {provider: vllm, model: m2, endpoint: 'http://two'}")
    assert from_agent_files(tmp_path, {})["vllm"].endpoint == "http://one"
    assert "another endpoint" in caplog.text


@pytest.mark.parametrize(("config", "names"), [({}, ["builtin"]), ({"agent_files": True}, ["vllm"])])
async def test_agent_files_count_only_where_the_node_says_so(tmp_path: Path, config: dict[str, bool], names: list[str]) -> None:
    (tmp_path / "config").mkdir()
    agent(tmp_path / "config" / "agents", "a", "    primary: {provider: vllm, model: m1, endpoint: 'http://127.0.0.1:1'}")
    async with inference(tmp_path, config) as app:
        assert [row["name"] for row in (await ask(app, "/v1/providers"))["providers"]] == names


async def test_a_node_with_the_rules_alone_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with inference(tmp_path):
            pass
        assert caplog.text.count("not a language model") == 1
        caplog.clear()
        async with mounted(Inference({}, node_context(tmp_path, environ={"OLLAMA_HOST": "127.0.0.1:1"}))):
            pass
    assert "not a language model" not in caplog.text
