"""Deliveries against a real receiver: signed, on time, at least once and with one id, whatever the receiver does."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import pytest
from gateway_parts import until
from job_help import claimed, configured, submission
from receiver import Receiver, receiving
from redis.asyncio import Redis
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError
from webhook_help import OWNER, Town, allowing, documented_verify, sending

from serve_app.contracts import Failure
from serve_app.errors import WebhookUrlInvalid
from serve_app.settings import Settings
from serve_app.webhooks.limits import JITTER, LOG_MAX, QUEUE_MAX, SCHEDULE_S, SLOW_AT_ONCE, TIMEOUT_S, WAITING_MAX
from serve_app.webhooks.store import Webhook, WebhookStore

BURST = 2_000


@pytest.fixture
async def town(redis: Redis, settings: Settings, receiver: Receiver) -> Town:
    return Town(redis, allowing(settings, receiver.here))


async def got(receiver: Receiver, number: int) -> None:
    await until(lambda: len(receiver.got) >= number)
    assert len(receiver.got) == number


async def test_an_ended_job_is_told_and_independent_code_verifies_it(town: Town, receiver: Receiver) -> None:
    endpoint = await town.register(receiver.url)
    async with sending(town.settings):
        done = await town.end_job()
        await got(receiver, 1)
        failed = await town.end_job(failure=Failure("model-rejected", "no"))
        await got(receiver, 2)
    for message, job, status in zip(receiver.got, (done, failed), ("COMPLETED", "FAILED"), strict=True):
        documented_verify()(endpoint.secrets[0], message.headers, message.body)
        body = Verifier(endpoint.secrets[0]).verify(message.body, message.headers)
        links = {"self": f"/jobs/{job}"}
        assert body["data"] == {"job_id": job, "status": status, "model": "stub", "links": links}
        assert body["type"] == f"job.{status.lower()}"
        assert body["timestamp"].endswith("Z")
        assert message.line == "POST /hooks?who=me HTTP/1.1"
        assert message.headers["content-type"] == "application/json"
        assert message.headers["host"] == receiver.here
        with pytest.raises(WebhookVerificationError):
            Verifier(endpoint.secrets[0]).verify(message.body + b" ", message.headers)
        with pytest.raises(ValueError, match="not signed"):
            documented_verify()(endpoint.secrets[0], message.headers, message.body + b" ")


async def test_only_what_was_asked_for_and_only_to_its_owner(town: Town, receiver: Receiver) -> None:
    await town.register(receiver.url, "job.failed")
    await town.register(receiver.url, "job.completed", owner="bob")
    async with sending(town.settings):
        await town.end_job()
        await town.end_job(owner="cem", failure=Failure("model-rejected", "no"))
        failed = await town.end_job(failure=Failure("model-rejected", "no"))
        await got(receiver, 1)
    assert json.loads(receiver.got[0].body)["data"]["job_id"] == failed
    assert await town.redis.xlen("webhook-events") == 0


async def test_a_job_of_somebody_without_webhooks_leaves_nothing(town: Town) -> None:
    await town.end_job()
    assert [name for name in await town.redis.keys() if name.startswith(b"webhook")] == []


@pytest.mark.slow(reason="retries wait")
async def test_retries_follow_the_schedule_with_one_id_and_end_by_switching_off(town: Town, receiver: Receiver) -> None:
    endpoint = await town.register(receiver.url)
    receiver.answers = [500]
    async with sending(town.settings):
        await town.end_job()
        for number, pause_s in enumerate((*SCHEDULE_S[1:], None), start=1):
            delivery = await until(lambda number=number: town.attempted(endpoint, number))
            if pause_s is None:
                break
            due_s = (delivery.next_attempt_at - delivery.attempts[-1]["at"]) / 1000
            assert pause_s <= due_s <= pause_s * (1 + JITTER) + 2
            await town.hurry(endpoint)
    assert delivery.status == "failed"
    assert delivery.next_attempt_at is None
    assert [attempt["status"] for attempt in delivery.attempts] == [500] * len(SCHEDULE_S)
    assert delivery.attempts[0]["error"] == "The receiver answered 500."
    assert {message.id for message in receiver.got} == {delivery.id}
    assert len({message.body for message in receiver.got}) == 1
    assert len(receiver.got) == len(SCHEDULE_S)
    kept = await town.endpoints.read(OWNER, endpoint.id)
    assert kept.disabled_at is not None
    assert "last attempt" in kept.disabled_why


async def written(town: Town, endpoint: Webhook, number: int) -> bool:
    """Whether the log tells of so many attempts in all; before that none may be hurried: one is under way."""
    return sum(len(one.attempts) for one in await town.deliveries(endpoint)) == number


@pytest.mark.slow(reason="a delivery runs into its deadline")
async def test_an_endpoint_that_took_something_since_stays_on(town: Town, receiver: Receiver) -> None:
    endpoint = await town.register(receiver.url)
    receiver.answers = [500, 204, 500]
    async with sending(town.settings):
        await town.end_job()
        await until(lambda: written(town, endpoint, 1))
        await town.end_job()
        for number in range(2, len(SCHEDULE_S) + 1):
            await until(lambda number=number: written(town, endpoint, number))
            await town.hurry(endpoint)
        await until(
            lambda: town.deliveries(endpoint),
            fits=lambda found: {one.status for one in found} == {"delivered", "failed"},
        )
    assert (await town.endpoints.read(OWNER, endpoint.id)).disabled_at is None


async def test_gone_switches_off_at_once_and_a_taken_test_switches_on(town: Town, receiver: Receiver) -> None:
    endpoint = await town.register(receiver.url)
    receiver.answers = [410, 500, 204]
    async with sending(town.settings):
        await town.end_job()
        gone = await until(lambda: town.attempted(endpoint, 1))
        assert gone.status == "failed"
        assert (await town.endpoints.read(OWNER, endpoint.id)).disabled_why == "The receiver answered 410 Gone."
        await town.end_job()  # nobody is told
        await town.endpoints.send_test(OWNER, endpoint.id)

        async def tried(number: int) -> bool:
            return len(receiver.got) == number and all(
                one.status != "waiting" for one in await town.deliveries(endpoint)
            )

        await until(lambda: tried(2))
        assert (await town.endpoints.read(OWNER, endpoint.id)).disabled_at is not None
        await town.endpoints.send_test(OWNER, endpoint.id)
        await until(lambda: tried(3))
    assert (await town.endpoints.read(OWNER, endpoint.id)).disabled_at is None
    assert json.loads(receiver.got[2].body) | {"timestamp": ""} == {
        "type": "webhook.test",
        "timestamp": "",
        "data": {"webhook_id": endpoint.id},
    }
    assert len(await town.deliveries(endpoint)) == 3


@pytest.mark.parametrize("answer", [301, 302, 307, 308])
async def test_a_redirect_is_a_failure_and_never_followed(town: Town, receiver: Receiver, answer: int) -> None:
    endpoint = await town.register(receiver.url)
    async with receiving() as inside:
        location = f"Location: {inside.url}\r\n".encode()
        receiver.answers = [b"HTTP/1.1 %d Elsewhere\r\nContent-Length: 0\r\n%s\r\n" % (answer, location)]
        async with sending(town.settings):
            await town.end_job()
            delivery = await until(lambda: town.attempted(endpoint, 1))
        assert "redirect" in delivery.attempts[0]["error"]
        assert delivery.status == "waiting"
        assert inside.got == []


@pytest.mark.parametrize(("asked", "least", "most"), [("3600", 3600, 3602), ("9" * 30, 86_400, 86_402), ("1", 5, 9)])
async def test_retry_after_is_honoured_within_a_day(
    town: Town, receiver: Receiver, asked: str, least: int, most: int
) -> None:
    endpoint = await town.register(receiver.url)
    receiver.answers = [f"HTTP/1.1 503 No\r\nRetry-After: {asked}\r\nContent-Length: 0\r\n\r\n".encode()]
    async with sending(town.settings):
        await town.end_job()
        delivery = await until(lambda: town.attempted(endpoint, 1))
    assert least <= (delivery.next_attempt_at - delivery.attempts[0]["at"]) / 1000 <= most


async def test_both_secrets_sign_for_a_day_after_a_rotation(town: Town, receiver: Receiver) -> None:
    endpoint = await town.register(receiver.url)
    rotated = await town.endpoints.rotate(OWNER, endpoint.id)
    assert rotated.secrets[1] == endpoint.secrets[0] != rotated.secrets[0]
    day_ms = rotated.older_secret_until - await town.now_ms()  # type: ignore[operator]
    assert 86_390_000 < day_ms <= 86_400_000
    async with sending(town.settings):
        await town.end_job()
        await got(receiver, 1)
        await town.redis.hset(f"webhook:{endpoint.id}", "older_until", int(time.time() * 1000) - 1)
        await town.end_job()
        await got(receiver, 2)
    for secret in rotated.secrets:
        Verifier(secret).verify(receiver.got[0].body, receiver.got[0].headers)
        if secret == rotated.secrets[0]:
            Verifier(secret).verify(receiver.got[1].body, receiver.got[1].headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(endpoint.secrets[0]).verify(receiver.got[1].body, receiver.got[1].headers)


async def test_a_redelivery_has_the_same_id_and_begins_the_schedule_again(town: Town, receiver: Receiver) -> None:
    endpoint = await town.register(receiver.url)
    receiver.answers = [204, 500]
    async with sending(town.settings):
        await town.end_job()
        first = await until(lambda: town.attempted(endpoint, 1))
        assert first.status == "delivered"
        await town.endpoints.redeliver(OWNER, endpoint.id, first.id)
        again = await until(lambda: town.attempted(endpoint, 2))
    assert again.status == "waiting"
    assert 5 <= (again.next_attempt_at - again.attempts[1]["at"]) / 1000 <= 9
    assert receiver.got[0].id == receiver.got[1].id == first.id
    assert receiver.got[0].body == receiver.got[1].body


async def silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def flood(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def test_a_receiver_that_streams_for_ever_has_taken_it(town: Town, receiver: Receiver) -> None:
    endpoint = await town.register(receiver.url)
    receiver.answers = [flood]
    async with sending(town.settings):
        await town.end_job()
        assert (await until(lambda: town.attempted(endpoint, 1))).status == "delivered"


@pytest.mark.fault(reason="deliveries run into their deadline")
async def test_a_receiver_that_never_answers_keeps_nobody_else_waiting(town: Town, receiver: Receiver) -> None:
    async with receiving() as dead:
        dead.answers = [silent]
        settings = allowing(town.settings, receiver.here, dead.here)
        town = Town(town.redis, settings)
        await town.register(receiver.url)
        async with sending(settings):
            await town.end_job()
            await got(receiver, 1)  # it is known to take what it is sent
            for _ in range(5):
                await town.register(dead.url)
            await town.register(receiver.url, owner="bob")
            for number in range(2, 5):
                await town.end_job()
                await got(receiver, number)
            for number in range(5, 25):
                await town.end_job(owner="bob")
                await got(receiver, number)
            # One at a time for each endpoint, and two of one owner's, though three wait for each. A place is free again
            # after TIMEOUT_S.
            assert dead.most_within(TIMEOUT_S / 2) == 2


async def test_a_killed_senders_delivery_is_another_s_with_the_same_id(
    town: Town, receiver: Receiver, settings: Settings
) -> None:
    await town.register(receiver.url)
    receiver.answers = [silent, 204]
    script = str(Path(__file__).with_name("sender_process.py"))
    url = settings.redis_url.get_secret_value()
    victim = await asyncio.create_subprocess_exec(sys.executable, script, url, receiver.here)
    try:
        await town.end_job()
        await got(receiver, 1)
    finally:
        victim.kill()
        await victim.wait()
    [(endpoint, ends)] = await town.redis.zrange("webhook-due", 0, -1, withscores=True)
    assert 0 < ends - await town.now_ms() <= 30_000
    async with sending(town.settings):
        await town.redis.zadd("webhook-due", {endpoint: 0})  # the claim runs out
        await got(receiver, 2)
    assert receiver.got[0].id == receiver.got[1].id
    assert receiver.got[0].body == receiver.got[1].body


async def test_a_claim_that_ran_out_settles_nothing(town: Town, receiver: Receiver) -> None:
    """A sender that was frozen past its claim and wakes does not undo what the next one did."""
    endpoint = await town.register(receiver.url)
    answered = asyncio.Event()

    async def late(writer: asyncio.StreamWriter) -> None:
        await answered.wait()
        writer.write(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")

    receiver.answers = [late, 204]
    async with sending(town.settings):
        await town.end_job()
        await got(receiver, 1)
        await town.redis.zadd("webhook-due", {endpoint.id: 0})
        delivered = await until(lambda: town.attempted(endpoint, 1))
        answered.set()
        await town.end_job()
        await got(receiver, 3)
    assert delivered.status == "delivered"
    assert (await town.endpoints.read(OWNER, endpoint.id)).disabled_at is None


async def test_queues_are_bounded_and_what_found_no_room_is_counted(town: Town, receiver: Receiver) -> None:
    endpoint = await town.register(receiver.url)
    queue = f"webhook-queue:{endpoint.id}"
    later = await town.now_ms() + 10**9
    await town.redis.zadd(queue, {f"msg_{number}": later for number in range(QUEUE_MAX)})
    async with sending(town.settings):
        await town.end_job()
        await until(lambda: town.endpoints.read(OWNER, endpoint.id), fits=lambda found: found.dropped == 1)
        await town.redis.delete(queue)
        await town.redis.zadd("webhook-waiting", {f"msg_{number}": later for number in range(WAITING_MAX)})
        await town.end_job()
        await until(lambda: town.endpoints.read(OWNER, endpoint.id), fits=lambda found: found.dropped == 2)
    assert receiver.got == []
    assert await town.redis.hget("webhook-totals", "dropped") == b"2"


async def test_a_burst_finds_room_and_switching_off_ends_all_of_it(town: Town, receiver: Receiver) -> None:
    """A receiver takes one after the other; a user's two thousand jobs that end meanwhile are not lost to it."""
    endpoint = await town.register(receiver.url)
    receiver.answers = [silent]
    async with town.redis.pipeline(transaction=False) as pipeline:
        for number in range(BURST):
            facts = {"type": "job.completed", "at": 1, "owner": OWNER, "job_id": f"job-{number}", "run": 1}
            pipeline.xadd("webhook-events", {**facts, "status": "COMPLETED", "model": "stub"})
        await pipeline.execute()

    async def waits(number: int) -> bool:
        counted = {await town.redis.zcard(f"webhook-queue:{endpoint.id}"), await town.redis.zcard("webhook-waiting")}
        return counted == {number}

    async with sending(town.settings):
        await until(lambda: waits(BURST), 60)
    assert (await town.endpoints.read(OWNER, endpoint.id)).dropped == 0
    receiver.answers = [410]
    await town.redis.zadd("webhook-due", {endpoint.id: 0})  # the claim's time is over
    async with sending(town.settings):
        await until(lambda: waits(0))
    assert await town.redis.hget("webhook-totals", "failed") == str(BURST).encode()
    assert len(await town.redis.keys("webhook-delivery:*")) == LOG_MAX == len(await town.deliveries(endpoint))


async def test_the_log_keeps_the_last_ones_and_every_record_leaves_in_the_end(town: Town, receiver: Receiver) -> None:
    endpoint = await town.register(receiver.url)
    async with sending(town.settings):
        for _ in range(LOG_MAX + 5):
            await town.endpoints.send_test(OWNER, endpoint.id)
        await got(receiver, LOG_MAX + 5)
        await until(lambda: town.redis.zcard("webhook-waiting"), fits=lambda found: found == 0)
    records = await town.redis.keys("webhook-delivery:*")
    assert len(records) == LOG_MAX == len(await town.deliveries(endpoint))
    for name in (*records, f"webhook-log:{endpoint.id}"):
        assert 0 < await town.redis.ttl(name) <= 7 * 86_400
    await town.endpoints.remove(OWNER, endpoint.id)
    left = {name.decode() for name in await town.redis.keys("webhook*")}
    assert left == {"webhook-events", "webhook-totals"} - ({"webhook-events"} - left)


@pytest.mark.fault(reason="10,000 events")
async def test_jobs_end_while_events_pile_up_and_redis_is_full(town: Town, receiver: Receiver) -> None:
    """Nothing of webhooks is ever a reason for a job not to end; and what ended is told even then."""
    endpoint = await town.register(receiver.url)
    jobs = [await town.job_store.submit(submission(OWNER)) for _ in range(3)]
    chunk = await claimed(town.job_store)
    async with town.redis.pipeline(transaction=False) as pipeline:
        for _ in range(9_998):
            pipeline.xadd("webhook-events", {"owner": "nobody"})
        await pipeline.execute()
    async with configured(town.redis, "maxmemory", 1):
        assert all(await town.job_store.complete([(task, {"n": 1}) for task in chunk.tasks]))
        assert await town.redis.xlen("webhook-events") == 10_000
        assert await town.redis.hget("webhook-totals", "dropped") == b"1"
        async with sending(town.settings):
            await until(lambda: told(town, endpoint, 2), 60)
    assert {json.loads(message.body)["data"]["job_id"] for message in receiver.got} < {job.id for job in jobs}


async def told(town: Town, endpoint: Webhook, number: int) -> bool:
    found = await town.deliveries(endpoint)
    return [one.status for one in found] == ["delivered"] * number


@pytest.mark.fault(reason="deliveries run into their deadline")
async def test_many_receivers_that_hang_leave_places_for_the_others(town: Town, receiver: Receiver) -> None:
    """Once they are known to be slow they may have half of the places, and two for each owner."""
    async with receiving() as dead:
        settings = allowing(town.settings, receiver.here, dead.here)
        town = Town(town.redis, settings)
        dead.answers = [silent]
        owners = [f"user-{number}" for number in range(SLOW_AT_ONCE // 2 + 1)]
        slow = [await town.register(dead.url, owner=owner) for owner in owners for _ in range(10)]
        for endpoint in slow:
            await town.redis.hset(f"webhook:{endpoint.id}", "slow", 1)
        fast = await town.register(receiver.url)
        for owner in owners:
            await town.end_job(owner)
        async with sending(settings):
            await until(lambda: len(dead.got) >= SLOW_AT_ONCE)
            for number in range(1, 6):
                await town.end_job()
                await until(lambda number=number: told(town, fast, number))
            assert dead.most_within(TIMEOUT_S / 2) == SLOW_AT_ONCE


async def test_a_full_house_still_has_room_for_who_holds_little(town: Town, receiver: Receiver) -> None:
    endpoint, other = await town.register(receiver.url), await town.register(receiver.url, owner="bob")
    later = await town.now_ms() + 10**9
    await town.redis.zadd("webhook-waiting", {f"msg_{number}": later for number in range(WAITING_MAX - 8)})
    await town.redis.zadd(f"webhook-queue:{endpoint.id}", {"msg_a": later, "msg_b": later})
    async with sending(town.settings):
        await town.end_job()
        await town.end_job("bob")
        await got(receiver, 1)
    assert (await town.endpoints.read(OWNER, endpoint.id)).dropped == 1
    assert (await town.endpoints.read("bob", other.id)).dropped == 0


async def test_production_wants_tls(town: Town) -> None:
    endpoints = WebhookStore(town.redis, town.settings.model_copy(update={"environment": "prod"}))
    with pytest.raises(WebhookUrlInvalid, match="must begin with https://"):
        await endpoints.register(OWNER, "http://example.org/", ["job.failed"])
    assert (await endpoints.register(OWNER, "https://example.org/", ["job.failed"])).url == "https://example.org/"
