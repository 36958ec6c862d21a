import pytest
from hypothesis import settings

# The same examples every time: whether a change is sound must not hang on the luck of a run. Edit the seed away to look for more.
settings.register_profile("suite", derandomize=True)
settings.load_profile("suite")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
