"""What a running service writes into its log files: a line for each request, and nobody's secrets. Runs last."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from itertools import chain

import httpx2
from leaks import leaks, log_files
from running_service import METRICS_TOKEN, RunningService
from service_client import Client, until

from serve_app.contracts import Json
from serve_app.local.state import password

FILE_NAME = "patient-sesame-0815.jpg"
QUERY = "signature-sesame-4711"


def request_lines(service: RunningService) -> Iterator[Json]:
    return chain.from_iterable(service.request_lines().values())


def secrets(service: RunningService) -> list[str]:
    """Passwords of the servers, of Ray and of who scrapes."""
    found = [password(service.cluster.token_file), METRICS_TOKEN]
    for name in ("REDIS_URL", "DATABASE_URL"):
        secret = httpx2.URL(service.stack.environment[name]).password
        assert secret, name
        found.append(secret)
    return found


async def test_every_request_has_a_line_in_the_replicas_own_file(
    service: RunningService, client: Client, pictures: Sequence[bytes]
) -> None:
    job_id = await client.submit(pictures[0])
    mine = {"X-Request-ID": f"line-of-{job_id}"}
    answers = [await client.get(path, headers=mine) for path in (f"/api/v1/jobs/{job_id}", "/api/v1/jobs/x", "/x")]

    def found() -> list[Json] | None:
        lines = [line for line in request_lines(service) if line["request_id"] == mine["X-Request-ID"]]
        return lines if len(lines) == len(answers) else None

    lines = sorted(await until(found), key=lambda line: line["time"])
    assert [line["status_code"] for line in lines] == [200, 404, 404]
    assert [line["route"] for line in lines] == ["/api/v1/jobs/{job_id}", "/api/v1/jobs/{job_id}", None]
    assert (lines[0]["job_id"], lines[1]["job_id"]) == (job_id, None)


def test_serve_writes_no_second_line_and_warnings_are_what_they_are(service: RunningService) -> None:
    lines = []
    for path in log_files([service.cluster.ray_folder]):
        if path.name.startswith(("replica_", "proxy_")) and not path.name.endswith(("_requests.log", "_audit.log")):
            lines += [json.loads(line) for line in path.read_text().splitlines()]
    assert {line.get("component_name", "replica") for line in lines} == {"proxy", "replica"}
    assert [line["message"] for line in lines if "serve_access_log" in line or " 200 " in line["message"]] == []
    ours = [line for line in lines if line["message"].startswith(("No jobs go to ", "usage rows are delayed"))]
    assert {line["levelname"] for line in ours} <= {logging.getLevelName(logging.WARNING)}


async def test_no_log_file_holds_a_token_a_password_or_what_was_sent(
    service: RunningService, client: Client, pictures: Sequence[bytes], picture_url: str
) -> None:
    answer = await client.post("/api/v1/jobs", files={"image": (FILE_NAME, pictures[0])})
    assert answer.status_code == 202
    for url in (f"{picture_url}?{QUERY}", f"http://127.0.0.1:9/{QUERY}"):
        await client.post("/api/v1/inference", json={"image_url": url})
    await client.get(f"/api/v1/{QUERY}?{QUERY}")
    asked = f"before-the-scan-{answer.json()['job_id']}"
    await client.get("/api/v1/models", headers={"X-Request-ID": asked})
    await until(lambda: any(line["request_id"] == asked for line in request_lines(service)))
    sent = [FILE_NAME, QUERY, picture_url, *service.tokens, *secrets(service)]
    assert leaks([service.cluster.folder, service.cluster.ray_folder], sent) == []
