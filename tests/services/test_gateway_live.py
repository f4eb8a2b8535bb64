"""Waiting for jobs over HTTP: `Prefer: wait`, streams of events, and the place in the queue; against real servers."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from gateway_parts import (
    IMAGE_MODEL,
    PICTURE,
    RESULT,
    Answering,
    Running,
    held_back,
    id_of,
    listening,
    running_gateway,
    service_of,
    until,
)
from job_help import claimed, submission

from serve_app.contracts import Json, Outcome, Task
from serve_app.gateway import http, live
from serve_app.gateway.live import WAIT_MAX_S
from serve_app.local.issuer import DevIssuerServer
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings

LONG_S = 15.0


@pytest.fixture
async def shut(gateway: Running) -> Running:
    """A gateway before a model that answers nothing until it is let."""
    gateway.model.open.clear()
    return gateway


@pytest.fixture
async def socket(shut: Running) -> AsyncIterator[httpx2.AsyncClient]:
    """A client on a real socket: streams and disconnects are real."""
    async with listening(shut.application) as url, httpx2.AsyncClient(base_url=url, timeout=30) as client:
        yield client


async def submit_and_wait(gateway: Running, prefer: str) -> httpx2.Response:
    headers = {**gateway.bearer(), "Prefer": prefer}
    return await gateway.client.post("/api/v1/jobs", files={"image": ("a.png", PICTURE)}, headers=headers)


async def look(gateway: Running, job_id: str, prefer: str) -> httpx2.Response:
    return await gateway.client.get(f"/api/v1/jobs/{job_id}", headers={**gateway.bearer(), "Prefer": prefer})


async def processing(gateway: Running, job_id: str) -> bool:
    return bool((await gateway.get(f"/api/v1/jobs/{job_id}")).json()["status"] == "PROCESSING")


async def test_a_job_that_ends_in_time_is_the_answer(gateway: Running) -> None:
    answer = await submit_and_wait(gateway, "wait=15")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["status"], answer.json()["result"]) == ("COMPLETED", RESULT)
    assert (answer.headers["Preference-Applied"], answer.headers["Vary"]) == ("wait=15", "Prefer")
    assert "Retry-After" not in answer.headers
    [usage] = await gateway.usage()
    assert (usage["status_code"], usage["endpoint_type"]) == (200, "inference")


async def test_a_job_that_does_not_end_in_time_is_accepted_all_the_same(shut: Running) -> None:
    begun = time.monotonic()
    answer = await submit_and_wait(shut, "wait=1")
    submitted = time.monotonic()
    assert answer.status_code == 202
    assert submitted - begun >= 1
    assert (answer.headers["Preference-Applied"], answer.headers["Location"][:13]) == ("wait=1", "/api/v1/jobs/")
    looked = await look(shut, answer.json()["job_id"], "wait=1")
    assert (looked.status_code, looked.json()["completed_at"]) == (200, None)
    took = (submitted - begun, time.monotonic() - submitted)
    assert looked.headers["Retry-After"] == "1"
    usage = await shut.usage()
    assert [event["status_code"] for event in usage] == [202, 200]
    for event, seconds in zip(usage, took, strict=True):
        assert event["latency_ms"] < (seconds - 0.99) * 1000, "the wait is the caller's, not the service's"


async def test_what_was_known_already_is_waited_for_too(shut: Running) -> None:
    job_id = await shut.submit()
    await until(lambda: processing(shut, job_id))
    tag = (await shut.get(f"/api/v1/jobs/{job_id}")).headers["ETag"]
    headers = {**shut.bearer(), "If-None-Match": tag, "Prefer": "wait=20"}
    looking = asyncio.create_task(shut.client.get(f"/api/v1/jobs/{job_id}", headers=headers))
    await held_back(shut)
    shut.model.open.set()
    answer = await asyncio.wait_for(looking, LONG_S)
    assert (answer.status_code, answer.json()["status"]) == (200, "COMPLETED")
    assert answer.headers["ETag"] == (await shut.get(f"/api/v1/jobs/{job_id}")).headers["ETag"] != tag


async def test_a_look_ends_when_the_job_does(shut: Running) -> None:
    job_id = await shut.submit()
    looking = asyncio.create_task(look(shut, job_id, "wait=600"))
    await held_back(shut)
    shut.model.open.set()
    answer = await asyncio.wait_for(looking, LONG_S)
    assert answer.json()["status"] == "COMPLETED"
    assert answer.headers["Preference-Applied"] == f"wait={WAIT_MAX_S}"
    assert service_of(shut).watch.waits.taken == {}


async def test_a_wait_is_longer_than_the_deadline_of_a_read(settings: Settings, authority: DevIssuerServer) -> None:
    async with running_gateway(settings, authority, read_timeout_s=0.5) as gateway:
        gateway.model.open.clear()
        answer = await look(gateway, await gateway.submit(), "wait=1")
        assert (answer.status_code, answer.json()["completed_at"]) == (200, None)


@pytest.mark.parametrize("prefer", ["wait", "wait=soon", "respond-async", ""])
async def test_what_is_no_wait_is_left_unread(shut: Running, prefer: str) -> None:
    answer = await submit_and_wait(shut, prefer)
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers
    assert answer.headers["Vary"] == "Prefer"


async def test_errors_come_at_once(shut: Running) -> None:
    begun = time.monotonic()
    unknown = await look(shut, "no-such-job", "wait=20")
    refused = await shut.client.post("/api/v1/jobs", json={}, headers={**shut.bearer(), "Prefer": "wait=20"})
    assert (unknown.status_code, refused.status_code) == (404, 400)
    assert time.monotonic() - begun < WAIT_MAX_S / 2


async def test_the_older_door_does_not_wait(shut: Running) -> None:
    headers = {**shut.bearer(), "Prefer": "wait=20"}
    answer = await shut.client.post("/api/v1/inference", files={"image": ("a.png", PICTURE)}, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (200, "PENDING")
    assert "Vary" not in answer.headers


async def test_more_than_may_wait_are_answered_at_once(shut: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await shut.submit()
    many = [asyncio.create_task(look(shut, job_id, "wait=20")) for _ in range(live.WAITS_MAX_PER_USER)]
    await held_back(shut, live.WAITS_MAX_PER_USER)
    answer = await asyncio.wait_for(look(shut, job_id, "wait=20"), LONG_S)
    assert "Preference-Applied" not in answer.headers
    assert not any(task.done() for task in many)
    shut.model.open.set()
    assert {(await task).json()["status"] for task in many} == {"COMPLETED"}


async def test_who_goes_away_ends_the_wait_and_not_the_job(shut: Running, socket: httpx2.AsyncClient) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        await socket.post(
            "/api/v1/jobs",
            files={"image": ("a.png", PICTURE)},
            headers={**shut.bearer(), "Prefer": "wait=20"},
            timeout=httpx2.Timeout(10, read=1.0),
        )
    await held_back(shut, 0)
    [usage] = await until(shut.usage)
    assert usage["status_code"] == 499
    shut.model.open.set()
    assert (await shut.ended(usage["job_id"]))["status"] == "COMPLETED"


async def test_a_cancelled_job_is_told_to_who_waits(shut: Running, socket: httpx2.AsyncClient) -> None:
    job_id = await shut.submit()
    await until(lambda: processing(shut, job_id))
    looking = asyncio.create_task(look(shut, job_id, "wait=20"))
    async with events(shut, socket, job_id) as told:
        await told.next()
        await held_back(shut)
        assert (await shut.post(f"/api/v1/jobs/{job_id}/cancel")).status_code == 200
        assert await told.rest() == ["CANCELLED"]
    assert (await asyncio.wait_for(looking, LONG_S)).json()["status"] == "CANCELLED"


async def test_a_replica_that_goes_answers_who_waits(shut: Running) -> None:
    asking = asyncio.create_task(submit_and_wait(shut, "wait=20"))
    await held_back(shut)
    service_of(shut).shutdown.set()
    assert (await asyncio.wait_for(asking, LONG_S)).status_code == 202


async def test_a_wait_outlives_the_job_redis(shut: Running, valkey: Valkey) -> None:
    job_id = await shut.submit()
    await until(lambda: processing(shut, job_id))
    looking = asyncio.create_task(look(shut, job_id, "wait=20"))
    await held_back(shut)
    valkey.kill()
    valkey.start()
    shut.model.open.set()
    answer = await asyncio.wait_for(looking, WAIT_MAX_S + LONG_S)
    assert answer.json()["status"] == "COMPLETED"


class Events:
    """An open stream, read piece by piece."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()
        self.comments = 0

    async def next(self) -> tuple[str, Json]:
        """The next event: its id and what it tells. Raises StopAsyncIteration at the end."""
        event: dict[str, str] = {}
        async with asyncio.timeout(LONG_S):
            while True:
                line = await anext(self._lines)
                name, _, value = line.partition(": ")
                if not line and "data" in event:
                    assert event["event"] == "job"
                    return event["id"], json.loads(event["data"])
                self.comments += line.startswith(":")
                event[name] = value

    async def rest(self) -> list[str]:
        """The statuses told until the stream ends."""
        statuses = []
        try:
            while True:
                statuses.append((await self.next())[1]["status"])
        except StopAsyncIteration:
            return statuses


@asynccontextmanager
async def events(
    gateway: Running, client: httpx2.AsyncClient, job_id: str, user: str = "ada", **headers: str
) -> AsyncIterator[Events]:
    headers = {**gateway.bearer(user), **headers}
    async with client.stream("GET", f"/api/v1/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        yield Events(answer)


async def test_a_stream_tells_the_present_state_and_each_change(shut: Running, socket: httpx2.AsyncClient) -> None:
    job_id = await shut.submit()
    await until(lambda: processing(shut, job_id))
    async with events(shut, socket, job_id) as told:
        assert told.answer.headers["Content-Type"].startswith("text/event-stream")
        first, job = await told.next()
        assert (first, job["status"], job["job_id"]) == ("1-1-PROCESSING", "PROCESSING", job_id)
        shut.model.open.set()
        last, job = await told.next()
        assert (last, job["result"]) == ("1-1-COMPLETED", RESULT)
        assert await told.rest() == []
    usage = [event for event in await shut.usage() if event["endpoint_type"] == "job_events"]
    assert [(event["status_code"], event["job_id"]) for event in usage] == [(200, job_id)]
    assert service_of(shut).watch.streams.taken == {}


async def test_who_comes_back_is_not_told_again(shut: Running, socket: httpx2.AsyncClient) -> None:
    job_id = await shut.submit()
    await until(lambda: processing(shut, job_id))
    async with events(shut, socket, job_id, **{"Last-Event-ID": "1-0-PENDING"}) as told:
        assert (await told.next())[0] == "1-1-PROCESSING"
    async with events(shut, socket, job_id, **{"Last-Event-ID": "1-1-PROCESSING"}) as told:
        shut.model.open.set()
        assert await told.rest() == ["COMPLETED"]
    async with events(shut, socket, job_id) as told:
        assert await told.rest() == ["COMPLETED"]
    headers = {**shut.bearer(), "Last-Event-ID": "1-1-COMPLETED"}
    assert (await socket.get(f"/api/v1/jobs/{job_id}/events", headers=headers)).status_code == 204


async def test_a_job_that_was_lost_is_told_as_it_waits_and_runs_again(
    settings: Settings, authority: DevIssuerServer
) -> None:
    async with running_gateway(settings, authority, cards=[]) as gateway, listening(gateway.application) as url:
        service = service_of(gateway)
        job = await service.jobs.submit(submission(id_of(gateway, "ada")))
        async with httpx2.AsyncClient(base_url=url) as client, events(gateway, client, job.id) as told:
            assert (await told.next())[0] == "1-0-PENDING"
            await service.jobs.release_as_lost((await claimed(service.jobs)).tasks, "the replica was lost")
            seen = [(await told.next())[0]]
            while seen[-1] != "1-1-PENDING":
                seen.append((await told.next())[0])
            chunk = await claimed(service.jobs)
            assert (await told.next())[0] == "1-2-PROCESSING"
            await service.jobs.complete([(task, {}) for task in chunk.tasks])
            assert await told.rest() == ["COMPLETED"]


async def test_streams_are_bounded_per_user(shut: Running, socket: httpx2.AsyncClient) -> None:
    job_id = await shut.submit()
    headers, path = shut.bearer(), f"/api/v1/jobs/{job_id}/events"
    opened = [
        await socket.send(socket.build_request("GET", path, headers=headers), stream=True)
        for _ in range(live.STREAMS_MAX_PER_USER)
    ]
    assert {answer.status_code for answer in opened} == {200}
    refused = await socket.get(path, headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (429, "/problems/too-many-streams")
    assert int(refused.headers["Retry-After"]) > 0
    assert (await look(shut, job_id, "")).status_code == 200, "other requests go on"
    for answer in opened:
        await answer.aclose()

    async def free() -> bool:
        return not service_of(shut).watch.streams.taken

    await until(free)


async def test_head_has_no_stream(shut: Running, socket: httpx2.AsyncClient) -> None:
    answer = await socket.head(f"/api/v1/jobs/{await shut.submit()}/events", headers=shut.bearer())
    assert (answer.status_code, answer.content) == (200, b"")
    assert service_of(shut).watch.streams.taken == {}


async def test_a_quiet_stream_pings_and_ends_before_it_would_be_cut(
    settings: Settings, authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PING_S", 0.2)
    monkeypatch.setattr(live, "POLL_S", 0.1)
    async with (
        running_gateway(settings, authority, stream_max_s=1.5) as gateway,
        listening(gateway.application) as url,
        httpx2.AsyncClient(base_url=url) as client,
    ):
        gateway.model.open.clear()
        job_id = await gateway.submit()
        begun = time.monotonic()
        async with events(gateway, client, job_id) as told:
            assert "COMPLETED" not in await told.rest()
            assert told.comments >= 3
        assert 1.4 < time.monotonic() - begun < LONG_S


async def test_a_replica_that_goes_ends_its_streams(shut: Running, socket: httpx2.AsyncClient) -> None:
    async with events(shut, socket, await shut.submit()) as told:
        await told.next()
        service_of(shut).shutdown.set()
        assert "COMPLETED" not in await asyncio.wait_for(told.rest(), LONG_S)


async def test_a_stream_outlives_the_job_redis(shut: Running, socket: httpx2.AsyncClient, valkey: Valkey) -> None:
    job_id = await shut.submit()
    await until(lambda: processing(shut, job_id))
    async with events(shut, socket, job_id) as told:
        await told.next()
        valkey.kill()
        valkey.start()
        shut.model.open.set()
        assert (await told.rest())[-1] == "COMPLETED"


async def test_a_caller_who_does_not_read_is_cut_off(
    settings: Settings, authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "SEND_S", 0.2)
    async with running_gateway(settings, authority) as gateway:
        gateway.model.open.clear()
        path = f"/api/v1/jobs/{await gateway.submit()}/events"
        started = asyncio.Event()

        async def receive() -> Json:
            await asyncio.Event().wait()
            return {}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                assert message.get("more_body"), "an answer that was cut off is not completed"
                started.set()
                await asyncio.Event().wait()

        headers = [(b"authorization", gateway.bearer()["Authorization"].encode())]
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "query_string": b""}
        await asyncio.wait_for(gateway.application({**scope, "root_path": ""}, receive, send), LONG_S)
        assert started.is_set()
        assert service_of(gateway).watch.streams.taken == {}


async def test_a_job_that_waits_knows_its_place(shut: Running) -> None:
    running = await shut.submit()
    await until(lambda: processing(shut, running))
    mine = [await shut.submit("eve") for _ in range(30)]
    jobs = [(await shut.get(f"/api/v1/jobs/{job_id}", "eve")).json() for job_id in mine]
    positions = [job["queue"]["position"] for job in jobs if job["status"] == "PENDING"]
    assert positions == list(range(1, len(positions) + 1))
    assert len(positions) > 5
    assert {str(job["queue"]["estimate_s"]) for job in jobs if job["queue"]} == {"None"}, "no rate is known yet"
    assert (await shut.get(f"/api/v1/jobs/{running}")).json()["queue"] is None


class Steady(Answering):
    """A model that ends a job every 0.1 s by the clock, however busy the machine is: what is late is caught up."""

    def __init__(self) -> None:
        super().__init__()
        self._due: float | None = None

    async def predict(self, chunk: Any) -> list[Outcome]:
        tasks: list[Task] = list(chunk)
        self._due = (self._due or time.monotonic()) + 0.1 * len(tasks)
        await asyncio.sleep(self._due - time.monotonic())
        return [self.answer(task) for task in tasks]


@pytest.mark.fault(reason="160 jobs at a constant rate")
async def test_at_a_constant_rate_jobs_end_within_their_estimates(
    settings: Settings, authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = replace(IMAGE_MODEL, max_batch_size=4)
    async with running_gateway(settings, authority, cards=[card], model=Steady(), rate_submits_per_s=1000) as gateway:
        ids = [await gateway.submit() for _ in range(160)]

        async def estimated() -> bool:
            job: Json = (await gateway.get(f"/api/v1/jobs/{ids[-1]}")).json()
            return bool(job["queue"] and job["queue"]["estimate_s"])

        await until(estimated, 30)
        asked = {}
        for job_id in ids[-1:-31:-10]:
            began = time.monotonic()
            asked[job_id] = (began, (await gateway.get(f"/api/v1/jobs/{job_id}")).json())
        for job_id, (began, told) in reversed(asked.items()):
            estimate = told["queue"]["estimate_s"]
            await until(lambda job_id=job_id: gateway._ended(job_id, "ada"), 60)  # type: ignore[misc]
            took = time.monotonic() - began
            assert estimate["low"] <= took + 1, (told["queue"], took)
            assert took <= estimate["high"], (told["queue"], took)
            assert estimate["high"] > estimate["low"] > 0


@pytest.mark.skipif(shutil.which("node") is None, reason="the example of docs/api.md is JavaScript")
async def test_the_example_of_the_docs_follows_a_job_to_its_end(shut: Running) -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    [example] = re.findall(r"```js\n(async function follow.*?)```", page, re.DOTALL)
    script = example + "follow(...process.argv.slice(1), (job) => console.log(job.status));"
    token = shut.bearer()["Authorization"].removeprefix("Bearer ")
    job_id = await shut.submit()
    async with listening(shut.application) as url:
        node = await asyncio.create_subprocess_exec(
            "node", "-e", script, url, job_id, token, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        assert node.stdout
        async with asyncio.timeout(LONG_S):
            while b"PROCESSING" not in (line := await node.stdout.readline()):
                assert line == b"PENDING\n"
            shut.model.open.set()
            rest, status = await node.stdout.read(), await node.wait()
    assert (rest, status) == (b"COMPLETED\n", 0)
