"""One's own jobs as pages, and answers that a client has already."""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import quote

import pytest
from gateway_parts import PICTURE, Running, failed, id_of, running_gateway

from serve_app.contracts import Json
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import Settings


async def words(gateway: Running, user: str = "ada") -> str:
    answer = await gateway.post("/api/v1/jobs", user, json={"model": "words", "params": {"text": "one two"}})
    return str(answer.json()["job_id"])


async def pages(gateway: Running, query: str = "") -> list[list[Json]]:
    """All pages, by the links that lead from one to the next."""
    found, path = [], f"/api/v1/jobs?{query}"
    while path:
        answer = await gateway.get(path)
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["data"])
        cursor, link = answer.json()["next_cursor"], answer.headers.get("link", "")
        assert (cursor is None) == (link == "")
        assert link == "" or link.endswith('>; rel="next"')
        path = link.partition("<")[2].partition(">")[0]
        assert cursor is None or f"cursor={quote(cursor)}" in path
    return found


async def test_own_jobs_are_listed_newest_first_page_by_page(gateway: Running) -> None:
    assert await pages(gateway) == [[]]
    jobs = [await words(gateway) for _ in range(7)]
    await words(gateway, "bob")
    found = await pages(gateway, "limit=3")
    assert [len(page) for page in found] == [3, 3, 1]
    listed = [job for page in found for job in page]
    assert [job["job_id"] for job in listed] == jobs[::-1]
    whole = await gateway.ended(jobs[0])
    assert listed[-1].keys() == whole.keys() - {"result"}
    [page] = await pages(gateway, "limit=7")
    assert [job["job_id"] for job in page] == jobs[::-1]


@pytest.mark.gateway(rate_submits_per_s=1000.0)
async def test_every_job_of_a_batch_is_listed_also_beyond_one_page(gateway: Running) -> None:
    """All items of a batch are accepted in one step, so that they have one time."""
    gateway.model.open.clear()
    older, items = await words(gateway), [{"params": {"text": "a b"}}] * 60
    answer = await gateway.post("/api/v1/batches", json={"model": "words", "items": items})
    assert answer.status_code == 202, answer.text
    batch = (await gateway.get(f"/api/v1/batches/{answer.json()['batch_id']}?limit=60")).json()
    newer = await words(gateway)
    found = await pages(gateway, "limit=50")
    listed = [job["job_id"] for page in found for job in page]
    assert [len(page) for page in found] == [50, 12]
    assert (listed[0], listed[-1]) == (newer, older)
    assert sorted(listed[1:-1]) == sorted(item["job_id"] for item in batch["items"])


async def test_a_cursor_of_an_earlier_release_is_refused_plainly(gateway: Running) -> None:
    """It named a time alone: behind it jobs of a batch would be left out without a word."""
    cursor = base64.urlsafe_b64encode(b"1:1795000000000000").decode()
    for path in ("/api/v1/jobs", "/api/v1/batches"):
        answer = await gateway.get(f"{path}?cursor={cursor}")
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/query-invalid")
        assert "Begin again with the first page" in answer.json()["detail"]


async def test_the_list_can_be_filtered(gateway: Running) -> None:
    done = await words(gateway)
    await gateway.ended(done)
    gateway.model.answer = failed("model-rejected", "no")
    lost = await gateway.submit()
    ended = await gateway.ended(lost)

    async def ids(query: str) -> list[str]:
        return [job["job_id"] for page in await pages(gateway, query) for job in page]

    assert await ids("status=FAILED") == await ids("model=sem-classifier&limit=1") == [lost]
    assert await ids("status=COMPLETED&model=words") == [done]
    assert await ids("status=PENDING") == await ids("model=nobody") == []
    since = quote(ended["submitted_at"])
    assert await ids(f"since={since}") == [lost]
    assert await ids("since=2020-01-01T00:00:00") == [lost, done]
    assert await ids("since=2999-01-01") == []


async def test_of_a_list_only_what_is_still_there_is_shown(gateway: Running) -> None:
    jobs = [await words(gateway) for _ in range(3)]
    for job_id in jobs:
        await gateway.ended(job_id)
    await gateway.redis.delete(f"job:{jobs[1]}")
    assert [[job["job_id"] for job in page] for page in await pages(gateway)] == [[jobs[2], jobs[0]]]
    assert await gateway.redis.zcard(f"jobs:{id_of(gateway, 'ada')}") == 2


async def test_a_page_looks_at_so_many_jobs_only(
    settings: Settings, authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.jobs.limits.PAGE_LOOKS", 2)
    async with running_gateway(settings, authority) as gateway:
        jobs = [await words(gateway) for _ in range(5)]
        found = await pages(gateway, "limit=50")
        assert [[job["job_id"] for job in page] for page in found] == [jobs[:2:-1], jobs[2:0:-1], jobs[:1]]
        assert await pages(gateway, "model=sem-classifier") == [[], [], []]


async def test_what_the_client_has_is_not_sent_again(gateway: Running) -> None:
    gateway.model.open.clear()
    path = f"/api/v1/jobs/{await gateway.submit(picture=PICTURE)}"
    waiting = await gateway.get(path)
    assert (waiting.headers["cache-control"], waiting.headers["retry-after"]) == ("no-store", "1")
    gateway.model.open.set()
    await gateway.ended(path.rpartition("/")[2])
    for place in (path, "/api/v1/jobs"):
        whole = await gateway.get(place)
        tag = whole.headers["etag"]
        assert tag == f'"{hashlib.sha256(whole.content).hexdigest()}"'
        for known in (tag, f'"x", W/{tag}', "*"):
            headers = {**gateway.bearer(), "If-None-Match": known}
            answer = await gateway.client.get(place, headers=headers)
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
        changed = {**gateway.bearer(), "If-None-Match": waiting.headers["etag"]}
        assert (await gateway.client.get(place, headers=changed)).content == whole.content
    assert (await gateway.get(path)).headers["cache-control"] == "private, no-cache"
