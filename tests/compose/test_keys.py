"""The stack with API keys, as one sets them before opening it wider."""

import pytest

from tests.compose.conftest import WAYS
from tests.compose.stack import QUESTION, Answer, Stack, ask, stack, wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(120)]
RUN = "/v1/agents/assistant/run"


def run_as(made: Stack, key: str, query: str, session: str) -> Answer:
    return ask(made.url(), RUN, {"query": query, "session_id": session}, {"Authorization": f"Bearer {key}"})


KEYS = "ada:sk-first-0123456789,bob:sk-second-0123456789"


@pytest.mark.parametrize(("mesh", "mesh_key"), [(WAYS["mesh"], "mk-0123456789"), (WAYS["static"], "mk-0123456789"), (WAYS["static"], "")])
def test_with_keys_clients_present_one_nodes_find_each_other_and_conversations_do_not_mix(mesh: str, mesh_key: str) -> None:
    with stack(start=False, ASTROMESH_API_KEYS=KEYS, ASTROMESH_MESH_ENABLED=mesh, ASTROMESH_MESH_KEY=mesh_key) as made:
        made.compose("up", "--no-build", "--detach")
        wait_until(lambda: run_as(made, "sk-first-0123456789", QUESTION, "ours").status == 200, "the stack answers who has a key")
        for refused in ({}, {"Authorization": "Bearer sk-wrong"}):
            answer = ask(made.url(), RUN, {"query": QUESTION}, refused)
            assert (answer.status, answer.code) == (401, "invalid_api_key")
        again = "What did I ask before?"
        assert QUESTION in run_as(made, "sk-first-0123456789", again, "ours").json["answer"]
        assert QUESTION not in run_as(made, "sk-second-0123456789", again, "ours").json["answer"]
        assert "sk-first" not in made.logs()
        assert "sk-second" not in made.logs()
        assert "mk-" not in made.logs()
