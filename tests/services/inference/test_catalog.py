import asyncio
import socket
from pathlib import Path

import pytest

from app.errors import InvalidBody, ModelNotFound, NodeError, ProviderUnavailable, UnsupportedMediaType
from app.services.contract import Check
from app.services.inference import Inference
from tests.services.inference.fakes import (
    CHAT,
    QUESTION,
    FakeServer,
    answering_errors,
    ask,
    chat,
    completion,
    hangs,
    inference,
    openai_server,
    replies,
    write_providers,
)
from tests.support import mounted, node_context, serve


def answers(name: str, *models: str) -> FakeServer:
    return openai_server(*models).on(CHAT, replies(completion(name)))


async def test_the_models_name_picks_the_provider(tmp_path: Path) -> None:
    async with inference(tmp_path, a=answers("a", "x", "both"), b=answers("b", "y", "both")) as app:
        found = {name: await chat(app, name) for name in ("x", "y", "both", "a/both", "b/both", "default", "")}
    assert found == {"x": "a", "y": "b", "both": "a", "a/both": "a", "b/both": "b", "default": "a", "": "a"}


async def test_a_slash_means_a_provider_only_where_that_provider_has_the_model(tmp_path: Path) -> None:
    async with inference(tmp_path, org=answers("org", "x"), b=answers("b", "org/x", "org/z", "else/x")) as app:
        assert await chat(app, "org/x") == "org"
        assert await chat(app, "org/z") == "b"
        assert await chat(app, "else/x") == "b"


async def test_a_request_without_a_model_gets_the_default(tmp_path: Path) -> None:
    server = answers("a", "x")
    async with inference(tmp_path, a=server) as app:
        await ask(app, "/v1/chat/completions", QUESTION)
    assert server.asked_for("/v1/chat/completions")[0].body["model"] == "x"


async def test_an_unknown_model_is_404_with_what_there_is(tmp_path: Path) -> None:
    async with inference(tmp_path, a=answers("a", "x"), b=answers("b", "x", "y")) as app:
        with pytest.raises(ModelNotFound, match="no model 'zzz'; there is: x, b/x, y") as caught:
            await chat(app, "zzz")
        with pytest.raises(ModelNotFound):
            await ask(app, "/v1/embeddings", {"model": "zzz", "input": "x"})
    assert caught.value.param == "model"


async def test_a_model_that_appeared_since_is_found(tmp_path: Path) -> None:
    server = answers("a", "x")
    async with inference(tmp_path, {"health_check_interval_s": 0.01}, a=server) as app:
        assert await chat(app, "x") == "a"
        server.on("GET /v1/models", replies({"data": [{"id": "x"}, {"id": "new"}]}))
        async with asyncio.timeout(5):
            while "new" not in [row["id"] for row in (await ask(app, "/v1/models"))["data"]]:
                pass
        assert await chat(app, "new") == "a"


async def test_guessed_names_do_not_make_providers_be_asked_each_time(tmp_path: Path) -> None:
    server = answers("a", "x")
    async with inference(tmp_path, a=server) as app:
        for _ in range(5):
            with pytest.raises(ModelNotFound):
                await chat(app, "zzz")
    assert len(server.asked_for("/v1/models")) == 1


async def test_a_provider_that_fails_keeps_its_last_list_and_is_marked_down(tmp_path: Path) -> None:
    server = answers("a", "x")
    async with inference(tmp_path, {"health_check_interval_s": 0.01}, a=server) as app:
        assert await chat(app, "x") == "a"
        server.on("GET /v1/models", replies(b"", 500))
        async with asyncio.timeout(5):
            while (await ask(app, "/v1/providers"))["providers"][0]["status"] != "down":
                pass
        (row,) = (await ask(app, "/v1/providers"))["providers"]
        assert row["models"] == ["x"]
        assert "status 500" in row["reason"]
        assert await chat(app, "x") == "a"


async def test_a_model_that_may_be_on_a_silent_provider_is_503_and_not_404(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with serve(answers("b", "y")) as url:
        gone = f"    a: {{type: openai_compat, endpoint: 'http://127.0.0.1:{port}'}}"
        write_providers(tmp_path, f"{gone}\n    b: {{type: openai_compat, endpoint: '{url}'}}")
        async with inference(tmp_path) as app:
            assert await chat(app, "y") == "b"
            assert await chat(app, "default") == "b"
            with pytest.raises(ProviderUnavailable, match="'a' cannot be reached"):
                await chat(app, "x")


async def test_a_fallback_answers_while_the_models_provider_cannot_even_be_asked(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with serve(answers("b", "y")) as url:
        gone = f"    a: {{type: openai_compat, endpoint: 'http://127.0.0.1:{port}'}}"
        write_providers(tmp_path, f"{gone}\n    b: {{type: openai_compat, endpoint: '{url}'}}")
        async with inference(tmp_path, {"fallbacks": ["y"]}) as app:
            await chat(app, "y")
            assert await chat(app, "a/x") == "b"


async def test_start_does_not_wait_for_a_provider(tmp_path: Path) -> None:
    server = FakeServer().on("GET /v1/models", hangs)
    async with serve(server) as url:
        write_providers(tmp_path, f"    a: {{type: openai_compat, endpoint: '{url}'}}")
        service = Inference({}, node_context(tmp_path))
        async with asyncio.timeout(2), mounted(service) as app:
            await asyncio.wait_for(server.asked.wait(), 2)
            assert (await ask(app, "/v1/providers"))["providers"][0]["status"] == "unknown"
            assert await service.check() == {"a": Check("ok", "not asked yet")}


async def test_the_facts_name_every_form_of_every_model(tmp_path: Path) -> None:
    async with serve(answers("a", "x", "llama3:latest")) as url:
        write_providers(tmp_path, f"    a: {{type: openai_compat, endpoint: '{url}'}}")
        service = Inference({}, node_context(tmp_path))
        async with mounted(service) as app:
            assert service.facts().keys == frozenset()
            await chat(app, "x")
        assert set(service.facts().keys or ()) == {"x", "a/x", "llama3", "a/llama3", "llama3:latest", "a/llama3:latest", "default"}


async def test_a_provider_that_is_down_is_degraded_and_never_an_error(tmp_path: Path) -> None:
    async with serve(openai_server("x").on("GET /v1/models", replies(b"", 500))) as url:
        write_providers(tmp_path, f"    a: {{type: openai_compat, endpoint: '{url}'}}\n    rules: {{type: builtin}}")
        service = Inference({}, node_context(tmp_path))
        async with mounted(service) as app:
            with pytest.raises(NodeError):
                await chat(app, "x")
            checks = await service.check()
    assert (checks["a"].status, checks["rules"].status) == ("degraded", "ok")
    assert "'a'" in checks["a"].message


async def test_models_are_listed_as_openai_does(tmp_path: Path) -> None:
    async with inference(tmp_path, a=answers("a", "x", "org/y")) as app:
        await chat(app, "x")
        rows = (await ask(app, "/v1/models"))["data"]
        assert rows == [{"id": name, "object": "model", "created": 0, "owned_by": "a"} for name in ("x", "org/y")]


async def test_an_address_is_shown_without_its_password(tmp_path: Path) -> None:
    async with serve(answers("a", "x")) as url:
        write_providers(tmp_path, f"    a: {{type: openai_compat, endpoint: '{url.replace('://', '://user:hunter2@')}'}}")
        async with inference(tmp_path) as app:
            await chat(app, "x")
            (row,) = (await ask(app, "/v1/providers"))["providers"]
    assert row["endpoint"].rstrip("/") == url


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"model": "x"}, "$"),
        ({"model": "x", "messages": []}, "$.messages"),
        ({"model": "x", "messages": [{"role": "king", "content": "a"}]}, "$.messages[0].role"),
        ({"model": "x", "messages": [{"role": "user", "content": 7}]}, "$.messages[0].content"),
        ({"model": "x", "messages": [{"role": "user", "content": "a"}], "tools": [7]}, "$.tools[0]"),
        ({"messages": [{"role": "user", "content": "a"}], "tool_choice": {"function": 7}}, "$.tool_choice.function"),
        ({"messages": [{"role": "user", "content": "a"}], "response_format": "json"}, "$.response_format"),
        ({"model": 7, "messages": [{"role": "user", "content": "a"}]}, "$.model"),
    ],
)
async def test_a_request_that_is_none_is_422_with_its_json_path(tmp_path: Path, body: object, path: str) -> None:
    async with inference(tmp_path) as app:
        with pytest.raises(InvalidBody) as caught:
            await ask(app, "/v1/chat/completions", body)
    assert caught.value.param == path


async def test_a_body_that_is_not_json_is_415(tmp_path: Path) -> None:
    async with inference(tmp_path) as app:
        with pytest.raises(UnsupportedMediaType):
            await ask(app, "/v1/chat/completions", b"model=x")


async def test_requests_are_counted_by_provider_and_outcome(tmp_path: Path) -> None:
    async with serve(answers("a", "x")) as url:
        write_providers(tmp_path, f"    a: {{type: openai_compat, endpoint: '{url}'}}")
        node = node_context(tmp_path)
        async with mounted(Inference({}, node)) as app:
            await chat(app, "x")
        assert node.metrics.get_sample_value("astromesh_inference_requests_total", {"provider": "a", "outcome": "ok"}) == 1


async def test_errors_have_the_one_shape_at_an_edge(tmp_path: Path) -> None:
    async with inference(tmp_path) as app:
        with pytest.raises(NodeError) as caught:
            await ask(answering_errors(app), "/v1/chat/completions", {**QUESTION, "model": "zzz"})
    assert caught.value.body()["error"]["code"] == "model_not_found"
