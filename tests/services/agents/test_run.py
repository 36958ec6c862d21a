"""Runs over JSON: the loop, its tools, its limits, and what happens when a neighbour fails."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.call import call
from app.context import background
from app.errors import (
    AgentNotFound,
    AgentUnavailable,
    BadRequest,
    DeadlineExceeded,
    InvalidBody,
    ModelNotFound,
    NodeError,
    NotBegun,
    ProviderError,
    ProviderRateLimited,
    ProviderUnavailable,
    ServiceUnavailable,
)
from tests.services.agents.world import ScriptedModel, Stuck, Tools, agent_file, agents, ask, calls, events, post
from tests.support import Neighbours

CALCULATOR = {"name": "calculator", "type": "builtin"}


def calculator(expression: str) -> int:
    return {"17*23": 391, "2+2": 4}[expression]


def told(request: dict[str, Any]) -> list[str]:
    """The tool results that a model request shows."""
    return [message["content"] for message in request["messages"] if message["role"] == "tool"]


async def test_a_run_calls_tools_and_answers(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR])
    model = ScriptedModel([calls(("calculator", {"expression": "17*23"})), "It is 391."])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))) as app:
        context = replace(background(), session="s-1")
        result = await post(app, "/v1/agents/tester/run", {"query": "What is 17*23?"}, context)
    assert (result["answer"], result["outcome"], result["session_id"]) == ("It is 391.", "answered", "s-1")
    assert result["trace"] == {"trace_id": context.trace_id}
    assert result["usage"] == {
        "tokens_in": 20,
        "tokens_out": 6,
        "model": "default",
        "by_model": [{"model": "default", "tokens_in": 20, "tokens_out": 6, "calls": 2}],
    }
    [first, second] = result["steps"]
    [used] = first["tool_calls"]
    assert (first["step"], first["model"], second["content"], second["tool_calls"]) == (1, "default", "It is 391.", [])
    assert (used["name"], json.loads(used["arguments"]), used["result"], used["status"]) == (
        "calculator",
        {"expression": "17*23"},
        391,
        "ok",
    )
    assert used["duration_ms"] >= 0
    assert told(model.requests[1]) == ["391"]
    assert model.requests[1]["messages"][-2]["tool_calls"][0]["id"] == model.requests[1]["messages"][-1]["tool_call_id"]
    assert model.requests[0]["tools"][0]["function"]["description"] == "The calculator."


async def test_tool_calls_of_one_step_run_at_once_and_keep_their_order(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[{"name": "first", "type": "builtin"}, {"name": "second", "type": "builtin"}])
    second_ran = asyncio.Event()

    async def first() -> str:
        await second_ran.wait()
        return "one"

    async def second() -> str:
        second_ran.set()
        return "two"

    model = ScriptedModel([calls(("first", {}), ("second", {})), "Done."])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"first": first, "second": second}))) as app:
        result = await ask(app)
    assert told(model.requests[1]) == ["one", "two"]
    assert [used["result"] for used in result["steps"][0]["tool_calls"]] == ["one", "two"]


async def test_no_more_tool_calls_run_at_once_than_allowed(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[{"name": "count", "type": "builtin"}])
    running, most = 0, 0

    async def count() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(20):
            await asyncio.sleep(0)
        running -= 1
        return ""

    model = ScriptedModel([calls(*[("count", {})] * 6), "Done."])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"count": count})), {"parallel_tool_calls": 2}) as app:
        await ask(app)
    assert most == 2


def fail(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("ghost", {}), "There is no tool 'ghost'; there is flaky."),
        (("flaky", "{broken"), "not JSON"),
        (("flaky", "[1]"), "not a JSON object"),
        (("flaky", {"how": "422"}), "$.arguments.how: is not allowed"),
        (("flaky", {"how": "error"}), "division by zero"),
        (("flaky", {"how": "unavailable"}), "No node here offers tools."),
        (("flaky", {"how": "timeout"}), "did not answer within 0.05 s"),
    ],
)
async def test_what_goes_wrong_with_a_tool_is_told_to_the_model(tmp_path: Path, wanted: tuple[str, Any], said: str) -> None:
    agent_file(tmp_path, tools=[{"name": "flaky", "type": "builtin"}])
    stuck = Stuck()
    failures: dict[str, Any] = {
        "422": lambda: fail(InvalidBody("$.arguments.how: is not allowed")),
        "error": lambda: fail(ValueError("division by zero")),
        "unavailable": lambda: fail(ServiceUnavailable("No node here offers tools.")),
        "timeout": stuck,
    }
    model = ScriptedModel([calls(wanted), "I could not."])
    tools = Tools({"flaky": lambda how: failures[how]()})
    async with agents(tmp_path, Neighbours(inference=model, tools=tools), {"tool_timeout_s": 0.05}) as app:
        result = await ask(app)
    [used] = result["steps"][0]["tool_calls"]
    assert (used["status"], result["answer"]) == ("error", "I could not.")
    assert said in used["error"]
    assert said in told(model.requests[1])[0]
    assert stuck.cancelled.is_set() == ("timeout" in str(wanted))


async def test_a_long_tool_result_is_cut_for_the_model_and_says_so(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[{"name": "long", "type": "builtin"}])
    model = ScriptedModel([calls(("long", {})), "Long."])
    neighbours = Neighbours(inference=model, tools=Tools({"long": lambda: "x" * 5000}))
    async with agents(tmp_path, neighbours, {"tool_result_chars": 100}) as app:
        await ask(app)
    assert told(model.requests[1]) == ["x" * 100 + "\n[cut here: 5000 characters, 100 shown]"]


async def test_builtin_tools_are_asked_for_once(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR])
    tools = Tools({"calculator": calculator})
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["One.", "Two."]), tools=tools)) as app:
        assert tools.asked_for_list == 0
        await ask(app)
        await ask(app)
    assert tools.asked_for_list == 1


async def test_an_agent_with_tools_fails_clearly_when_no_node_has_them(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR])
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([]))) as app:
        with pytest.raises(ServiceUnavailable, match="tools"):
            await ask(app)


async def test_used_up_iterations_end_with_a_last_word_without_tools(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR], orchestration={"max_iterations": 2})
    again = calls(("calculator", {"expression": "2+2"}))
    model = ScriptedModel([again, again, "So far: 4."])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))) as app:
        result = await ask(app)
    assert (result["outcome"], result["answer"], len(result["steps"])) == ("max_iterations", "So far: 4.", 3)
    assert "tools" in model.requests[1]
    assert "tools" not in model.requests[2]


async def test_used_up_iterations_without_a_last_word_say_so(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR], orchestration={"max_iterations": 1})
    again = calls(("calculator", {"expression": "2+2"}))
    model = ScriptedModel([again, again])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))) as app:
        result = await ask(app)
    assert result["answer"] == "The agent stopped after 1 iterations without an answer."


async def test_an_answer_that_the_model_cut_short_is_called_truncated(tmp_path: Path) -> None:
    agent_file(tmp_path)
    model = ScriptedModel([{"content": "Half of", "finish_reason": "length"}])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        assert (await ask(app))["outcome"] == "truncated"


async def test_a_run_beyond_its_time_is_cancelled_and_names_agent_and_limit(tmp_path: Path) -> None:
    agent_file(tmp_path, orchestration={"timeout_seconds": 0.05})
    stuck = Stuck()
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([stuck]))) as app:
        with pytest.raises(DeadlineExceeded, match=r"'tester' did not finish within its 0.05 s .*timeout_seconds"):
            await ask(app)
    assert stuck.cancelled.is_set()


async def test_the_request_deadline_ends_a_run_too(tmp_path: Path) -> None:
    agent_file(tmp_path)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([Stuck()]))) as app:
        with pytest.raises(DeadlineExceeded, match="request's deadline"):
            await post(app, "/v1/agents/tester/run", {"query": "Go."}, background(deadline_s=0.05))


async def test_a_caller_who_leaves_cancels_model_and_tools(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[{"name": "slow", "type": "builtin"}])
    in_tool, in_model = Stuck(), Stuck()
    for script, stuck in (([calls(("slow", {}))], in_tool), ([in_model], in_model)):
        neighbours = Neighbours(inference=ScriptedModel(list(script)), tools=Tools({"slow": in_tool}))
        async with agents(tmp_path, neighbours) as app:
            run = asyncio.create_task(ask(app))
            await stuck.entered.wait()
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert stuck.cancelled.is_set()


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


async def test_a_failure_within_a_run_never_claims_that_nothing_has_begun(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[CALCULATOR])
    model = ScriptedModel([calls(("calculator", {"expression": "2+2"})), NotBegun("draining")])
    async with agents(tmp_path, Neighbours(inference=model, tools=Tools({"calculator": calculator}))) as app:
        with pytest.raises(NotBegun) as raised:
            await ask(app)
    assert "X-Astromesh-Not-Begun" not in raised.value.headers
    assert raised.value.headers["Retry-After"] == "1"


async def test_agents_call_agents_and_their_usage_adds_up(tmp_path: Path) -> None:
    agent_file(tmp_path, "boss", tools=[{"name": "ask_clerk", "type": "agent", "agent": "clerk"}], model={"primary": {"model": "big"}})
    agent_file(tmp_path, "clerk", model={"primary": {"model": "small"}})
    model = ScriptedModel([calls(("ask_clerk", {"query": "How many?"})), "Seven.", "The clerk says seven."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        result = await ask(app, name="boss", session_id="mine")
    assert (model.requests[1]["messages"], model.depths) == ([{"role": "user", "content": "How many?"}], [0, 1, 0])
    assert model.requests[0]["tools"][0]["function"]["parameters"]["required"] == ["query"]
    assert result["steps"][0]["tool_calls"][0]["result"] == "Seven."
    assert {row["model"]: (row["tokens_in"], row["calls"]) for row in result["usage"]["by_model"]} == {"big": (20, 2), "small": (10, 1)}
    assert (result["usage"]["tokens_in"], result["usage"]["model"]) == (30, "big")


async def test_agents_that_call_themselves_stop_at_the_depth_limit(tmp_path: Path) -> None:
    agent_file(tmp_path, "mirror", tools=[{"name": "again", "type": "agent", "agent": "mirror"}])
    deeper = calls(("again", {"query": "deeper"}))
    model = ScriptedModel([deeper, deeper, deeper, "Bottom.", "Up.", "Top."])
    async with agents(tmp_path, Neighbours(inference=model), {"max_depth": 2}) as app:
        result = await ask(app, name="mirror")
    assert model.depths == [0, 1, 2, 2, 1, 0]
    assert told(model.requests[3]) == ["Agents may call agents 2 deep; answer without 'again'."]
    assert result["answer"] == "Top."


async def test_an_agent_that_is_missing_is_a_tool_error(tmp_path: Path) -> None:
    agent_file(tmp_path, tools=[{"name": "ask", "type": "agent", "agent": "nobody"}])
    model = ScriptedModel([calls(("ask", {"query": "Hello?"})), "Nobody is there."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        result = await ask(app)
    assert "There is no agent 'nobody' here; there is tester." in result["steps"][0]["tool_calls"][0]["error"]


async def test_a_client_tool_is_handed_over_and_the_model_told_so(tmp_path: Path) -> None:
    tool = {"name": "show_map", "type": "client", "parameters": {"place": {"type": "string", "required": True}}}
    agent_file(tmp_path, tools=[tool])
    model = ScriptedModel([calls(("show_map", {"place": "Oslo"})), "There you see it."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        told_events = await events(app)
    schema = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
    assert model.requests[0]["tools"][0]["function"]["parameters"] == schema
    [announced] = [data for kind, data in told_events if kind == "tool_call"]
    assert (announced["client"], json.loads(announced["arguments"])) == (True, {"place": "Oslo"})
    assert "handed to the client" in told(model.requests[1])[0]


async def test_the_prompt_is_rendered_with_agent_tools_and_context(tmp_path: Path) -> None:
    prompt = "{{ agent.display_name }}/{{ tools | join('+') }}/{{ context.user }}/{{ user }}"
    agent_file(tmp_path, identity={"display_name": "Tess"}, tools=[{"name": "wave", "type": "client"}], prompts={"system": prompt})
    model = ScriptedModel(["Hi."])
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        await ask(app, context={"user": "{{ agent.name }}", "agent": "someone else"})
    assert model.requests[0]["messages"][0] == {"role": "system", "content": "Tess/wave/{{ agent.name }}/{{ agent.name }}"}


@pytest.mark.parametrize(
    ("prompt", "error", "said"),
    [
        ("{{ user.name }}", InvalidBody, "'user' is undefined"),
        ("{{ 1 // 0 }}", AgentUnavailable, "cannot be rendered"),
        ("{{ ''.__class__.__mro__ }}", AgentUnavailable, "unsafe"),
        ("{{ 'x' * 1000000000 }}", AgentUnavailable, "too large"),
        ("{{ 9 ** 999999999 }}", AgentUnavailable, "too large"),
        ("{% for i in range(5000) %}xxxxxxxxxx{% endfor %}", AgentUnavailable, "grows beyond 1000 characters"),
        ("{% include 'other' %}", AgentUnavailable, "cannot be rendered"),
    ],
)
async def test_a_prompt_that_cannot_be_rendered_names_its_file(tmp_path: Path, prompt: str, error: type[NodeError], said: str) -> None:
    path = agent_file(tmp_path, prompts={"system": prompt})
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([])), {"prompt_chars": 1000}) as app:
        with pytest.raises(error, match=said) as raised:
            await ask(app)
    assert str(path) in raised.value.message


@pytest.mark.parametrize(
    ("body", "param"), [({}, "$"), ({"query": ""}, "$.query"), ({"query": "Go.", "sesion_id": "x"}, "$"), ({"query": 7}, "$.query")]
)
async def test_a_run_request_of_the_wrong_shape_is_refused(tmp_path: Path, body: Any, param: str) -> None:
    agent_file(tmp_path)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([]))) as app:
        with pytest.raises(InvalidBody) as raised:
            await post(app, "/v1/agents/tester/run", body)
    assert raised.value.param == param


async def test_a_session_id_that_no_path_carries_is_refused(tmp_path: Path) -> None:
    agent_file(tmp_path)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel([]))) as app:
        with pytest.raises(BadRequest, match="session id"):
            await ask(app, session_id="a/b")


async def test_a_run_without_a_session_gets_one_that_names_the_store(tmp_path: Path) -> None:
    agent_file(tmp_path)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["Hi."]))) as app:
        assert (await ask(app))["session_id"].startswith("s_555555555555_")


async def test_an_unknown_agent_is_answered_with_those_there_are(tmp_path: Path) -> None:
    agent_file(tmp_path, "anna")
    agent_file(tmp_path, "bert")
    async with agents(tmp_path, Neighbours()) as app:
        with pytest.raises(AgentNotFound, match=r"'carl' here; there is anna, bert\."):
            await ask(app, name="carl")


async def test_half_a_surrogate_pair_passes_through(tmp_path: Path) -> None:
    agent_file(tmp_path)
    async with agents(tmp_path, Neighbours(inference=ScriptedModel(["Half \ud83d pair", "Half \ud83d pair"]))) as app:
        body = json.dumps({"query": "\ud83d"}).encode()
        headers = [(b"content-type", b"application/json"), (b"accept", b"text/event-stream")]
        async with call(app, "POST", "/v1/agents/tester/run", body=body, headers=headers) as reply:
            assert b"Half \\ud83d pair" in await reply.read()
