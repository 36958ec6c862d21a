"""The runner behind `make test`: what failed fails, what cannot run is named with its reason, and CI accepts no gap."""

import sys

import pytest

from tests.run import SUITES, Suite, main


def suite(name: str, code: str = "", *, budget_s: int = 20, reason: str = "", needs: str = "") -> Suite:
    """A suite that runs Python ``code``."""
    return Suite(name, budget_s, ((sys.executable, "-c", code),), lambda: reason, needs)


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


def test_what_ran_is_told_with_its_time_against_its_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], (suite("quick"), suite("other"))) == 0
    told = capsys.readouterr().out
    assert "RAN:\n  quick: passed, 0 s of 20 s\n  other: passed, 0 s of 20 s\nNOT RUN: nothing" in told


def test_a_suite_that_fails_makes_the_run_fail_and_the_others_still_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], (suite("broken", "raise SystemExit(3)"), suite("other"))) == 1
    told = capsys.readouterr().out
    assert "broken: FAILED" in told
    assert "exited 3" in told
    assert "other: passed" in told


def test_what_cannot_run_is_told_with_its_reason_and_is_no_failure_outside_ci(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    suites = (suite("here"), suite("kept", reason="there is no engine"), suite("after", needs="kept"))
    assert main([], suites) == 0
    told = capsys.readouterr().out
    assert "NOT RUN:\n  kept: because there is no engine\n  after: because kept did not run" in told
    monkeypatch.setenv("CI", "true")
    assert main([], suites) == 1


def test_what_needs_a_failed_suite_does_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], (suite("image", "raise SystemExit(1)"), suite("inside", needs="image"))) == 1
    assert "inside: because image failed" in capsys.readouterr().out


def test_a_suite_that_hangs_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], (suite("hanging", "import signal; signal.pause()", budget_s=0),)) == 1
    assert "was stopped, it ran too long" in capsys.readouterr().out


def test_naming_a_suite_runs_it_alone_and_an_unknown_name_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["one"], (suite("one"), suite("two"))) == 0
    assert "two" not in capsys.readouterr().out
    assert main(["three"], (suite("one"), suite("two"))) == 2
    assert "there are one, two" in capsys.readouterr().out


def test_every_suite_has_a_name_of_its_own_and_comes_after_what_it_needs() -> None:
    names = [each.name for each in SUITES]
    assert len(set(names)) == len(names)
    assert all(each.needs in ("", *names[:position]) for position, each in enumerate(SUITES))
