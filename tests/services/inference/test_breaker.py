from app.services.inference.breaker import Breaker, BreakerPolicy


def opened() -> Breaker:
    breaker = Breaker(BreakerPolicy(failure_threshold=2, recovery_timeout_s=10))
    for now in (0.0, 1.0):
        assert breaker.enter(now) == 0
        breaker.leave(now, success=False)
    return breaker


def test_a_circuit_opens_after_failures_in_a_row() -> None:
    breaker = opened()
    assert breaker.open
    assert breaker.enter(4.0) == 7.0


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker(BreakerPolicy(failure_threshold=2))
    for success in (False, True, False, True, False):
        breaker.enter(0.0)
        breaker.leave(0.0, success)
    assert not breaker.open


def test_what_says_nothing_of_the_provider_changes_nothing() -> None:
    breaker = Breaker(BreakerPolicy(failure_threshold=1))
    breaker.enter(0.0)
    breaker.leave(0.0, success=None)
    assert not breaker.open


def test_one_trial_at_a_time_goes_through_after_the_recovery_time() -> None:
    breaker = opened()
    assert breaker.enter(11.0) == 0
    assert breaker.enter(11.0) > 0
    breaker.leave(12.0, success=True)
    assert not breaker.open
    assert breaker.enter(12.0) == 0


def test_a_failed_trial_starts_the_recovery_time_again_and_a_cancelled_one_frees_its_place() -> None:
    breaker = opened()
    breaker.enter(11.0)
    breaker.leave(12.0, success=False)
    assert breaker.enter(13.0) == 9.0
    assert breaker.enter(22.0) == 0
    breaker.leave(22.0, success=None)
    assert breaker.enter(22.0) == 0
