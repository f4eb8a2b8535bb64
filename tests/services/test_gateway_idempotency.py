"""Submits that are sent again: one job, one answer, nothing left over."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from gateway_parts import PICTURE, Running

from serve_app.settings import Settings
from tests.pictures import encode, gradient

KEY = '"8e03978e-40d5-43e8-bc93-6894a57f9324"'
OTHER_PICTURE = encode(gradient(32, 32), "PNG")


async def send(
    gateway: Running, key: str = KEY, user: str = "ada", path: str = "/api/v1/jobs", **body: Any
) -> httpx2.Response:
    body = body or {"files": {"image": ("a.png", PICTURE)}}
    return await gateway.client.post(path, headers={**gateway.bearer(user), "Idempotency-Key": key}, **body)


async def accepted(gateway: Running, model: str = "sem-classifier") -> int:
    return int(await gateway.redis.hget(f"ledger:{model}", "accepted") or 0)


@pytest.mark.parametrize(("path", "status"), [("/api/v1/jobs", 202), ("/api/v1/inference", 200)])
async def test_a_submit_sent_again_gets_the_first_answer(gateway: Running, path: str, status: int) -> None:
    first = await send(gateway, path=path)
    assert (first.status_code, first.headers.get("idempotent-replayed")) == (status, None)
    await gateway.ended(first.json()["job_id"])
    second = await send(gateway, KEY.strip('"'), path=path, files={"image": ("another-name.png", PICTURE)})
    assert (second.status_code, second.headers["idempotent-replayed"]) == (status, "true")
    assert second.json() == first.json()
    assert second.headers.get("location") == first.headers.get("location")
    assert (await accepted(gateway), await gateway.redis.keys("blob:*")) == (1, [])


async def test_the_first_answer_stands_when_the_job_is_gone(gateway: Running) -> None:
    first = await send(gateway)
    await gateway.ended(first.json()["job_id"])
    await gateway.redis.delete(f"job:{first.json()['job_id']}")
    second = await send(gateway)
    assert (second.status_code, second.json()) == (202, first.json())
    assert (await gateway.get(second.headers["location"])).status_code == 404


async def test_racing_submits_give_one_job(gateway: Running) -> None:
    gateway.model.open.clear()
    answers = await asyncio.gather(*(send(gateway) for _ in range(12)))
    assert {answer.status_code for answer in answers} == {202}
    (job_id,) = {answer.json()["job_id"] for answer in answers}
    assert sorted(answer.headers.get("idempotent-replayed", "") for answer in answers) == ["", *["true"] * 11]
    assert await accepted(gateway) == 1
    assert await gateway.redis.keys("blob:*") == [f"blob:{job_id}".encode()]


async def test_another_request_with_the_key_is_refused(gateway: Running) -> None:
    await send(gateway)
    for body in (
        {"files": {"image": ("a.png", OTHER_PICTURE)}},
        {"json": {"image_url": "https://example.org/a.png"}},
        {"json": {"model": "words", "params": {"text": "one"}}},
    ):
        answer = await send(gateway, **body)
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/idempotency-key-reused")
    racing = await asyncio.gather(
        send(gateway, "new"), send(gateway, "new", files={"image": ("a.png", OTHER_PICTURE)}), send(gateway, user="bob")
    )
    assert sorted(answer.status_code for answer in racing) == [202, 202, 422]
    jobs = {answer.json()["job_id"] for answer in racing if answer.status_code == 202}
    assert await accepted(gateway) == 3 == len(jobs) + 1


async def test_a_url_is_not_fetched_again(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def host(url: str, settings: Settings, **_: Any) -> bytes:
        asked.append(url)
        return PICTURE

    monkeypatch.setattr("serve_app.gateway.uploads.fetch", host)
    answers = [await send(gateway, json={"image_url": "https://example.org/a.png"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert asked == ["https://example.org/a.png"]


@pytest.mark.gateway(queue_max_jobs=1)
async def test_a_refused_submit_leaves_no_key(gateway: Running) -> None:
    gateway.model.open.clear()
    assert (await send(gateway, files={"image": ("a.png", b"no image")})).status_code == 415
    assert not any(name.startswith("idem") for name in await gateway.keys())
    first = await send(gateway)
    assert first.status_code == 202
    assert (await send(gateway, "other")).status_code == 503
    assert (await send(gateway)).json() == first.json()  # a full queue does not hide what was accepted
    gateway.model.open.set()
    await gateway.ended(first.json()["job_id"])
    retried = await send(gateway, "other")
    assert (retried.status_code, retried.headers.get("idempotent-replayed")) == (202, None)
