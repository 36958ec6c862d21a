from collections.abc import Iterator

import pytest

from tests.compose.stack import Stack, stack

WAYS = {"mesh": "true", "static": "false"}
"""How the nodes know each other, as shipped or by the peers in the profiles: what ASTROMESH_MESH_ENABLED is."""


@pytest.fixture(scope="session", params=list(WAYS.values()), ids=list(WAYS))
def shared(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The stack, for tests that leave it as they found it."""
    with stack(ASTROMESH_MESH_ENABLED=request.param) as made:
        yield made
