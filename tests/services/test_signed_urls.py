"""Signed URLs: for an hour one file of one job without a token, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest
from gateway_parts import RESULT, UNKNOWN_ID, Running, audit_lines, id_of, running_gateway, service_of
from waiting import until

from serve_app.contracts import Outcome, Output, Task
from serve_app.gateway import signing
from serve_app.gateway.schemas.jobs import SignedQuery
from serve_app.keyspace import RATE_READ
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import Settings

FILES = {"mask.png": Output("image/png", b"a mask")}


async def url_of(gateway: Running, job_id: str, name: str = "mask.png", **headers: str) -> httpx2.URL:
    path = f"/api/v1/jobs/{job_id}/outputs/{name}/url"
    answer = await gateway.client.post(path, headers={**gateway.bearer(), **headers})
    assert answer.status_code == 200, answer.text
    assert answer.json()["expires_in"] == 3600
    return httpx2.URL(answer.json()["url"])


async def test_whoever_has_the_url_gets_the_file_and_no_more(
    gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await gateway.completed_with_file("ada")
    url = await url_of(gateway, job_id)
    assert (url.scheme, url.host) == ("http", "gateway")
    assert (await url_of(gateway, job_id, **{"X-Forwarded-Proto": "https"})).scheme == "https"
    assert (await url_of(gateway, job_id, Host='x"y')).is_relative_url
    before = len(await gateway.usage())
    answer = await gateway.client.get(url)
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"a mask", "image/png")
    expected = {
        "content-disposition": 'attachment; filename="mask.png"',
        "content-security-policy": "sandbox",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }
    assert expected.items() <= dict(answer.headers).items()
    assert "set-cookie" not in answer.headers
    assert (await gateway.client.head(url)).status_code == 200
    assert len(await gateway.usage()) == before, "it is nobody's request"
    signature = url.params["signature"]
    assert signature not in str(await gateway.usage()) + caplog.text
    lines = [record.getMessage() for record in caplog.records if record.name == "serve_app.request"]
    assert any('"route":"/api/v1/files/{job_id}/{name}"' in line for line in lines)


async def test_a_changed_url_is_refused_and_leaves_nothing(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    mine, other = await gateway.completed_with_file("ada"), await gateway.completed_with_file("ada")
    url = await url_of(gateway, mine)
    before = await gateway.keys()
    query = dict(url.params)
    digit = "1" if query["signature"][-1] == "0" else "0"
    changed: list[tuple[str, dict[str, Any], int]] = [
        (url.path, {**query, "signature": query["signature"][:-1] + digit}, 403),
        (url.path, {**query, "signature": "0" * 64}, 403),
        (url.path, {**query, "expires": str(int(query["expires"]) + 1)}, 403),
        (url.path, {**query, "expires": "0"}, 403),
        (url.path, {**query, "owner": id_of(gateway, "bob")}, 403),
        (url.path.replace(mine, other), query, 403),
        (url.path.replace(mine, UNKNOWN_ID), query, 403),
        (url.path.replace("mask.png", "other.png"), query, 403),
        (url.path.replace("mask.png", "%00"), query, 403),
        (url.path, {}, 400),
        (url.path, {**query, "signature": query["signature"][:63]}, 400),
        (url.path, {**query, "signature": "é" * 64}, 400),
        (url.path, {**query, "expires": "soon"}, 400),
        (url.path, {**query, "expires": "1" + "0" * 400}, 400),
        (url.path, {**query, "owner": "*"}, 400),
        (url.path, {**query, "more": "1"}, 400),
    ]
    for path, parts, status in changed:
        answer = await gateway.client.get(path, params=parts)
        assert answer.status_code == status, (path, parts, answer.text)
        assert answer.json()["type"] == f"/problems/{'signed-url-invalid' if status == 403 else 'query-invalid'}"
        assert "a mask" not in answer.text
        assert query["signature"] not in answer.text
    assert await gateway.keys() == before
    refused = [line for line in audit_lines(caplog) if line["outcome"] == "signed-url-invalid"]
    assert {line["what"] for line in refused} == {"GET /api/v1/files/{job_id}/{name}"}
    assert not re.search("[0-9a-f]{64}", str(refused))


async def test_it_ends_after_an_hour_and_with_its_job(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await gateway.completed_with_file("ada")
    url = await url_of(gateway, job_id)
    with monkeypatch.context() as later:
        now = signing.time.time()
        later.setattr(signing.time, "time", lambda: now + 3601)
        answer = await gateway.client.get(url)
    assert (answer.status_code, answer.json()["type"]) == (410, "/problems/signed-url-expired")
    assert (await gateway.client.delete(f"/api/v1/jobs/{job_id}", headers=gateway.bearer())).status_code == 204
    answer = await gateway.client.get(url)
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/output-unknown")


async def test_only_the_owner_gets_one_and_a_block_ends_it(gateway: Running) -> None:
    job_id = await gateway.completed_with_file("ada")
    path = f"/api/v1/jobs/{job_id}/outputs"
    assert (await gateway.post(f"{path}/mask.png/url", "bob")).json()["type"] == "/problems/job-unknown"
    assert (await gateway.post(f"{path}/other.png/url")).json()["type"] == "/problems/output-unknown"
    assert (await gateway.client.post(f"{path}/mask.png/url")).status_code == 401
    url = await url_of(gateway, job_id)
    reason = '{"reason": "A private matter.", "by": "root", "by_id": "r", "at": 1}'
    await gateway.redis.hset("limits:blocks", id_of(gateway, "ada"), reason)
    answer = await gateway.client.get(url)
    assert answer.json()["type"] == "/problems/signed-url-invalid"
    assert "private" not in answer.text


async def test_downloads_count_towards_the_rate_of_the_owner(gateway: Running) -> None:
    url = await url_of(gateway, await gateway.completed_with_file("ada"))
    slow = '{"reads_per_s": 0.01, "by": "root", "by_id": "r", "at": 1}'
    await gateway.redis.hset("limits:overrides", id_of(gateway, "ada"), slow)
    await gateway.redis.delete(RATE_READ(owner=id_of(gateway, "ada")))  # with what was read before
    answers = [await gateway.client.get(url) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert 90 <= int(answers[-1].headers["retry-after"]) <= 100


async def test_all_gateways_share_the_key_of_redis_and_an_own_key_replaces_it(gateway: Running) -> None:
    job_id = await gateway.completed_with_file("ada")
    url = await url_of(gateway, job_id)
    query = SignedQuery.model_validate(dict(url.params))
    await signing.UrlSigner(gateway.redis, Settings()).verify(job_id, "mask.png", query)
    own = signing.UrlSigner(gateway.redis, Settings(url_signing_key="of-this-installation"))
    with pytest.raises(signing.SignedUrlInvalid):
        await own.verify(job_id, "mask.png", query)
    with pytest.raises(ValueError, match="URL_SIGNING_KEY is shorter than 16"):
        Settings(url_signing_key="short")


async def test_in_a_bucket_the_url_is_the_bucket_s(
    settings: Settings, authority: DevIssuerServer, in_bucket: dict[str, object]
) -> None:
    async with running_gateway(settings, authority, **in_bucket) as gateway:
        model = gateway.model
        model.open.clear()
        files = [{"name": "mask.png", "media_type": "image/png", "bytes": 6}]
        model.answer = lambda task: Outcome(task.job_id, result={**RESULT, "outputs": files})
        job_id = await gateway.submit()
        task: Task = await until(lambda: next(iter(model.tasks), None))
        assert await service_of(gateway).store.put_outputs(job_id, task.token, FILES)
        model.open.set()
        await gateway.ended(job_id)
        url = await url_of(gateway, job_id)
        assert url.params["X-Amz-Expires"] == "3600"
        async with httpx2.AsyncClient() as client:
            answer = await client.get(url)
        assert (answer.status_code, answer.content) == (200, b"a mask")
