"""The bucket's arithmetic as Redis does it, over any sequence of requests: never more, never less, and waits that are
right."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import assume, given
from hypothesis import settings as search
from hypothesis import strategies as st
from redis import Redis

from serve_app.local.valkey import Valkey
from serve_app.lua import read_script

BURST_US = 2_000_000
START_US = 1_800_000_000_000_000
# Requests at the times ARGV[2..]: for each, how long it would have to wait and what is missing after it.
DRIVER = """
local interval, full_at, out = tonumber(ARGV[1]), nil, {}
for place, now in ipairs(cjson.decode(ARGV[2])) do
  local missing, after, wait = read_bucket(full_at, now, interval)
  if wait == 0 then
    full_at = string.format('%.0f', now + after)
    missing = after
  end
  out[place] = { wait, missing }
end
return cjson.encode(out)
"""

INTERVALS = st.one_of(st.integers(100, 50_000), st.integers(50_000, 100_000_000))
PAUSES = st.lists(st.one_of(st.just(0), st.integers(0, 60_000), st.integers(0, 5_000_000)), min_size=1, max_size=120)


@pytest.fixture(scope="module")
def client(valkey: Valkey) -> Iterator[Redis]:
    with Redis.from_url(valkey.url) as client:
        yield client


def ask(client: Redis, interval: int, times: list[int]) -> list[tuple[int, int]]:
    """(wait, missing) of a request at each time, in microseconds."""
    reply = client.eval(read_script("serve_app.gateway", "bucket") + DRIVER, 0, interval, json.dumps(times))
    return [(int(wait), int(missing)) for wait, missing in json.loads(reply)]


def moments(pauses: list[int]) -> list[int]:
    now, times = START_US, []
    for pause in pauses:
        now += pause
        times.append(now)
    return times


@search(max_examples=150, deadline=None)
@given(INTERVALS, PAUSES)
def test_no_span_of_time_passes_more_than_a_burst_and_the_rate(client: Redis, interval: int, pauses: list[int]) -> None:
    times = moments(pauses)
    passed = [now for now, (wait, _) in zip(times, ask(client, interval, times), strict=True) if wait == 0]
    room = max(BURST_US, interval) // interval
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            assert last - first + 1 <= room + (passed[last] - passed[first]) // interval + 1


@search(max_examples=150, deadline=None)
@given(INTERVALS, PAUSES)
def test_it_is_the_bucket_that_one_would_draw(client: Redis, interval: int, pauses: list[int]) -> None:
    """Held against a plain bucket: so much is missing, it fills with time, a request takes its interval or waits."""
    room, missing, before = max(BURST_US, interval), 0, START_US
    times = moments(pauses)
    for now, (wait, left) in zip(times, ask(client, interval, times), strict=True):
        missing = max(0, missing - (now - before))
        expected = max(0, missing + interval - room)
        if expected == 0:
            missing += interval
        assert (wait, left) == (expected, missing)
        before = now


@search(max_examples=100, deadline=None)
@given(INTERVALS, PAUSES)
def test_who_waits_as_told_passes_and_a_moment_earlier_does_not(
    client: Redis, interval: int, pauses: list[int]
) -> None:
    times = moments([0] * 41 + pauses)
    waits = ask(client, interval, times)
    place = next((place for place, (wait, _) in enumerate(waits) if wait), None)
    assume(place is not None)
    assert place is not None
    ready = times[place] + waits[place][0]
    (early, _), (on_time, _) = (ask(client, interval, [*times[:place], then])[-1] for then in (ready - 1, ready))
    assert (early, on_time) == (1, 0)


def test_a_new_bucket_holds_two_seconds_of_requests(client: Redis) -> None:
    for per_second, at_once in ((20, 40), (100, 200), (0.7, 1), (0.01, 1), (10_000, 20_000)):
        interval = int(1_000_000 / per_second)
        waits = [wait for wait, _ in ask(client, interval, [START_US] * (at_once + 1))]
        assert waits[:-1] == [0] * at_once
        assert waits[-1] > 0


def test_a_clock_that_goes_back_costs_one_bucket_at_most(client: Redis) -> None:
    interval = 50_000
    times = [START_US] * 40 + [START_US - 3_600_000_000]
    wait, _ = ask(client, interval, times)[-1]
    assert wait == interval


DEBTOR = """
local interval, bucket, now = tonumber(ARGV[1]), KEYS[1], tonumber(ARGV[2])
write_bucket(bucket, now, tonumber(ARGV[3]), interval)
local out = {}
for place, later in ipairs(cjson.decode(ARGV[4])) do
  local _, _, wait = read_bucket(redis.call('GET', bucket), now + later, interval)
  out[place] = wait
end
redis.call('DEL', bucket)
return cjson.encode(out)
"""


@search(max_examples=50, deadline=None)
@given(INTERVALS, st.integers(1, 500))
def test_a_bucket_that_owes_is_paid_by_time_whatever_the_clock_does(client: Redis, interval: int, more: int) -> None:
    room, missing = max(BURST_US, interval), more * interval
    owed = max(0, missing + interval - room)
    moments_later = [0, owed, max(0, owed - 1), -3_600_000_000]
    script = read_script("serve_app.gateway", "bucket") + DEBTOR
    reply = client.eval(script, 1, "rate:submit:debtor", interval, START_US, missing, json.dumps(moments_later))
    now, paid, almost, clock_back = json.loads(reply)
    assert (now, paid, almost) == (owed, 0, min(1, owed))
    assert clock_back <= max(owed, 0) + interval
