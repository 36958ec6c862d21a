import json
from pathlib import Path

import pytest

from app.errors import ProviderUnavailable
from tests.services.inference.fakes import (
    CHAT,
    DONE,
    QUESTION,
    FakeServer,
    ask,
    chat,
    completion,
    content_of,
    delta,
    events,
    inference,
    openai_server,
    replies,
    streams,
    write_providers,
)
from tests.support import serve

USAGE = b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m1","choices":[],"usage":{"total_tokens":3}}\n\n'


async def test_an_answer_is_passed_on_whole(tmp_path: Path) -> None:
    server = openai_server().on(CHAT, replies({**completion("hi"), "system_fingerprint": "f"}))
    async with inference(tmp_path, up=server) as app:
        found = await ask(app, "/v1/chat/completions", {**QUESTION, "model": "m1"})
    assert found == {**completion("hi"), "system_fingerprint": "f"}


async def test_unknown_request_fields_reach_the_provider_and_the_session_does_not(tmp_path: Path) -> None:
    server = openai_server().on(CHAT, replies(completion("hi")))
    async with inference(tmp_path, up=server) as app:
        await chat(app, guided_json={"a": [1]}, session_id="s1", tool_choice="auto")
    sent = server.asked_for("/v1/chat/completions")[0].body
    assert sent == {**QUESTION, "model": "m1", "guided_json": {"a": [1]}, "tool_choice": "auto"}


async def test_chunks_pass_byte_for_byte_and_the_end_is_told_once(tmp_path: Path) -> None:
    odd = b'data: {"id":"c1",  "model":"m1","choices":[{"index":0,"delta":{"content":"\\u00e9"},"x":1}]}\n\n'
    parts = [delta(role="assistant"), odd, delta("b"), delta(finish="stop"), USAGE, DONE]
    server = openai_server().on(CHAT, streams(*parts))
    async with inference(tmp_path, up=server) as app:
        lines = await events(app, stream_options={"include_usage": True})
    assert lines == [part.decode().strip() for part in parts]
    assert server.asked_for("/v1/chat/completions")[0].body["stream_options"] == {"include_usage": True}


async def test_a_stream_cut_into_single_bytes_is_the_same_stream(tmp_path: Path) -> None:
    whole = delta("é") + b": comment\r\n\r\n" + delta("b", "stop").replace(b"\n", b"\r\n") + DONE
    server = openai_server().on(CHAT, streams(*(whole[at : at + 1] for at in range(len(whole)))))
    async with inference(tmp_path, up=server) as app:
        lines = await events(app)
    assert content_of(lines) == "éb"
    assert lines[-1] == "data: [DONE]"


async def test_a_stream_that_ends_after_its_finish_reason_without_done_is_complete(tmp_path: Path) -> None:
    server = openai_server().on(CHAT, streams(delta("a"), delta(finish="stop")))
    async with inference(tmp_path, up=server) as app:
        assert (await events(app))[-1] == "data: [DONE]"


def finish(index: int) -> bytes:
    return delta(finish="stop").replace(b'"index": 0', b'"index": %d' % index)


@pytest.mark.parametrize(("parts", "whole"), [((finish(0),), False), ((finish(0), finish(0)), False), ((finish(1), finish(0)), True)])
async def test_an_answer_of_two_choices_is_complete_when_both_have_ended(tmp_path: Path, parts: tuple[bytes, ...], whole: bool) -> None:
    server = openai_server().on(CHAT, streams(delta("a"), *parts))
    async with inference(tmp_path, up=server) as app:
        lines = await events(app, n=2)
    assert (lines[-1] == "data: [DONE]") is whole
    assert ("event: error" in lines) is not whole


async def test_an_answer_without_a_model_gets_one(tmp_path: Path) -> None:
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    server = openai_server().on(CHAT, streams(chunk, DONE))
    async with inference(tmp_path, up=server) as app:
        assert json.loads((await events(app))[0].removeprefix("data: "))["model"] == "m1"
        bare = {key: value for key, value in completion("x").items() if key != "model"}
        server.on(CHAT, replies(bare))
        assert (await ask(app, "/v1/chat/completions", {**QUESTION, "model": "m1"}))["model"] == "m1"


async def test_a_providers_parameters_fill_in_what_the_request_leaves_open(tmp_path: Path) -> None:
    server = openai_server().on(CHAT, replies(completion("hi")))
    async with serve(server) as url:
        write_providers(tmp_path, f"    up: {{type: openai_compat, endpoint: '{url}/v1/', parameters: {{temperature: 0.1, seed: 7}}}}")
        async with inference(tmp_path) as app:
            await chat(app, temperature=0.9)
    sent = server.asked_for("/v1/chat/completions")[0].body
    assert (sent["temperature"], sent["seed"]) == (0.9, 7)


async def test_the_configured_key_goes_along_and_nothing_of_the_client(tmp_path: Path) -> None:
    server = openai_server().on(CHAT, replies(completion("hi")))
    async with serve(server) as url:
        write_providers(tmp_path, f"    up: {{type: openai_compat, endpoint: '{url}', api_key_env: UP_KEY}}")
        async with inference(tmp_path, environ={"UP_KEY": "sk-secret"}) as app:
            await chat(app)
            assert "sk-secret" not in json.dumps(await ask(app, "/v1/providers"))
    headers = server.asked_for("/v1/chat/completions")[0].headers
    assert headers["authorization"] == "Bearer sk-secret"
    assert not [name for name in headers if name.startswith("x-") or name == "cookie"]


async def test_half_of_a_surrogate_pair_passes_through(tmp_path: Path) -> None:
    server = openai_server().on(CHAT, replies(completion("half \ud83d")))
    async with inference(tmp_path, up=server) as app:
        assert await chat(app) == "half \ud83d"
        server.on(CHAT, streams(delta("half \ud83d", "stop")))
        assert content_of(await events(app)) == "half \ud83d"


async def test_embeddings_pass_through(tmp_path: Path) -> None:
    answer = {"object": "list", "model": "m1", "data": [{"object": "embedding", "index": 0, "embedding": "AACAPw=="}], "usage": {}}
    server = openai_server().on("POST /v1/embeddings", replies(answer))
    async with inference(tmp_path, up=server) as app:
        assert await ask(app, "/v1/embeddings", {"model": "m1", "input": "x", "encoding_format": "base64"}) == answer
    assert server.asked_for("/v1/embeddings")[0].body == {"model": "m1", "input": "x", "encoding_format": "base64"}


@pytest.mark.parametrize(
    ("kind", "listing", "models"),
    [
        ("vllm", ("GET /v1/models", {"data": [{"id": "org/big"}]}), ["org/big"]),
        ("llamacpp", ("GET /v1/models", {"data": [{"id": "a.gguf"}]}), ["a.gguf"]),
        ("hf_tgi", ("GET /info", {"model_id": "org/tgi"}), ["org/tgi"]),
        ("tgi", ("GET /info", {"model_id": "org/tgi"}), ["org/tgi"]),
    ],
)
async def test_each_variant_is_checked_and_listed_in_its_own_way(
    tmp_path: Path, kind: str, listing: tuple[str, dict[str, object]], models: list[str]
) -> None:
    server = FakeServer().on("GET /health", replies(b"")).on(listing[0], replies(listing[1]))
    server.on(CHAT, replies(completion("hi", models[0])))
    async with serve(server) as url:
        write_providers(tmp_path, f"    up: {{type: {kind}, endpoint: '{url}/v1'}}")
        async with inference(tmp_path) as app:
            assert await chat(app, models[0]) == "hi"
            assert await chat(app, f"up/{models[0]}") == "hi"
            (row,) = (await ask(app, "/v1/providers"))["providers"]
    assert (row["status"], row["models"]) == ("up", models)
    assert server.asked_for("/health")


async def test_a_variant_that_still_loads_its_model_is_down(tmp_path: Path) -> None:
    server = FakeServer().on("GET /health", replies({"error": {"message": "Loading model"}}, 503))
    async with serve(server) as url:
        write_providers(tmp_path, f"    up: {{type: llamacpp, endpoint: '{url}'}}")
        async with inference(tmp_path) as app:
            with pytest.raises(ProviderUnavailable, match="Loading model"):
                await chat(app, "a.gguf")
