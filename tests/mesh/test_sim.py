"""The mesh's core in virtual time: faults drawn per seed, its promises checked throughout. `make sim SEEDS=…` runs more."""

import pytest

from tests.mesh.sim import report, run_seed


@pytest.mark.parametrize("seed", range(20))
def test_a_mesh_of_twelve_keeps_its_promises_through_whatever_befalls_it(seed: int) -> None:
    result = run_seed(seed, size=12)
    assert not result.violations, report(result)


def test_a_mesh_of_forty_keeps_them_too() -> None:
    result = run_seed(0, size=40)
    assert not result.violations, report(result)


def test_a_seed_always_gives_the_same_scenario() -> None:
    assert run_seed(7, size=8).log == run_seed(7, size=8).log
