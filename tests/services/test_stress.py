"""The stress script against a gateway that really listens: what it counts as success, and how it ends."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from gateway_parts import IMAGE_MODEL, Running, failed, listening

from serve_app.local.issuer import DevIssuerServer

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "stress_test_api.py"


async def stress(base_url: str, authority: DevIssuerServer, *options: str) -> tuple[int, str, str]:
    """Exit status, output and errors of one run."""
    where = ("--base-url", base_url, "--mock-token-url", f"{authority.url}/token")
    run = await asyncio.create_subprocess_exec(sys.executable, SCRIPT, *where, *options, stdout=PIPE, stderr=PIPE)
    output, errors = await run.communicate()
    return run.returncode or 0, output.decode(), errors.decode()


def count(output: str, name: str) -> int:
    """The number behind a name, at the beginning of a line."""
    found = re.search(rf"^ *{re.escape(name)} +(\d+)$", output, re.MULTILINE)
    return int(found[1]) if found else 0


async def usage_of(gateway: Running) -> list[tuple[str, str]]:
    return [(event["username"], event["endpoint_type"]) for event in await gateway.usage()]


@pytest.mark.gateway(cards=(IMAGE_MODEL,))
async def test_a_mixed_run_succeeds_and_asks_as_each_user(gateway: Running, authority: DevIssuerServer) -> None:
    async with listening(gateway.application) as url:
        status, output, errors = await stress(url, authority, "--requests", "24", "--poll", "--users", "alice,bob")
    assert status == 0, output + errors
    assert output.startswith("Stress test complete\n")
    assert (count(output, "Total requests"), count(output, "Success"), count(output, "Failed")) == (24, 24, 0)
    assert (count(output, "alice"), count(output, "bob"), count(output, "200")) == (12, 12, 24)
    asked = [count(output, name) for name in ("inference", "status", "results")]
    assert sum(asked) == 24
    assert all(asked)
    assert count(output, "COMPLETED") == asked[0]
    for name in ("Latency min/s", "Latency p50/s", "Latency p95/s", "Latency p99/s", "Latency max/s"):
        assert name in output
    assert "24 of 24 requests, 0 failed\n" in errors
    events = await usage_of(gateway)
    assert {user for user, _ in events} == {"alice", "bob"}
    assert [kind for _, kind in events].count("inference") == asked[0]


@pytest.mark.gateway(cards=(IMAGE_MODEL,))
async def test_a_job_that_failed_is_a_failure(gateway: Running, authority: DevIssuerServer) -> None:
    gateway.model.answer = failed("image-undecodable", "The file ends early.")
    async with listening(gateway.application) as url:
        only = ("--mode", "inference", "--requests", "4")
        unpolled = await stress(url, authority, *only)
        status, output, _ = await stress(url, authority, *only, "--poll")
    assert unpolled[0] == 0
    assert status == 1
    assert (count(output, "Failed"), count(output, "200"), count(output, "FAILED")) == (4, 4, 4)
    assert "inference by alice: its job ended FAILED" in output


@pytest.mark.gateway(cards=(IMAGE_MODEL,), queue_max_jobs=1)
async def test_a_refusal_is_a_failure_with_its_reason(gateway: Running, authority: DevIssuerServer) -> None:
    gateway.model.open.clear()
    async with listening(gateway.application) as url:
        only = ("--mode", "inference", "--requests", "12", "--concurrency", "1")
        status, output, _ = await stress(url, authority, *only)
    assert status == 1
    assert (count(output, "Success"), count(output, "503")) == (1, 11)
    assert "Sample failures (8 of 11)" in output
    assert "queue-full" in output


async def test_a_service_that_is_away_is_a_failure_and_no_traceback(authority: DevIssuerServer) -> None:
    status, output, errors = await stress("http://127.0.0.1:9", authority, "--requests", "3")
    assert (status, count(output, "Failed"), count(output, "ConnectError")) == (1, 3, 3)
    assert "Traceback" not in errors
    for base_url, said in (("http://[", "is not the URL of a service"), ("nowhere", "UnsupportedProtocol")):
        status, output, errors = await stress(base_url, authority, "--requests", "1")
        assert status == 1
        assert said in output + errors
        assert "Traceback" not in errors


async def test_without_a_token_nothing_begins(authority: DevIssuerServer) -> None:
    status, output, errors = await stress("http://127.0.0.1:9", authority, "--mock-token-url", "http://127.0.0.1:9/t")
    assert (status, output) == (1, "")
    assert errors.startswith("stress_test_api: no token for alice from http://127.0.0.1:9/t: ConnectError")
