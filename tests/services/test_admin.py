"""What admins read and decide while the service runs, who is let in, and what of it is recorded."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from gateway_parts import PICTURE, Running, as_admin, audit_lines, failed, id_of, running_gateway, stuck
from job_help import configured
from pydantic import SecretStr
from usage_events import rows, until_settled

from serve_app.gateway.ratelimit import DECISIONS_MAX
from serve_app.gateway.routes.table import ROUTES
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import Settings

UNKNOWN = "/api/v1/jobs/2f0c1c1e-8a39-4d4e-9d0a-000000000000"
BLOCKS, OVERRIDES = "/api/v1/admin/blocks", "/api/v1/admin/overrides"
NOBODY = "0" * 32


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.admin], ids=lambda one: f"{one.method} {one.path}"
)
async def test_only_admins_are_let_in(gateway: Running, route: Any) -> None:
    path = route.path.replace("{principal_id}", NOBODY).replace("{job_id}", NOBODY)
    for headers, status, slug in (
        ({}, 401, "token-missing"),
        (gateway.bearer(roles=["admin", "sem-admins", "user"], scope="openid profile"), 403, "admin-required"),
    ):
        answer = await gateway.client.request(route.method, path, headers=headers, json={})
        assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{slug}")
    assert (await as_admin(gateway, route.method, path, json={})).status_code not in (401, 403)


async def test_a_blocked_user_is_told_why_until_it_is_taken_back(gateway: Running) -> None:
    ada = id_of(gateway, "ada")
    assert (await gateway.get(UNKNOWN)).status_code == 404
    block = {"principal_id": ada, "name": "ada", "reason": "Runaway script."}
    made = await as_admin(gateway, "POST", BLOCKS, json=block)
    assert (made.status_code, made.headers["location"]) == (201, f"{BLOCKS}/{ada}")
    for answer in (
        await gateway.get(UNKNOWN),
        await gateway.post("/api/v1/jobs", files={"image": ("a.png", PICTURE)}),
    ):
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/user-blocked")
        assert "Runaway script." in answer.json()["detail"]
        assert ada in answer.json()["detail"]
    assert await gateway.redis.exists("ledger:sem-classifier") == 0
    assert (await gateway.get(UNKNOWN, "bob")).status_code == 404
    listed = (await as_admin(gateway, "GET", BLOCKS)).json()["blocks"]
    assert listed == [{**block, "by": "root", "by_id": id_of(gateway, "root"), "at": made.json()["at"]}]
    assert (await as_admin(gateway, "DELETE", f"{BLOCKS}/{ada}")).status_code == 204
    assert (await gateway.get(UNKNOWN)).status_code == 404
    again = await as_admin(gateway, "DELETE", f"{BLOCKS}/{ada}")
    assert (again.status_code, again.json()["type"]) == (404, "/problems/decision-unknown")
    statuses = [event["status_code"] for event in await gateway.usage() if event["username"] == "ada"]
    assert statuses == [404, 403, 403, 404]


async def test_an_override_counts_at_once_on_every_gateway_and_has_no_end(
    settings: Settings, authority: DevIssuerServer
) -> None:
    async with running_gateway(settings, authority) as first, running_gateway(settings, authority) as second:
        ada = id_of(first, "ada")
        other = {"principal_id": ada, "reason": "Beam time.", "reads_per_s": 0.5, "submits_per_day": 3}
        assert (await as_admin(first, "POST", OVERRIDES, json=other)).status_code == 201
        assert [(await second.get(UNKNOWN)).status_code for _ in range(2)] == [404, 429]
        submit = await second.post("/api/v1/jobs", json={"model": "words", "params": {"text": "x"}})
        assert submit.headers["ratelimit-policy"] == '"submits";q=40;w=2, "submits-per-day";q=3;w=86400'
        wide = {"principal_id": ada, "reason": "Beam time.", "reads_per_s": 1000.0}
        assert (await as_admin(first, "POST", OVERRIDES, json=wide)).status_code == 201
        answers = [await second.get(UNKNOWN) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [404] * 3
        assert answers[0].headers["ratelimit-policy"] == '"reads";q=2000;w=2'
        assert await first.redis.ttl("limits:overrides") == -1
        assert len((await as_admin(second, "GET", OVERRIDES)).json()["overrides"]) == 1
        assert (await as_admin(second, "DELETE", f"{OVERRIDES}/{ada}")).status_code == 204
        assert (await first.get(UNKNOWN)).headers["ratelimit-policy"] == '"reads";q=200;w=2'


async def test_nobody_locks_himself_out(gateway: Running) -> None:
    body = {"principal_id": id_of(gateway, "root"), "reason": "A slip."}
    assert (await as_admin(gateway, "POST", BLOCKS, json=body)).status_code == 400


async def test_decisions_are_bounded_in_number(gateway: Running) -> None:
    others = {f"{number:032x}": json.dumps({"reason": "x", "at": 1}) for number in range(2, DECISIONS_MAX)}
    await gateway.redis.hset("limits:blocks", mapping=others)
    for number, status in enumerate((201, 201, 409)):
        body = {"principal_id": f"{number + DECISIONS_MAX:032x}", "reason": "x"}
        answer = await as_admin(gateway, "POST", BLOCKS, json=body)
        assert answer.status_code == status
    assert answer.json()["type"] == "/problems/decisions-full"
    body = {"principal_id": f"{2:032x}", "reason": "another reason"}
    assert (await as_admin(gateway, "POST", BLOCKS, json=body)).status_code == 201
    events: Any = await gateway.redis.xrange("outbox")
    audited = [fields[b"action"] for _, fields in events if fields[b"kind"] == b"audit"]
    assert audited == [b"block"] * 3  # what was not done is no row


async def test_a_full_redis_still_takes_a_block(gateway: Running) -> None:
    async with configured(gateway.redis, "maxmemory", 1):
        block = {"principal_id": id_of(gateway, "ada"), "reason": "Fills the memory."}
        assert (await as_admin(gateway, "POST", BLOCKS, json=block)).status_code == 201
        assert (await gateway.get(UNKNOWN)).status_code == 403


async def test_the_queue_and_the_ledger_are_told_by_model(gateway: Running) -> None:
    gateway.model.answer = failed("image-undecodable", "The file ends early.")
    await gateway.ended(await gateway.submit())
    queue = (await as_admin(gateway, "GET", "/api/v1/admin/queue")).json()
    states = {"total": 1, "total_jobs": 1, "pending": 0, "processing": 0, "completed": 0, "failed": 1}
    states |= {"cancelled": 0, "queue_size": 0}
    nothing = dict.fromkeys(states, 0)
    assert queue == {**states, "models": {"sem-classifier": states, "words": nothing}}
    ledger = (await as_admin(gateway, "GET", "/api/v1/admin/ledger")).json()["models"]
    counters = {"accepted": 1, "reopened": 0, "completed": 0, "failed": 1, "cancelled": 0, "dead": 0, "in_flight": 0}
    counters |= {"waiting": 0, "running": 0, "difference": 0}
    assert ledger == {"sem-classifier": counters, "words": dict.fromkeys(counters, 0)}
    gateway.model.open.clear()
    await gateway.submit()
    await gateway.redis.hincrby("ledger:sem-classifier", "accepted", 1)  # a job that is nowhere
    found = (await as_admin(gateway, "GET", "/api/v1/admin/ledger")).json()["models"]["sem-classifier"]
    assert (found["in_flight"], found["waiting"] + found["running"], found["difference"]) == (2, 1, 1)
    await gateway.redis.hincrby("ledger:sem-classifier", "accepted", -1)
    limits = (await as_admin(gateway, "GET", "/api/v1/admin/limits")).json()
    assert limits == {
        "burst_s": 2,
        "user": {"submits_per_s": 20.0, "reads_per_s": 100.0, "submits_per_day": 0},
        "house": {"submits_per_s": 100.0, "reads_per_s": 200.0},
        "submits_per_day_of_roles": {},
        "blocks": 0,
        "overrides": 0,
    }


async def test_actions_and_refusals_are_lines_of_the_audit_log(
    gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "serve_app.audit")
    hostile = {"preferred_username": "ada\r\n\x1b[31m\u202e" + "x" * 300}
    token = gateway.bearer("ada", **hostile)
    headers = {"X-Request-ID": "r-1", "X-Forwarded-For": "198.51.100.7\x7f, 10.0.0.1"}
    await gateway.client.get(UNKNOWN, headers={"Authorization": "Bearer stolen.secret.token", **headers})
    await gateway.client.get("/api/v1/admin/queue", headers={**token, **headers})
    body = {"principal_id": id_of(gateway, "ada"), "reason": "x"}
    await as_admin(gateway, "POST", BLOCKS, json=body, headers=headers)
    await as_admin(gateway, "GET", BLOCKS)
    await gateway.client.get(UNKNOWN, headers={**token, **headers})
    await as_admin(gateway, "DELETE", f"{BLOCKS}/{NOBODY}", headers=headers)
    found = audit_lines(caplog)
    shown = [(one["event"], one["what"], one["target"], one["outcome"], one["status"]) for one in found]
    assert shown == [
        ("refused", "GET /api/v1/jobs/{job_id}", "", "token-invalid", 401),
        ("refused", "GET /api/v1/admin/queue", "", "admin-required", 403),
        ("acted", "POST /api/v1/admin/blocks", body["principal_id"], "done", 201),
        ("refused", "GET /api/v1/jobs/{job_id}", "", "user-blocked", 403),
        ("acted", "DELETE /api/v1/admin/blocks/{principal_id}", NOBODY, "decision-unknown", 404),
    ]
    assert [one["who"][:8] for one in found] == ["", "ada[31mx", "root", "ada[31mx", "root"]
    assert all(one["request_id"] == "r-1" and one["from"] == "127.0.0.1" and one["at"] for one in found)
    assert found[0]["forwarded_for"] == "198.51.100.7, 10.0.0.1"
    assert found[1]["principal_id"] == body["principal_id"]
    text = "".join(record.message for record in caplog.records if record.name == "serve_app.audit")
    assert text.isprintable()
    assert "secret" not in text
    assert token["Authorization"][-40:] not in text


async def test_actions_are_rows_also_when_postgresql_was_away(
    settings: Settings, authority: DevIssuerServer, tables: str
) -> None:
    away = settings.model_copy(update={"database_url": SecretStr("postgresql://127.0.0.1:1/app")})
    async with running_gateway(away, authority) as gateway:
        ada = id_of(gateway, "ada")
        other = {"principal_id": ada, "name": "Ada\0", "reason": "Beam\ntime.", "reads_per_s": 5.0}
        headers = {"X-Request-ID": "r-2"}
        assert (await as_admin(gateway, "POST", OVERRIDES, json=other, headers=headers)).status_code == 201
        assert (await as_admin(gateway, "DELETE", f"{OVERRIDES}/{ada}", headers=headers)).status_code == 204
    async with running_gateway(settings, authority) as gateway:
        await until_settled(gateway.redis)
        root = id_of(gateway, "root")
    query = """
        SELECT username, principal_id, action, target, detail, address, request_id, timestamp > now() - interval '1 min'
        FROM admin_audit ORDER BY id
    """
    detail = {"name": "Ada", "reason": "Beamtime.", "reads_per_s": 5.0}
    assert rows(tables, query) == [
        ("root", root, "override", ada, detail, "127.0.0.1", "r-2", True),
        ("root", root, "remove-override", ada, None, "127.0.0.1", "r-2", True),
    ]
    assert rows(tables, "SELECT count(*) FROM api_usage WHERE endpoint_type = 'admin'") == [(2,)]


@pytest.mark.gateway(cors_allowed_origins=("https://lab.example.org",))
async def test_pages_of_configured_origins_may_call(gateway: Running) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,idempotency-key"}
    for origin, status in (("https://lab.example.org", 200), ("https://evil.example.org", 400)):
        preflight = await gateway.client.options("/api/v1/inference", headers={"Origin": origin, **ask})
        assert preflight.status_code == status
        assert (preflight.headers.get("access-control-allow-origin") == origin) == (status == 200)
    assert preflight.headers["access-control-max-age"] == "43200"
    assert preflight.headers["access-control-allow-methods"] == "GET, POST, DELETE"
    headers = {"Origin": "https://lab.example.org", **gateway.bearer()}
    answer = await gateway.client.get(UNKNOWN, headers=headers)
    assert answer.headers["access-control-allow-origin"] == "https://lab.example.org"
    assert "Retry-After" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in answer.headers
    assert await gateway.usage() != []


async def test_no_page_may_call_unless_it_is_configured(gateway: Running) -> None:
    headers = {"Origin": "https://lab.example.org", "Access-Control-Request-Method": "POST"}
    answer = await gateway.client.options("/api/v1/inference", headers=headers)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_what_an_admin_left_without_waiting_is_in_the_log_too(
    gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "serve_app.audit")
    arriving = asyncio.Event()
    headers = {"Content-Type": "application/json"}
    for claims in ({"roles": ["sem-admin"]}, {}):  # who is no admin is refused before the body is read
        body = stuck(b'{"principal_id":', arriving)
        request = gateway.client.post(BLOCKS, headers={**headers, **gateway.bearer("root", **claims)}, content=body)
        task = asyncio.create_task(request)
        await asyncio.wait([task, waiting := asyncio.create_task(arriving.wait())], return_when="FIRST_COMPLETED")
        task.cancel()
        waiting.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)
        arriving.clear()
    shown = [(one["event"], one["outcome"], one["status"]) for one in audit_lines(caplog)]
    assert shown == [("acted", "unknown", 499), ("refused", "admin-required", 403)]
