"""Batches over HTTP: a bad item fails none of its siblings, and a batch is sent once however often it is sent."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx2
import psycopg
import pytest
from gateway_parts import (
    IMAGE_MODEL,
    PICTURE,
    RESULT,
    Running,
    failed,
    id_of,
    listening,
    running_gateway,
    service_of,
    until,
)
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve_app.contracts import JobInput, Json, Outcome
from serve_app.errors import StoreFull
from serve_app.gateway import http
from serve_app.gateway.background import url_fetcher
from serve_app.gateway.routes import batches
from serve_app.images.header import ImageHeader, inspect
from serve_app.images.store import keep_input
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import Settings
from serve_app.usage.outcomes import Outcomes

BATCHES = "/api/v1/batches"
RATES: dict[str, Any] = {"rate_submits_per_s": 1000.0, "rate_reads_per_s": 10_000.0, "rate_house_reads_per_s": 10_000.0}
pytestmark = pytest.mark.gateway(**RATES)


def files(*pictures: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("image", (f"{place}.png", picture)) for place, picture in enumerate(pictures)]


async def send(gateway: Running, *pictures: bytes, user: str = "ada", key: str = "") -> httpx2.Response:
    headers = gateway.bearer(user) | ({"Idempotency-Key": key} if key else {})
    return await gateway.client.post(BATCHES, headers=headers, files=files(*pictures))


async def ended(gateway: Running, batch_id: str, user: str = "ada", seconds: float = 30.0) -> Json:
    async def look() -> Json | None:
        batch: Json = (await gateway.get(f"{BATCHES}/{batch_id}?limit=500", user)).json()
        return batch if batch["completed_at"] else None

    batch: Json = await until(look, seconds)
    return batch


async def lines(gateway: Running, batch_id: str) -> list[Json]:
    answer = await gateway.get(f"{BATCHES}/{batch_id}/results")
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


async def accepted(gateway: Running) -> int:
    return int(await gateway.redis.hget(f"ledger:{IMAGE_MODEL.name}", "accepted") or 0)


async def test_one_bad_file_among_fifty_is_refused_alone(gateway: Running) -> None:
    pictures = [PICTURE] * 50
    pictures[17] = b"no image at all"
    answer = await send(gateway, *pictures)
    assert answer.status_code == 202, answer.text
    batch = answer.json()
    assert answer.headers["location"] == batch["links"]["self"]
    assert (batch["size"], batch["counts"]["refused"], len(batch["items"])) == (50, 1, 50)
    done = await ended(gateway, batch["batch_id"])
    assert {name: number for name, number in done["counts"].items() if number} == {"completed": 49, "refused": 1}
    assert [item["index"] for item in done["items"]] == list(range(50))
    refused = done["items"][17]
    assert (refused["job_id"], refused["problem"]["type"]) == (None, "/problems/image-type-unsupported")
    found = await lines(gateway, batch["batch_id"])
    assert [one["name"] for one in found] == [f"{place}.png" for place in range(50)]
    assert [one["result"] for one in found] == [None if place == 17 else RESULT for place in range(50)]
    job = (await gateway.get(f"/api/v1/jobs/{done['items'][0]['job_id']}")).json()
    assert (job["status"], job["result"]) == ("COMPLETED", RESULT)
    assert await gateway.redis.keys("blob:*") == []


async def test_shared_parameters_are_refused_before_every_item_has_a_copy_of_them(gateway: Running) -> None:
    body = {"model": "words", "params": {"text": "x" * 1_000_000}, "items": [{}] * 200}
    refused = await gateway.post(BATCHES, json=body)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/params-invalid")
    large, small = {"text": "x" * 17_000}, {"text": "x"}
    body = {"model": "words", "params": {"text": "x" * 16_000}, "items": [{"params": large}, {"params": small}, {}]}
    answer = await gateway.post(BATCHES, json=body)
    assert answer.status_code == 202, answer.text
    done = await ended(gateway, answer.json()["batch_id"])
    assert [item["status"] for item in done["items"]] == ["REFUSED", "COMPLETED", "COMPLETED"]
    assert done["items"][0]["problem"]["type"] == "/problems/params-invalid"
    assert int(await gateway.redis.get("held-bytes") or 0) == 0


async def test_items_are_read_page_by_page(gateway: Running) -> None:
    batch_id = (await send(gateway, *[PICTURE] * 7)).json()["batch_id"]
    path, seen = f"{BATCHES}/{batch_id}?limit=3", []
    while path:
        answer = await gateway.get(path)
        seen += [item["index"] for item in answer.json()["items"]]
        cursor = answer.json()["next_cursor"]
        assert (cursor is None) == ("link" not in answer.headers)
        path = f"{BATCHES}/{batch_id}?limit=3&cursor={cursor}" if cursor else ""
    assert seen == list(range(7))


@asynccontextmanager
async def pictures_on_the_web() -> AsyncIterator[str]:
    async def picture(request: Request) -> Response:
        name = request.path_params["name"]
        if name.startswith("gone"):
            return Response(status_code=404)
        body = b"no image" if name.startswith("text") else PICTURE
        return Response(body, media_type="image/png")

    async with listening(Starlette(routes=[Route("/{name}", picture)])) as url:
        yield url


async def test_of_200_urls_each_ends_once_and_the_bad_ones_alone(
    settings: Settings, authority: DevIssuerServer
) -> None:
    async with pictures_on_the_web() as web:
        hosts = (web.removeprefix("http://"),)
        async with running_gateway(settings, authority, image_url_private_hosts=hosts, **RATES) as gateway:
            kinds = ["gone" if place % 20 == 3 else "text" if place % 20 == 7 else "good" for place in range(196)]
            items: list[Any] = [{"image_url": f"{web}/{kind}-{n}", "name": str(n)} for n, kind in enumerate(kinds)]
            items += [{"image_url": "http://127.0.0.1:1/x"}, {"image_url": 5}, {}, {"image_url": f"{web}/a", "no": 1}]
            answer = await gateway.post(BATCHES, json={"items": items})
            assert answer.status_code == 202, answer.text
            batch = answer.json()
            assert (batch["counts"]["fetching"], batch["counts"]["refused"]) == (197, 3)
            done = await ended(gateway, batch["batch_id"], seconds=90)
            numbers = Counter(kinds)
            expected = {"completed": numbers["good"], "refused": 200 - numbers["good"]}
            assert {name: number for name, number in done["counts"].items() if number} == expected
            slugs = [item["problem"]["type"].rpartition("/")[2] if item["problem"] else "" for item in done["items"]]
            words = {"gone": "image-url-failed", "text": "image-type-unsupported", "good": ""}
            assert slugs[:196] == [words[kind] for kind in kinds]
            assert slugs[196:] == ["image-url-forbidden", "body-invalid", "image-missing", "body-invalid"]
            assert await accepted(gateway) == numbers["good"]
            assert await gateway.redis.get("fetches") == b"0"
            assert await gateway.redis.keys("blob:*") == []


async def test_a_fault_of_the_service_refuses_no_url(
    settings: Settings, authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [RuntimeError("a fault")]

    def faulty(data: bytes, asked: Settings, **options: bool) -> ImageHeader:
        if faults:
            raise faults.pop()
        return inspect(data, asked, **options)

    monkeypatch.setattr(url_fetcher, "inspect", faulty)
    async with pictures_on_the_web() as web:
        hosts = (web.removeprefix("http://"),)
        async with running_gateway(settings, authority, image_url_private_hosts=hosts, **RATES) as gateway:
            batch = (await gateway.post(BATCHES, json={"items": [{"image_url": f"{web}/good"}]})).json()
            await until(lambda: gateway.redis.hexists(f"items:{batch['batch_id']}", "0:faults"))
            await gateway.redis.zadd("fetching", {f"{batch['batch_id']}/0": 0})  # its time is over
            assert (await ended(gateway, batch["batch_id"]))["counts"]["completed"] == 1


async def test_what_a_gateway_fetches_at_its_end_another_fetches_at_once(
    settings: Settings, authority: DevIssuerServer
) -> None:
    asked, free = asyncio.Event(), asyncio.Event()

    async def slow_at_first(_: Request) -> Response:
        if not asked.is_set():
            asked.set()
            await free.wait()
        return Response(PICTURE, media_type="image/png")

    async with listening(Starlette(routes=[Route("/a.png", slow_at_first)])) as web:
        hosts = {"image_url_private_hosts": (web.removeprefix("http://"),), **RATES}
        async with running_gateway(settings, authority, **hosts) as leaving:
            batch = (await leaving.post(BATCHES, json={"items": [{"image_url": f"{web}/a.png"}]})).json()
            await asked.wait()
        free.set()
        async with running_gateway(settings, authority, **hosts) as staying:
            assert (await ended(staying, batch["batch_id"], seconds=10))["counts"]["completed"] == 1
            assert await staying.redis.get("fetches") == b"0"


async def test_a_batch_sent_again_is_the_same_batch(gateway: Running) -> None:
    first = await send(gateway, PICTURE, PICTURE, key="k1")
    answers = await asyncio.gather(*(send(gateway, PICTURE, PICTURE, key="k1") for _ in range(5)))
    assert {answer.json()["batch_id"] for answer in answers} == {first.json()["batch_id"]}
    assert {answer.headers["idempotent-replayed"] for answer in answers} == {"true"}
    assert await accepted(gateway) == 2
    for other in (files(PICTURE), files(PICTURE, b"other")):
        headers = {**gateway.bearer(), "Idempotency-Key": "k1"}
        answer = await gateway.client.post(BATCHES, headers=headers, files=other)
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/idempotency-key-reused")
    await ended(gateway, first.json()["batch_id"])
    assert await gateway.redis.keys("blob:*") == []


async def test_the_first_answer_stands_when_the_batch_is_gone(gateway: Running) -> None:
    pictures = [PICTURE, b"no image at all", PICTURE]
    first = await send(gateway, *pictures, key="k1")
    batch_id = first.json()["batch_id"]
    await ended(gateway, batch_id)
    assert (await gateway.client.delete(f"{BATCHES}/{batch_id}", headers=gateway.bearer("ada"))).status_code == 204
    second = await send(gateway, *pictures, key="k1")
    assert (second.status_code, second.headers["idempotent-replayed"]) == (202, "true")
    assert second.headers["location"] == first.headers["location"]
    shown = second.json()
    assert [item["status"] for item in shown["items"]] == ["PENDING", "REFUSED", "PENDING"]
    assert shown["items"][1] == first.json()["items"][1]
    same = ("batch_id", "model", "submitted_at", "size", "links", "next_cursor")
    assert [shown[name] for name in same] == [first.json()[name] for name in same]
    assert (shown["open"], shown["completed_at"], shown["counts"]["pending"]) == (2, None, 2)
    assert (await accepted(gateway), await gateway.redis.keys("blob:*")) == (2, [])


async def test_racing_batches_with_one_key_leave_one(gateway: Running) -> None:
    gateway.model.open.clear()
    answers = await asyncio.gather(*(send(gateway, PICTURE, PICTURE, PICTURE, key="k2") for _ in range(6)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["batch_id"] for answer in answers}) == 1
    assert (await accepted(gateway), len(await gateway.redis.keys("blob:*"))) == (3, 3)


async def test_a_cancelled_batch_has_ended_and_can_be_removed(gateway: Running) -> None:
    gateway.model.open.clear()
    batch = (await send(gateway, PICTURE, PICTURE, b"bad")).json()
    path = batch["links"]["self"]
    headers = gateway.bearer()
    assert (await gateway.client.delete(path, headers=headers)).json()["type"] == "/problems/batch-not-ended"
    for _ in range(2):
        answer = await gateway.post(batch["links"]["cancel"])
        assert (answer.status_code, answer.json()["open"], answer.json()["counts"]["cancelled"]) == (200, 0, 2)
    assert (await gateway.client.delete(path, headers=headers)).status_code == 204
    assert (await gateway.get(path)).status_code == 404
    assert (await gateway.get(f"/api/v1/jobs/{batch['items'][0]['job_id']}")).status_code == 404
    assert (await gateway.get(BATCHES)).json()["data"] == []


@pytest.mark.gateway(queue_max_jobs=3)
async def test_a_queue_without_room_for_all_refuses_the_batch_and_keeps_nothing(gateway: Running) -> None:
    gateway.model.open.clear()
    assert (await send(gateway, PICTURE, PICTURE)).status_code == 202
    await until(lambda: len(gateway.model.tasks) == 2)
    before = await gateway.keys()
    urls = {"json": {"items": [{"image_url": "https://example.org/a.png"}] * 4}}
    for body in ({"files": files(PICTURE, PICTURE)}, {"files": files(*[PICTURE] * 4)}, urls):
        answer = await gateway.post(BATCHES, **body)
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/queue-full")
        assert await gateway.keys() <= before


async def test_images_of_a_batch_are_stored_some_at_a_time(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    together = asyncio.Barrier(batches.STORED_AT_ONCE)

    async def keep_together(*of: Any) -> JobInput:
        async with asyncio.timeout(10):
            await together.wait()  # only so many at once come by
        return await keep_input(*of)

    monkeypatch.setattr(batches, "keep_input", keep_together)
    batch = await send(gateway, *[PICTURE] * (2 * batches.STORED_AT_ONCE))
    assert batch.status_code == 202
    done = await ended(gateway, batch.json()["batch_id"])
    assert (done["size"], done["counts"]["completed"]) == (16, 16)
    assert [item["name"] for item in done["items"]] == [f"{place}.png" for place in range(16)]


async def test_without_room_for_one_image_none_of_the_batch_stays(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [True] * 10

    async def keep_ten(*of: Any) -> JobInput:
        if not left:
            raise StoreFull("No room.", retry_after=1)
        left.pop()
        return await keep_input(*of)

    monkeypatch.setattr(batches, "keep_input", keep_ten)
    refused = await send(gateway, *[PICTURE] * 20)
    assert (refused.status_code, refused.json()["type"]) == (503, "/problems/store-full")
    await until(lambda: gateway.redis.keys("blob:*"), fits=lambda found: found == [])
    assert (left, await accepted(gateway)) == ([], 0)


@pytest.mark.gateway(rate_submits_per_s=2.0, quota_submits_per_day=12)
async def test_a_batch_counts_as_its_items(gateway: Running) -> None:
    before = await gateway.keys()
    answer = await send(gateway, *[PICTURE] * 13)
    assert (answer.status_code, answer.json()["type"]) == (429, "/problems/rate-limited")
    assert {name for name in await gateway.keys() - before if not name.startswith("quota:")} == set()
    answer = await send(gateway, *[PICTURE] * 12)  # the refused request counts for the rate alone
    assert answer.status_code == 202, answer.text
    assert 'r=0;t=7, "submits-per-day";r=0' in answer.headers["ratelimit"]
    answer = await gateway.post("/api/v1/jobs", files={"image": ("a.png", PICTURE)})
    assert (answer.status_code, int(answer.headers["retry-after"]) > 1) == (429, True)
    assert (await send(gateway, PICTURE, user="bob")).status_code == 202


async def test_a_model_without_images_takes_parameters_and_refuses_bad_ones(gateway: Running) -> None:
    gateway.model.answer = lambda task: Outcome(task.job_id, result={"words": len(task.params["text"].split())})
    items: list[Json] = [
        {"params": {"text": "one two"}},
        {"params": {}},
        {},
        {"image_url": "https://example.org/a.png"},
    ]
    body: Json = {"model": "words", "items": items, "params": {"text": "one"}}
    batch = (await gateway.post(BATCHES, json=body)).json()
    done = await ended(gateway, batch["batch_id"])
    assert [item["status"] for item in done["items"]] == ["COMPLETED", "REFUSED", "COMPLETED", "REFUSED"]
    assert [one["result"] for one in await lines(gateway, batch["batch_id"])] == [
        {"words": 2},
        None,
        {"words": 1},
        None,
    ]


async def test_csv_has_a_column_for_each_value_whole_names_and_no_formula(gateway: Running) -> None:
    result = {**RESULT, "confidence": -0.5, "label": "Tips;=1+1"}
    gateway.model.answer = lambda task: Outcome(task.job_id, result=result)
    names = ["=1+1.png", "@a.png", "a,b.png", "-2.png", "試料\u3000５.png", "a;=1+1.png", "-3 kV.png"]
    parts = [("image", (name, PICTURE)) for name in names]
    batch = (await gateway.post(BATCHES, files=parts)).json()
    await ended(gateway, batch["batch_id"])
    headers = {**gateway.bearer(), "Accept": "text/csv"}
    answer = await gateway.client.get(batch["links"]["results"], headers=headers)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    begun_harmlessly = ["'=1+1.png", "'@a.png", "a,b.png", "'-2.png", "試料\u3000５.png", "a;'=1+1.png", "'-3 kV.png"]
    assert [row["name"] for row in rows] == begun_harmlessly
    assert {(row["label"], row["confidence"], row["status"]) for row in rows} == {("Tips;'=1+1", "-0.5", "COMPLETED")}
    assert {json.loads(row["result"])["label"] for row in rows} == {"Tips;=1+1"}
    assert ";=" not in answer.text
    assert (await gateway.get(f"{batch['links']['results']}?format=csv")).text == answer.text
    for_excel = await gateway.get(f"{batch['links']['results']}?format=csv&bom=true")
    assert for_excel.content == b"\xef\xbb\xbf" + answer.content
    refused = await gateway.get(f"{batch['links']['results']}?bom=true")
    assert (refused.status_code, refused.json()["type"]) == (400, "/problems/query-invalid")


def test_a_result_of_an_unknown_form_is_one_column() -> None:
    item = {"index": 0, "name": "a", "job_id": "j", "status": "COMPLETED", "problem": None, "result": {"a": 1}}
    assert batches.ResultTable({}).head() == "index,name,job_id,status,problem,detail,result\r\n"
    assert batches.ResultTable({}).row(item) == '0,a,j,COMPLETED,,,"{""a"": 1}"\r\n'


async def test_results_outlive_the_records_of_their_jobs(tables: str, gateway: Running) -> None:
    batch = (await send(gateway, PICTURE, PICTURE, PICTURE)).json()
    before = (await ended(gateway, batch["batch_id"])) and await lines(gateway, batch["batch_id"])
    ids = [item["job_id"] for item in batch["items"]]
    await until(partial(stored_outcomes, tables, ids))
    await gateway.redis.delete(*(f"job:{one}" for one in ids))
    assert await lines(gateway, batch["batch_id"]) == before
    assert [one["result"] for one in before] == [RESULT] * 3
    assert (await gateway.get(batch["links"]["self"])).json()["counts"]["completed"] == 3


async def test_results_of_a_large_batch_that_have_expired_are_one_query(
    settings: Settings, authority: DevIssuerServer, tables: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 items: none is counted more than once, whatever the number of pieces."""
    queries: list[int] = []
    execute = psycopg.AsyncConnection.execute

    async def counted(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        if "FROM job_outcomes AS outcome" in str(query):
            queries.append(len(params[0]))
        return await execute(self, query, params, **options)

    monkeypatch.setattr(psycopg.AsyncConnection, "execute", counted)
    items = [{"params": {"text": f"word {place}"}} for place in range(500)]
    async with running_gateway(settings, authority, **RATES, batch_max_items=500) as gateway:
        gateway.model.answer = lambda task: Outcome(task.job_id, result={"text": task.params["text"]})
        batch_id = (await gateway.post(BATCHES, json={"model": "words", "items": items})).json()["batch_id"]
        await ended(gateway, batch_id)
        cost, found = await cost_of_results(gateway, batch_id)
        assert [one["result"] for one in found] == [item["params"] for item in items]
        assert (queries, cost) == ([], 2 * len(items))
        ids = [one["job_id"] for one in found]
        await until(partial(stored_outcomes, tables, ids))
        await gateway.redis.delete(*(f"job:{one}" for one in ids[1:]))
        cost, again = await cost_of_results(gateway, batch_id)
        assert again == found
        assert cost == 5 * len(items)  # counted, and looked at for what has expired
        assert queries == [len(items) - 1]
        assert service_of(gateway).stored_results.budget.held == 0


async def test_results_that_expire_while_they_are_read_are_in_the_answer(
    settings: Settings, authority: DevIssuerServer, tables: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "PIECE_ITEMS", 1)
    async with running_gateway(settings, authority, **RATES) as gateway:
        batch = (await send(gateway, PICTURE, PICTURE, PICTURE)).json()
        await ended(gateway, batch["batch_id"])
        ids = [item["job_id"] for item in batch["items"]]
        await until(partial(stored_outcomes, tables, ids))
        await gateway.redis.delete(f"job:{ids[0]}")
        look = Outcomes.results

        async def look_and_expire(self: Outcomes, asked: Sequence[str], owner: str) -> dict[str, str]:
            found = await look(self, asked, owner)
            await gateway.redis.delete(*(f"job:{one}" for one in ids))
            return found

        monkeypatch.setattr(Outcomes, "results", look_and_expire)
        assert [one["result"] for one in await lines(gateway, batch["batch_id"])] == [RESULT] * 3


async def test_results_that_have_expired_are_held_by_a_user_up_to_a_share(tables: str, gateway: Running) -> None:
    batch = (await send(gateway, PICTURE)).json()
    await ended(gateway, batch["batch_id"])
    ids = [item["job_id"] for item in batch["items"]]
    await until(partial(stored_outcomes, tables, ids))
    await gateway.redis.delete(*(f"job:{one}" for one in ids))
    held = service_of(gateway).stored_results.budget
    with held.share(id_of(gateway, "ada")) as share:
        share.reach(batches.OLDER_RESULTS_MAX_BYTES // 2)
        refused = await gateway.get(batch["links"]["results"])
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/usage-unavailable")
    assert [one["result"] for one in await lines(gateway, batch["batch_id"])] == [RESULT]


async def stored_outcomes(database: str, ids: Sequence[str]) -> bool:
    """Whether PostgreSQL has the outcomes of these jobs."""
    with psycopg.connect(database) as connection:
        count = connection.execute("SELECT count(*) FROM job_outcomes WHERE job_id = ANY(%s)", [list(ids)]).fetchone()
    return count == (len(ids),)


async def cost_of_results(gateway: Running, batch_id: str) -> tuple[int, list[Json]]:
    """How many fields of hashes the scripts of one answer read, and its lines."""
    async with gateway.redis.monitor() as monitor:
        found = await lines(gateway, batch_id)
        await gateway.redis.echo("the end")
        asked = 0
        async for command in monitor.listen():
            if "the end" in command["command"]:
                return asked, found
            asked += command["client_type"] == "lua" and command["command"].startswith(("HMGET items:", "HMGET job:"))
    raise AssertionError("the monitor ended")


async def test_results_that_are_not_taken_in_time_break_off(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batches, "PIECE_ITEMS", 1)
    monkeypatch.setattr(batches, "WITHIN_S", 0.0)
    batch = (await send(gateway, PICTURE, PICTURE)).json()
    await ended(gateway, batch["batch_id"])
    came: list[bytes] = []

    async def read(client: httpx2.AsyncClient) -> None:
        async with client.stream("GET", batch["links"]["results"], headers=gateway.bearer()) as answer:
            async for part in answer.aiter_bytes():
                came.append(part)

    async with listening(gateway.application) as url, httpx2.AsyncClient(base_url=url) as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            await read(client)
    assert [json.loads(line)["index"] for line in b"".join(came).splitlines()] == [0]
    assert "were not taken within 0 seconds" in caplog.text


async def test_a_removed_batch_leaves_no_result_behind_whose_record_had_expired(tables: str, gateway: Running) -> None:
    answer, gateway.model.answer = gateway.model.answer, failed("model-rejected", "no")
    batch = (await send(gateway, PICTURE, PICTURE)).json()
    await ended(gateway, batch["batch_id"])
    gateway.model.answer = answer
    first, second = (item["job_id"] for item in batch["items"])
    assert (await gateway.post(f"/api/v1/jobs/{first}/retry")).status_code == 202
    assert (await gateway.ended(first))["status"] == "COMPLETED"  # its second run
    await ended(gateway, batch["batch_id"])

    async def rows() -> list[tuple[str, int, bool, bool]]:
        with psycopg.connect(tables) as connection:
            found = "SELECT job_id, run, result IS NULL, removed_at IS NULL FROM job_outcomes"
            return sorted(connection.execute(found))

    await until(lambda: rows(), fits=lambda found: len(found) == 3)
    await gateway.redis.delete(f"job:{first}")
    result = f"/api/v1/jobs/{first}/result"
    assert (await gateway.get(result)).status_code == 200
    removed = await gateway.client.delete(batch["links"]["self"], headers=gateway.bearer())
    assert removed.status_code == 204
    assert (await gateway.get(result)).status_code == 404
    await until(lambda: rows(), fits=lambda found: {row[2:] for row in found} == {(True, False)})
    assert [row[:2] for row in await rows()] == sorted([(first, 1), (first, 2), (second, 1)])


@pytest.mark.parametrize("query", ["", "?format=csv"])
async def test_results_that_cannot_be_read_are_a_problem(
    settings: Settings, authority: DevIssuerServer, query: str
) -> None:
    nowhere = SecretStr("postgresql://nobody@127.0.0.1:1/none")
    async with running_gateway(settings.model_copy(update={"database_url": nowhere}), authority, **RATES) as gateway:
        batch = (await send(gateway, PICTURE)).json()
        await ended(gateway, batch["batch_id"])
        await gateway.redis.delete(f"job:{batch['items'][0]['job_id']}")
        answer = await gateway.get(batch["links"]["results"] + query)
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/usage-unavailable")


async def test_a_job_removed_from_its_batch_has_no_result_there(gateway: Running) -> None:
    batch = (await send(gateway, PICTURE, PICTURE)).json()
    await ended(gateway, batch["batch_id"])
    path = f"/api/v1/jobs/{batch['items'][0]['job_id']}"
    assert (await gateway.client.delete(path, headers=gateway.bearer())).status_code == 204
    found = await lines(gateway, batch["batch_id"])
    assert [(one["status"], one["result"]) for one in found] == [("COMPLETED", None), ("COMPLETED", RESULT)]


async def test_results_that_break_off_are_no_whole_answer(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that takes nothing is cut off: the connection ends without the end of the answer."""
    monkeypatch.setattr(http, "SEND_S", 0.2)
    batch = (await send(gateway, PICTURE)).json()
    sent: list[Json] = []

    async def receive() -> Json:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def stuck(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    headers = [(name.lower().encode(), value.encode()) for name, value in gateway.bearer().items()]
    scope = {
        "type": "http",
        "method": "GET",
        "path": batch["links"]["results"],
        "query_string": b"",
        "headers": headers,
    }
    await gateway.application({**scope, "headers": headers}, receive, stuck)
    assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"]
