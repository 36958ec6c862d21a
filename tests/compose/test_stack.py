"""The shipped stack, asked at its gateway: a worker's agent answers with tools, memory, and the model of the inference node."""

import json
import re
from typing import Any

import openai
import pytest

from tests.compose.stack import QUESTION, Answer, Stack, ask, docker, opened, run, wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(120)]


@pytest.fixture
def client(shared: Stack) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{shared.url()}/v1", api_key="none", max_retries=0, timeout=30)


def answers(text: str) -> bool:
    """It has the product, and a time of day."""
    return "391" in text and re.search(r"\d\d:\d\d", text) is not None


def test_a_question_to_the_gateway_is_answered_by_the_workers_agent_with_both_tools(shared: Stack) -> None:
    answer = run(shared.url(), QUESTION)
    assert answer.status == 200
    assert answer.headers["x-astromesh-node"] == "worker"
    assert answers(answer.json["answer"]), answer.json
    called = {call["name"] for step in answer.json["steps"] for call in step["tool_calls"]}
    assert called == {"calculator", "datetime_now"}


def test_the_second_turn_of_a_session_remembers_the_first(shared: Stack) -> None:
    first = run(shared.url(), QUESTION)
    second = run(shared.url(), "What did I ask before?", first.json["session_id"])
    assert QUESTION in second.json["answer"]
    assert QUESTION not in run(shared.url(), "What did I ask before?").json["answer"], "another session knows nothing of it"


def test_the_gateway_gives_the_conversation_that_the_worker_keeps(shared: Stack) -> None:
    session = run(shared.url(), QUESTION).json["session_id"]
    history = ask(shared.url(), f"/v1/memory/assistant/history/{session}")
    assert history.headers["x-astromesh-node"] == "worker"
    roles = [message["role"] for message in history.json["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "assistant"]


def test_a_run_streams_typed_events_and_ends_with_done(shared: Stack) -> None:
    with opened(shared.url(), "/v1/agents/assistant/run", {"query": QUESTION}, {"Accept": "text/event-stream"}) as response:
        events = [event for event in response.read().decode().split("\n\n") if event.startswith("event: ")]
    names = [event.split("\n")[0].removeprefix("event: ") for event in events]
    assert set(names) == {"step", "token", "tool_call", "tool_result", "done"}
    assert names[-1] == "done"
    done: Any = json.loads(events[-1].split("data: ")[1])
    assert answers(done["answer"])


def test_the_openai_sdk_talks_to_the_agent_as_a_model(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="agent/assistant", messages=[{"role": "user", "content": QUESTION}])
    assert answers(completion.choices[0].message.content or "")
    assert completion.choices[0].finish_reason == "stop"


def test_the_openai_sdk_streams_from_the_agent(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="agent/assistant", messages=[{"role": "user", "content": QUESTION}], stream=True)
    chunks = [chunk.choices[0] for chunk in stream if chunk.choices]
    assert answers("".join(choice.delta.content or "" for choice in chunks))
    assert chunks[-1].finish_reason == "stop"


def test_the_openai_sdk_reaches_the_inference_node_through_the_worker(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="builtin", messages=[{"role": "user", "content": "my name is Ada"}])
    assert raw.headers["x-astromesh-node"] == "inference"
    assert raw.parse().choices[0].message.content
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nothing-like-it", messages=[{"role": "user", "content": "hello"}])
    assert caught.value.code == "model_not_found"
    assert "builtin" in caught.value.message, "the error lists what there is"


def test_the_openai_sdk_lists_models_and_agents_of_all_nodes(client: openai.OpenAI) -> None:
    assert {"builtin", "agent/assistant"} <= {model.id for model in client.models.list()}


def test_docker_finds_every_node_healthy(shared: Stack) -> None:
    nodes = [shared.container(service) for service in ("gateway", "worker", "inference")]
    state = ("inspect", "--format", "{{.State.Health.Status}}", *nodes)
    wait_until(lambda: docker(*state).stdout.split() == ["healthy"] * 3, "all three are healthy", 40)


def test_only_the_gateway_is_reachable_from_this_machine_and_only_by_loopback(shared: Stack) -> None:
    for service in ("worker", "inference"):
        assert docker("port", shared.container(service)).stdout == ""
    assert docker("port", shared.container("gateway")).stdout.startswith("8000/tcp -> 127.0.0.1:")


def test_errors_of_another_node_arrive_in_the_one_shape(shared: Stack) -> None:
    def run_unknown() -> Answer:
        return ask(shared.url(), "/v1/agents/nobody/run", {"query": "hello"})

    assert (run_unknown().status, run_unknown().code) == (404, "agent_not_found")
    bad = ask(shared.url(), "/v1/tools/execute", {"tool_name": "calculator", "arguments": {"expression": 1}})
    assert (bad.status, bad.code) == (422, "invalid_body")
