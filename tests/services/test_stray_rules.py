"""What is looked for after each test is found: a key too many, too long, too large or without its owner."""

from __future__ import annotations

import pytest
from redis import Redis as BlockingRedis
from stray_keys import strays

from serve_app.jobs.limits import LISTED_MAX
from serve_app.local.valkey import Valkey
from serve_app.webhooks.limits import ENDPOINTS_MAX

pytestmark = pytest.mark.usefixtures("own_keys")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("job:a", {"status": "COMPLETED", "model": "m"}),
        ("batch:a", {"open": "0"}),
        ("items:a", {"0": "{}"}),
        ("webhook:a", {"owner": "ann"}),
        ("webhook-delivery:a", {"status": "delivered"}),
        ("outputs:a", {"data:mask.png": ""}),
        ("replicas-of:a", {"b": "c"}),
    ],
)
def test_a_record_without_its_end_or_owner_is_found(valkey: Valkey, name: str, fields: dict[str, str]) -> None:
    with BlockingRedis.from_url(valkey.url) as client:
        client.hset(name, mapping=fields)
        assert [line.partition(": ")[0] for line in strays(client)] == [name]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("wait:m:normal:ann", 1),
        ("lease:m", 1),
        ("dead:m", 1),
        ("fetch:ann", 1),
        ("webhook-queue:a", 1),
        ("webhook-log:a", 1),
        ("webhooks:ann", ENDPOINTS_MAX + 1),
        ("jobs:ann", LISTED_MAX + 1),
    ],
)
def test_members_that_nobody_has_or_too_many_are_found(valkey: Valkey, name: str, count: int) -> None:
    with BlockingRedis.from_url(valkey.url) as client:
        client.zadd(name, {f"member/{number}": number for number in range(count)})
        client.expire(name, 60)
        assert [line.partition(": ")[0] for line in strays(client)] == [name]


def test_an_input_that_no_job_has_is_found(valkey: Valkey) -> None:
    with BlockingRedis.from_url(valkey.url) as client:
        client.set("blob:a", "")
        assert [line.partition(": ")[0] for line in strays(client)] == ["blob:a"]


def test_what_has_its_owner_and_its_end_is_left_alone(valkey: Valkey) -> None:
    with BlockingRedis.from_url(valkey.url) as client:
        client.hset("job:a", mapping={"status": "PENDING", "model": "m"})
        client.set("blob:a", "")
        client.set("blob:b", "", ex=60)
        client.set("sweep-turn", "taken", ex=15)
        client.hset("batch:a", mapping={"open": "1"})
        client.hset("items:a", mapping={"0": "{}"})
        client.zadd("wait:m:normal:ann", {"a": 1})
        client.zadd("fetch:ann", {"a/0": 1})
        client.zadd("webhooks:ann", {"e": 1})
        client.hset("webhook:e", mapping={"owner": "ann"})
        client.zadd("webhook-waiting", {"d": 1})
        client.hset("webhook-delivery:d", mapping={"status": "waiting"})
        assert strays(client) == []
