"""Which model an agent asks, and what happens when it fails."""

from pathlib import Path
from typing import Any

import pytest

from app.call import call
from app.errors import (
    AgentUnavailable,
    BadRequest,
    DeadlineExceeded,
    ModelNotFound,
    NodeError,
    ProviderError,
    ProviderRateLimited,
    ProviderUnavailable,
)
from tests.services.agents.world import CALCULATOR, ScriptedModel, Tools, agent_file, agents, ask, calculator, calls, events
from tests.support import Neighbours

MODELS = {"primary": {"provider": "vllm", "model": "big", "parameters": {"temperature": 0.1}}, "fallback": {"model": "small"}}


@pytest.mark.parametrize(
    "error", [ProviderUnavailable("down"), ProviderError("bad"), ProviderRateLimited("busy"), ModelNotFound("no"), DeadlineExceeded("slow")]
)
async def test_the_fallback_is_asked_when_the_first_model_fails(tmp_path: Path, error: NodeError) -> None:
    agent_file(tmp_path, model=MODELS)
    model = ScriptedModel([error, "Small answer."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        result = await ask(app)
    assert [(request["model"], request.get("temperature")) for request in model.requests] == [("vllm/big", 0.1), ("small", None)]
    assert (result["answer"], result["usage"]["model"]) == ("Small answer.", "small")


async def test_no_log_line_repeats_what_a_failing_model_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    agent_file(tmp_path, model=MODELS)
    script: list[Any] = [{"raw": "a secret\nthought"}, ProviderError("cannot answer 'a secret question'")]
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(script))) as app:
        with pytest.raises(ProviderUnavailable):
            await events(app)
    assert "model vllm/big does not answer: status 502, provider_error" in caplog.text
    assert "model small does not answer: status 502, provider_error" in caplog.text
    assert "secret" not in caplog.text


async def test_a_request_that_the_model_refuses_is_not_tried_elsewhere(tmp_path: Path) -> None:
    agent_file(tmp_path, model=MODELS)
    model = ScriptedModel([BadRequest("The context is too long.")])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        with pytest.raises(BadRequest, match="too long"):
            await ask(app)
    assert len(model.requests) == 1


async def test_an_agent_none_of_whose_models_answers_names_them_all(tmp_path: Path) -> None:
    agent_file(tmp_path, model=MODELS)
    script: list[Any] = [
        ProviderUnavailable("big is down"),
        ProviderRateLimited("small is busy"),
        ModelNotFound("no big"),
        ModelNotFound("no small"),
    ]
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(script))) as app:
        with pytest.raises(ProviderUnavailable, match=r"vllm/big: big is down; small: small is busy"):
            await ask(app)
        with pytest.raises(AgentUnavailable, match=r"no big.*no small"):
            await ask(app)


async def test_candidates_are_asked_in_order(tmp_path: Path) -> None:
    candidates = [{"source": "ollama", "model": "llama3.1:8b"}, {"source": "openai", "model": "gpt"}]
    agent_file(tmp_path, model={"default": {"candidates": candidates}})
    model = ScriptedModel([ProviderUnavailable("down"), "Yes."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        await ask(app)
    assert [request["model"] for request in model.requests] == ["ollama/llama3.1:8b", "openai/gpt"]


async def test_in_turn_each_ask_begins_with_another_model_and_falls_back_to_the_rest(tmp_path: Path) -> None:
    candidates = [{"model": name} for name in "abc"]
    agent_file(tmp_path, model={"default": {"candidates": candidates, "strategy": "round_robin"}}, tools=[CALCULATOR])
    script = [calls(("calculator", {"expression": "2+2"})), "4.", "Yes.", ProviderUnavailable("c is down"), "Yes.", "Yes."]
    model = ScriptedModel(script)
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))) as app:
        for _ in range(4):
            await ask(app)
    assert [request["model"] for request in model.requests] == [
        "a",
        "a",
        "b",
        "c",
        "a",
        "a",
    ]  # a run of two steps, one of one, one whose model failed, one


async def test_each_role_takes_turns_by_itself(tmp_path: Path) -> None:
    roles = {
        role: {"candidates": [{"model": f"{role}-1"}, {"model": f"{role}-2"}], "strategy": strategy}
        for role, strategy in (("stage:a", "round_robin"), ("stage:b", "quality_first"))
    }
    agent_file(tmp_path, model={"roles": roles}, orchestration={"pattern": "pipeline", "stages": ["a", "b"]})
    model = ScriptedModel(["Text."] * 4)
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        for _ in range(2):
            await ask(app)
    assert [request["model"] for request in model.requests] == ["stage:a-1", "stage:b-1", "stage:a-2", "stage:b-1"]


async def test_a_role_map_says_which_models_play_a_role_and_the_rest_play_by_default(tmp_path: Path) -> None:
    models = {"default": {"candidates": [{"model": "small"}]}, "roles": {"strong": {"candidates": [{"model": "big"}]}}}
    orchestration = {"pattern": "parallel_fan_out", "role_map": {"planner": "strong", "worker": "default"}}
    agent_file(tmp_path, model=models, orchestration=orchestration)
    model = ScriptedModel(['{"tasks": ["a"]}', "A.", "Told."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        await ask(app)
        async with call(app, "GET", "/v1/agents/tester") as reply:
            shown = await reply.json()
    assert [request["model"] for request in model.requests] == ["big", "small", "small"]
    assert shown["warnings"] == []
    assert {role: choices[0]["model"] for role, choices in shown["roles"].items()} == {
        "planner": "big",
        "worker": "small",
        "synthesizer": "small",
    }


async def test_endpoints_and_keys_never_travel(tmp_path: Path) -> None:
    choice = {"provider": "openai", "model": "gpt", "endpoint": "http://x", "api_key_env": "KEY", "api_key": "sk-secret"}
    agent_file(tmp_path, model={"primary": choice})
    model = ScriptedModel(["Yes."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        await ask(app)
        async with call(app, "GET", "/v1/agents/tester") as reply:
            shown = await reply.read()
    assert set(model.requests[0]) == {"model", "messages"}
    assert b"sk-secret" not in shown
