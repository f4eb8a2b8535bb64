"""The audit log cannot be flooded: refusals that come too quickly are counted instead of written."""

from __future__ import annotations

import json
import logging
from typing import Any, cast

import pytest
from starlette.requests import Request

from serve_app.gateway.admin.audit import LINES_AT_ONCE, LINES_PER_S, AuditLog
from serve_app.gateway.service import Call, Service

ROUTE = "GET /api/v1/models"


def call() -> Call:
    scope: dict[str, Any] = {"type": "http", "headers": [], "client": ("192.0.2.1", 5)}
    return Call(cast(Service, None), Request(scope), "r1", refusal="token-invalid")


def test_a_flood_of_refusals_is_a_trickle_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serve_app.audit")
    now = 1000.0
    log = AuditLog(lambda: now)
    for _ in range(100):  # ten seconds of ten thousand a second
        now += 0.1
        for _ in range(1000):
            log.refused(call(), ROUTE, 401)
    lines = [json.loads(record.message) for record in caplog.records]
    assert len(lines) == pytest.approx(LINES_AT_ONCE + 10 * LINES_PER_S, abs=1)
    now += 1
    log.refused(call(), ROUTE, 401)
    last = json.loads(caplog.records[-1].message)
    assert sum(line["left_out"] for line in lines) + last["left_out"] == 100_000 - len(lines)


def test_a_flood_of_one_kind_hides_no_other_and_no_admin(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serve_app.audit")
    log = AuditLog(lambda: 1000.0)
    for _ in range(1000):
        log.refused(call(), ROUTE, 401)
    caplog.clear()
    log.refused(call(), ROUTE, 403)
    log.refused(call(), ROUTE, 429)
    for _ in range(100):
        log.acted(call(), ROUTE, 201)
    assert len(caplog.records) == 102
