"""The breaker: closed only after a warm-up, slower with every failure, up to a bound."""

from serve_app.jobs.breaker import FIRST_DELAY_S, MAX_DELAY_S, Breaker


def failed(times: int) -> Breaker:
    breaker = Breaker()
    for _ in range(times):
        breaker.half_open()
        breaker.open("the model is not there")
    return breaker


def test_a_model_is_not_trusted_before_its_first_warm_up() -> None:
    breaker = Breaker()
    assert not breaker.closed
    assert breaker.delay == 0
    assert breaker.reason is None
    breaker.close()
    assert breaker.closed


def test_the_delay_doubles_with_every_failure_up_to_its_bound() -> None:
    for times in range(1, 40):
        longest = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** (times - 1))
        breaker = failed(times)
        assert all(longest / 2 <= breaker.delay <= longest for _ in range(20))


def test_processes_do_not_try_again_at_the_same_moment() -> None:
    assert len({failed(8).delay for _ in range(20)}) > 1


def test_jobs_that_fail_together_count_once() -> None:
    breaker = Breaker()
    breaker.close()
    for _ in range(10):
        breaker.open("no replica answers")
    assert breaker.delay <= FIRST_DELAY_S
    assert breaker.reason == "no replica answers"


def test_a_warm_up_alone_does_not_forgive_earlier_failures() -> None:
    breaker = failed(4)
    breaker.close()
    assert breaker.reason is None
    breaker.open("again")
    assert breaker.delay > FIRST_DELAY_S
    breaker.close()
    breaker.succeed()
    breaker.open("and again")
    assert breaker.delay <= FIRST_DELAY_S


def test_require_warm_up_half_opens_a_closed_breaker_at_once_and_shortens_no_delay() -> None:
    breaker = Breaker()
    breaker.close()
    breaker.require_warm_up()
    assert not breaker.closed
    assert breaker.delay == 0
    breaker = failed(8)
    breaker.require_warm_up()
    assert breaker.delay > 0
