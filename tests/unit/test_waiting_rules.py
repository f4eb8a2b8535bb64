"""What waiting needs no server for: the header Prefer, places, and how fast a model is taken to be."""

from __future__ import annotations

import pytest

from serve_app.gateway.background.throughput import FORGET_S, INTERVALS_MIN, PERIOD_S, Rate, Throughput
from serve_app.gateway.live import WAIT_MAX_S, estimate, wait_of
from serve_app.gateway.ratelimit import ConcurrencyLimit
from serve_app.jobs.records import Backlog, Ledger, QueuePosition, read_queue_position


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["wait=5"], 5),
        (["Wait = 5"], 5),
        (['wait="5"'], 5),
        (["respond-async, wait=5; soon"], 5),
        (["respond-async", "wait=5"], 5),
        (['note="a, wait=9", wait=5'], 5),
        (["wait=5, wait=9"], 5),
        (["wait=0"], 0),
        (["wait=100"], WAIT_MAX_S),
        (["wait=999999999"], WAIT_MAX_S),
        ([], None),
        ([""], None),
        (["wait"], None),
        (["wait="], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=soon, wait=5"], None),
        (["wait=٣"], None),
        (["await=5"], None),
        (["wait 5"], None),
        (['"wait=5'], None),
        (["wait=" + "9" * 5000], None),
        (["," * 50_000 + "=" * 10_000], None),
    ],
)
def test_wait_is_read_by_the_rules_of_the_header(values: list[str], seconds: int | None) -> None:
    assert wait_of(values) == seconds


def test_places_are_bounded_and_given_back() -> None:
    places = ConcurrencyLimit(3, 2)
    with places.take("ada") as first, places.take("ada") as second, places.take("ada") as third:
        assert (first, second, third) == (True, True, False)
        with places.take("bob") as fourth, places.take("eve") as fifth:
            assert (fourth, fifth) == (True, False)
        with places.take("eve") as again:
            assert again
    assert places.taken == {}


def seen(*looks: tuple[float, int, int]) -> Throughput:
    speed = Throughput()
    for now, ended, waiting in looks:
        speed.observe(now, Ledger(completed=ended), Backlog(waiting=waiting, leased=1))
    return speed


def test_a_rate_is_the_range_of_what_was_measured() -> None:
    speed = seen((0, 0, 9), (2, 20, 9), (4, 60, 9), (6, 90, 9))
    assert speed.rate(6) == Rate(slowest=10, fastest=20)
    assert speed.rate(6 + FORGET_S) is None


def test_time_without_jobs_that_wait_is_not_measured() -> None:
    idle = seen(*((2.0 * look, look, 0) for look in range(10)))
    assert idle.rate(20) is None
    short = seen(*((PERIOD_S * look, 10 * look, 9) for look in range(INTERVALS_MIN)))
    assert short.rate(PERIOD_S * INTERVALS_MIN) is None


def test_an_interval_goes_on_until_a_job_ends() -> None:
    speed = seen((0, 0, 9), (2, 0, 9), (4, 0, 9), (8, 8, 9), (10, 10, 9), (12, 12, 9))
    assert speed.rate(12) == Rate(slowest=1, fastest=1)


@pytest.mark.parametrize(
    ("older", "owners", "first_class", "waiting", "place"),
    [
        (0, 1, 1, 1, QueuePosition(0, 0, 4)),
        (5, 1, 1, 9, QueuePosition(5, 5, 4)),
        (0, 3, 1, 900, QueuePosition(0, 2, 4)),
        (5, 3, 1, 900, QueuePosition(5, 17, 4)),
        (5, 3, 1, 10, QueuePosition(5, 9, 4)),
        (0, 1, 0, 900, QueuePosition(0, 899, 4)),
    ],
)
def test_a_place_is_bounded_by_turns_and_by_all_who_wait(
    older: int, owners: int, first_class: int, waiting: int, place: QueuePosition
) -> None:
    assert read_queue_position([older, owners, first_class, 4, [b"accepted", str(waiting + 4).encode()]]) == place


def test_an_estimate_goes_from_the_best_case_to_the_worst() -> None:
    assert estimate(QueuePosition(19, 39, 8), Rate(2, 4), 8) == {"low": 3, "high": 28}
    assert estimate(QueuePosition(0, 0, 0), Rate(2, 4), 8) == {"low": 0, "high": 4}
