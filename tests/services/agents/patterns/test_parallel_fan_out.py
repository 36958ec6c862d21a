"""parallel_fan_out: the parts of a question are worked on at once, within a bound, and one that fails stops no other."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from app.call import call
from app.context import background
from app.errors import ProviderUnavailable
from app.sse import decode
from tests.services.agents.world import ScriptedModel, Stuck, agent_file, agents, ask, events, plays, post, said
from tests.support import Neighbours

SPEC: dict[str, Any] = {"model": plays("planner", "worker", "synthesizer"), "orchestration": {"pattern": "parallel_fan_out"}}
BODY = {"model": "agent/tester", "messages": [{"role": "user", "content": "Go."}]}


def scripted(tasks: str, worker: Any, answer: str = "All told.") -> ScriptedModel:
    workers = [worker] * len(tasks) if callable(worker) else worker
    return ScriptedModel({"planner": [json.dumps({"tasks": list(tasks)})], "worker": workers, "synthesizer": [answer]})


def task_of(request: dict[str, Any]) -> str:
    return said(request).split("Your task: ")[1]


async def test_workers_run_at_once_and_their_results_keep_the_order_of_the_plan(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC)
    barrier = asyncio.Barrier(3)

    async def work(request: dict[str, Any]) -> str:
        async with asyncio.timeout(10):  # fails here unless all three are asked at the same time
            await barrier.wait()
        return f"{task_of(request)} is done."

    model = scripted("abc", work)
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        result = await ask(app, "A, b and c?")
    assert (result["answer"], result["outcome"]) == ("All told.", "answered")
    assert "1. a\nResult: a is done.\n2. b\nResult: b is done.\n3. c\nResult: c is done." in said(model.requests[-1])
    assert [step.get("task") for step in result["steps"]] == [None, "a", "b", "c", None]
    assert [step["step"] for step in result["steps"]] == [1, 2, 3, 4, 5]
    assert result["usage"]["by_model"][1] == {"model": "worker", "tokens_in": 30, "tokens_out": 9, "calls": 3}


async def test_no_more_workers_than_the_setting_allows_run_at_once(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC)
    running, most, pair = 0, 0, asyncio.Barrier(2)

    async def work(request: dict[str, Any]) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        async with asyncio.timeout(10):
            await pair.wait()
        running -= 1
        return "Done."

    async with agents(tmp_path, Neighbours(inference=scripted("abcdef", work)), {"parallel_workers": 2}) as app:
        await ask(app)
    assert most == 2


@pytest.mark.parametrize("failure", [ProviderUnavailable("b is down"), "FAILED: b is down"])
async def test_one_worker_that_fails_does_not_sink_the_others(tmp_path: Path, failure: Any) -> None:
    agent_file(tmp_path, **SPEC)
    model = scripted("abc", lambda request: failure if task_of(request) == "b" else "Fine.")
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        result = await ask(app)
    assert (result["answer"], result["outcome"]) == ("All told.", "answered")
    assert "1. a\nResult: Fine.\n2. b\nFailed: b is down\n3. c\nResult: Fine." in said(model.requests[-1])


async def test_when_no_worker_can_be_asked_the_run_fails_and_names_each(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC)
    model = scripted("ab", lambda request: ProviderUnavailable(f"{task_of(request)} is down"))
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        with pytest.raises(ProviderUnavailable, match=r"'a': a is down; 'b': b is down"):
            await ask(app)


async def test_a_caller_who_leaves_cancels_every_worker(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC)
    stuck = [Stuck(), Stuck()]
    async with agents(tmp_path, Neighbours(inference=scripted("ab", list(stuck)))) as app:
        run = asyncio.create_task(ask(app))
        await asyncio.gather(*(each.entered.wait() for each in stuck))
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert all(each.cancelled.is_set() for each in stuck)


async def test_workers_that_narrate_are_heard_one_whole_result_at_a_time(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC | {"orchestration": {"pattern": "parallel_fan_out", "narrate": True}})
    async with agents(tmp_path, Neighbours(inference=scripted("ab", lambda request: f"{task_of(request)} is quite done."))) as app:
        told = await events(app)
    heard = [data["text"] for kind, data in told if kind == "token" and data["step"] in (2, 3)]
    assert sorted(heard) == ["a is quite done.", "b is quite done."]


async def test_a_streamed_chat_completion_parts_the_words_of_workers_that_narrate(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC | {"orchestration": {"pattern": "parallel_fan_out", "narrate": True}})
    model = scripted("ab", lambda request: f"{task_of(request)} is done.")
    async with agents(tmp_path, Neighbours(inference=model)) as app:
        async with call(app, "POST", "/v1/chat/completions", body=BODY | {"stream": True}, context=background()) as reply:
            chunks = [json.loads(event.data) async for event in decode(reply.chunks()) if event.data != "[DONE]"]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    assert sorted(text.split("\n\n")) == ["All told.", "a is done.", "b is done.", '{"tasks": ["a", "b"]}']


async def test_a_chat_completion_has_the_answer_alone(tmp_path: Path) -> None:
    agent_file(tmp_path, **SPEC)
    async with agents(tmp_path, Neighbours(inference=scripted("ab", lambda request: "Fine."))) as app:
        answer = await post(app, "/v1/chat/completions", BODY)
    assert answer["choices"][0]["message"]["content"] == "All told."
    assert answer["usage"]["prompt_tokens"] == 40
