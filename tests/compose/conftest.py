from collections.abc import Iterator

import pytest

from tests.compose.stack import Stack, stack


@pytest.fixture(scope="session")
def shared() -> Iterator[Stack]:
    """The stack as it is shipped, for tests that leave it as they found it."""
    with stack() as made:
        yield made
