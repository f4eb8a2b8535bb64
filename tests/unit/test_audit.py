"""The audit log cannot be flooded: refusals that come too quickly are counted instead of written."""

from __future__ import annotations

import json
import logging

import pytest

from serve_app.gateway.audit import LINES_AT_ONCE, LINES_PER_S, SCRAPES_AT_ONCE, AuditedRequest, AuditLog

ROUTE = "GET /api/v1/models"
SCRAPE = "GET /metrics"


def request(status: int, route: str = ROUTE) -> AuditedRequest:
    return AuditedRequest(route, status, None, "192.0.2.1", "r1", refusal="token-invalid")


def test_a_flood_of_refusals_is_a_trickle_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serve_app.audit")
    now = 1000.0
    log = AuditLog(lambda: now)
    for _ in range(100):  # ten seconds of ten thousand a second
        now += 0.1
        for _ in range(1000):
            log.refused(request(401), scrape=False)
    lines = [json.loads(record.message) for record in caplog.records]
    assert len(lines) == pytest.approx(LINES_AT_ONCE + 10 * LINES_PER_S, abs=1)
    now += 1
    log.refused(request(401), scrape=False)
    last = json.loads(caplog.records[-1].message)
    assert sum(line["left_out"] for line in lines) + last["left_out"] == 100_000 - len(lines)


def test_a_flood_of_one_kind_hides_no_other_and_no_admin(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serve_app.audit")
    log = AuditLog(lambda: 1000.0)
    for _ in range(1000):
        log.refused(request(401), scrape=False)
    caplog.clear()
    log.refused(request(403), scrape=False)
    log.refused(request(429), scrape=False)
    for _ in range(100):
        log.acted(request(201))
    assert len(caplog.records) == 102


def test_a_scraper_with_a_stale_token_has_a_line_a_minute_and_hides_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serve_app.audit")
    now = 1000.0
    log = AuditLog(lambda: now)
    for _ in range(4 * 60 * 24):  # a day of one scrape in 15 s
        now += 15
        log.refused(request(401, SCRAPE), scrape=True)
    lines = [json.loads(record.message) for record in caplog.records]
    assert len(lines) == pytest.approx(60 * 24 + SCRAPES_AT_ONCE, abs=2)
    assert {line["left_out"] for line in lines[10:]} == {3}
    caplog.clear()
    for _ in range(10_000):
        log.refused(request(401, SCRAPE), scrape=True)
    assert len(caplog.records) <= 1
    log.refused(request(401), scrape=False)
    assert json.loads(caplog.records[-1].message)["what"] == ROUTE
