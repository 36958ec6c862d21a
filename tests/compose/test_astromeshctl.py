"""Every command of astromeshctl, in the image, against the shipped stack."""

import json

import pytest

from tests.compose.stack import Stack, docker

pytestmark = [pytest.mark.compose, pytest.mark.timeout(120)]
ASKING = (
    "status", "doctor", "services", "agents list", "tools list", "tools test calculator expression=17*23", "providers list",
    "peers list", "traces list", "metrics http_requests", "config validate", "config print",
)  # fmt: skip


def ctl(stack: Stack, *arguments: str, check: bool = True) -> str:
    return docker("exec", stack.container("gateway"), "astromeshctl", *arguments, check=check).stdout


def test_every_command_that_asks_answers_in_80_columns_and_in_json(shared: Stack) -> None:
    for command in ASKING:
        shown = ctl(shared, *command.split())
        assert shown
        assert all(len(line) <= 80 for line in shown.splitlines()), (command, shown)
        assert isinstance(json.loads(ctl(shared, *command.split(), "--json")), dict), command


def test_a_question_is_answered_and_its_trace_shows_the_three_nodes(shared: Stack) -> None:
    assert ctl(shared, "run", "assistant", "What is 17*23?") == "17*23 = 391.\n"
    trace = json.loads(ctl(shared, "run", "assistant", "What is 2*3?", "--json"))["trace"]["trace_id"]
    shown = ctl(shared, "traces", "show", trace)
    assert all(name in shown for name in ("gateway", "worker", "inference"))


def test_the_mesh_is_shown_where_it_is_on(shared: Stack) -> None:
    if shared.environ["ASTROMESH_MESH_ENABLED"] != "true":
        pytest.skip("the static stack has no mesh")
    assert "3 of 3 members alive" in ctl(shared, "mesh", "nodes")
    assert "3 of 3 members alive" in ctl(shared, "mesh", "watch")
    assert "3 alive" in ctl(shared, "mesh", "status")
