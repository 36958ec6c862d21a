"""Nodes start in any order: what is there answers, says what is missing, and the rest is found when it comes."""

import itertools
from collections.abc import Iterator

import pytest

from tests.compose.conftest import WAYS
from tests.compose.stack import QUESTION, Stack, run, stack

pytestmark = [pytest.mark.compose, pytest.mark.timeout(120)]


@pytest.fixture(scope="module", params=list(WAYS.values()), ids=list(WAYS))
def created(request: pytest.FixtureRequest) -> Iterator[Stack]:
    with stack(start=False, ASTROMESH_MESH_ENABLED=request.param) as made:
        yield made


@pytest.mark.parametrize("order", list(itertools.permutations(("gateway", "worker", "inference"))), ids="-".join)
def test_the_stack_answers_whatever_the_order_in_which_its_nodes_start(created: Stack, order: tuple[str, ...]) -> None:
    created.compose("kill", check=False)
    for position, service in enumerate(order):
        created.compose("start", service)
        created.wait_listening(service)
        if "gateway" in order[: position + 1] and position < 2:
            answer = run(created.url(), QUESTION)
            assert (answer.status, answer.code) == (503, "service_unavailable")
    created.wait_answering()
    assert "391" in run(created.url(), QUESTION).json["answer"]
