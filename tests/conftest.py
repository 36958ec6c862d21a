import pytest
from hypothesis import settings

# The same examples every time: whether a change is sound must not hang on the luck of a run. Edit the seed away to look for more.
# And no deadline for an example, which a machine with other work misses now and then.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
