"""The gateway replicas of a running Serve count one user together."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from typing import Final

import pytest
from loadtest.service import EXPORT_DEADLINE_S
from running_service import GATEWAYS, RunningService
from service_client import CONNECTIONS, Client, connected, until

from serve_app.gateway.auth import principal_of
from serve_app.gateway.ratelimit import BURST_S
from serve_app.settings import Settings

PER_SECOND: Final = 40.0
FLOOD_S: Final = 6.0
UNKNOWN: Final = "/api/v1/jobs/2f0c1c1e-8a39-4d4e-9d0a-000000000000"


@pytest.mark.slow(reason="a flood of six seconds")
async def test_replicas_share_one_limit_within_a_twentieth(service: RunningService) -> None:
    user = principal_of({"iss": service.stack.issuer.url, "sub": "flood"}, Settings()).id
    async with connected(service, "root", roles=["sem-admin"]) as admin:
        decision = {"principal_id": user, "reason": "A test.", "reads_per_s": PER_SECOND}
        assert (await admin.post("/api/v1/admin/overrides", json=decision)).status_code == 201
    async with connected(service, "flood") as client:
        started = time.monotonic()
        floods = await asyncio.gather(*(_flood(client, started + FLOOD_S) for _ in range(CONNECTIONS)))
        ended = time.monotonic()
    statuses = sum((counts for counts, _ in floods), Counter[int]())
    last_sent = max(sent for _, sent in floods)
    assert statuses.keys() == {404, 429}
    # The gateways may count until the last answer, but no request asks for more after the last was sent.
    assert 0.95 * _allowed(last_sent - started) <= statuses[404] <= 1.05 * _allowed(ended - started)
    shares = await until(lambda: _all_written(service, user, statuses.total()))
    assert len(shares) == GATEWAYS
    assert min(shares) > statuses.total() / GATEWAYS / 2
    await _counted(service, statuses[429])


def _allowed(seconds: float) -> float:
    return PER_SECOND * (BURST_S + seconds)


async def _flood(client: Client, end: float) -> tuple[Counter[int], float]:
    """The statuses of the answers, and when the last request was sent."""
    statuses, sent = Counter[int](), 0.0
    while (now := time.monotonic()) < end:
        statuses[(await client.get(UNKNOWN)).status_code] += 1
        sent = now
    return statuses, sent


def _all_written(service: RunningService, user: str, requests: int) -> list[int]:
    """How many of the user's requests each gateway answered, once the lines of all are written."""
    files = service.request_lines().values()
    shares = [sum(line["principal_id"] == user for line in lines) for lines in files]
    return [share for share in shares if share] if sum(shares) == requests else []


async def _counted(service: RunningService, refused: int) -> None:
    """Their counters together tell how many the limiter refused, and by which limit."""
    row = re.compile(r'^ray_gateway_limited_total\{(?=.*asked="read")(?=.*limit="user").*\} ([0-9.]+)$', re.MULTILINE)
    deadline = time.monotonic() + EXPORT_DEADLINE_S
    while sum(map(float, row.findall("\n".join(service.exported())))) != refused:
        assert time.monotonic() < deadline, "the refusals are not counted"
        await asyncio.sleep(0.5)
