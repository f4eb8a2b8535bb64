"""A user with steady traffic, as a program: `steady_load.py URL RECORDS --rate 3`, the token in SEMAPI_TOKEN.

It submits pictures and polls each job to its end over connections that are kept alive, until its standard input is
closed; then it lets the jobs end, lists what the service holds for this user, and ends. It repeats what HTTP lets a
client repeat: a GET, and a POST with an Idempotency-Key, after a connection error, 429, 502, 503 or 504. Every attempt,
request and job is one JSON line of RECORDS.

It is a program of its own because it runs in the network namespace of the node, and its caller does not.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import ssl
import sys
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import httpx2

AGAIN = (429, 502, 503, 504)
"""Answers that ask for another attempt."""
PATIENCE_S = 60.0
"""How long a request is repeated before it counts as failed."""
REQUEST_S = 30.0
POLL_S = (0.3, 5.0)
"""Between two polls of a job: at first, and at most; the pauses grow, as the service asks for with a long queue."""
GROWTH = 1.2
PAUSE_S = (0.1, 2.0)
"""Before the second attempt, and at most before a later one; the pauses double."""
JOB_S = 300.0
"""A job that has not ended by then is lost."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED")
CONNECTIONS = 32


class SteadyLoad:
    """The traffic of one user. `run` returns when the input is closed and every job has ended."""

    def __init__(self, url: str, token: str, records: TextIO, pictures: list[bytes]) -> None:
        self._records, self._pictures = records, pictures
        self._http = httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx2.Timeout(REQUEST_S, pool=None),  # a wait for a connection of its own is no request yet
            verify=ssl.create_default_context(),  # as SSL_CERT_FILE says, for an edge with a certificate of its own
            trust_env=False,
            limits=httpx2.Limits(max_connections=CONNECTIONS, keepalive_expiry=None),
        )

    async def run(self, rate: float, jobs: int) -> None:
        """Submit `rate` a second until the input is closed; with `jobs`, only that many."""
        over = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        began, tasks = time.monotonic(), []
        async with self._http:
            for number in itertools.count() if jobs == 0 else range(jobs):
                wait = began + number / rate - time.monotonic()
                if (await asyncio.wait([over], timeout=max(0.0, wait)))[0] and jobs == 0:
                    break
                tasks.append(asyncio.create_task(self._job(number)))
            await asyncio.gather(*tasks)
            self._write("listed", ids=await self._listed())
        if not over.done():
            await over

    async def _job(self, number: int) -> None:
        """Submit one picture and poll its job to its end."""
        began = time.time()
        accepted = await self._ask(
            "submit",
            "POST",
            "/api/v1/jobs",
            headers={"Idempotency-Key": uuid.uuid4().hex},
            files={"image": ("picture.jpg", self._pictures[number % len(self._pictures)])},
        )
        if accepted is None:
            return
        job: Any = accepted.json()
        pause, longest = POLL_S
        while job["status"] not in ENDED and time.time() - began < JOB_S:
            await asyncio.sleep(pause)
            pause = min(pause * GROWTH, longest)
            answer = await self._ask("poll", "GET", f"/api/v1/jobs/{job['job_id']}")
            job = job if answer is None else answer.json()
        seen = {name: job.get(name) for name in ("job_id", "status", "deliveries")}
        ended = datetime.fromisoformat(job["completed_at"]).timestamp() if job.get("completed_at") else time.time()
        self._write("job", at=began, seconds=ended - began, **seen)

    async def _listed(self) -> list[str]:
        """The ids of every job that the service holds for this user."""
        ids: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            answer = await self._ask("list", "GET", "/api/v1/jobs", params={"limit": "200", **cursor})
            page = {"data": [], "next_cursor": None} if answer is None else answer.json()
            ids += [job["job_id"] for job in page["data"]]
            if page["next_cursor"] is None:
                return ids
            cursor = {"cursor": page["next_cursor"]}

    async def _ask(self, what: str, method: str, path: str, **options: Any) -> httpx2.Response | None:
        """The successful answer, after as many attempts as it takes; None where it failed."""
        began = time.time()
        for attempt in itertools.count(1):
            at, answer = time.time(), None
            try:
                answer = await self._http.request(method, path, **options)
                said = str(answer.status_code)
            except httpx2.TransportError as error:
                said = type(error).__name__
            self._write("attempt", at=at, seconds=time.time() - at, what=what, attempt=attempt, answer=said)
            again = answer is None or answer.status_code in AGAIN
            if not again or time.time() - began > PATIENCE_S:
                break
            await asyncio.sleep(_pause(answer, attempt))
        well = answer is not None and answer.is_success
        self._write(
            "request", at=began, seconds=time.time() - began, what=what, attempts=attempt, answer=said, well=well
        )
        return answer if well else None

    def _write(self, kind: str, **facts: Any) -> None:
        print(json.dumps({"kind": kind, **facts}), file=self._records, flush=True)


def _pause(answer: httpx2.Response | None, attempt: int) -> float:
    """What the service asks for, else a doubling pause."""
    asked = "" if answer is None else answer.headers.get("Retry-After", "")
    doubled = min(PAUSE_S[0] * 2 ** (attempt - 1), PAUSE_S[1])
    return min(float(asked), PAUSE_S[1]) if asked.isdigit() else doubled


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("records", type=Path)
    parser.add_argument("--rate", type=float, default=3.0, help="submits a second")
    parser.add_argument("--jobs", type=int, default=0, help="end after so many instead of with the input")
    parser.add_argument("--pictures", type=Path, required=True, help="a folder of JPEG files")
    options = parser.parse_args()
    pictures = [path.read_bytes() for path in sorted(options.pictures.glob("*.jpg"))]
    with options.records.open("w") as records:
        load = SteadyLoad(options.url, os.environ["SEMAPI_TOKEN"], records, pictures)
        asyncio.run(load.run(options.rate, options.jobs))


if __name__ == "__main__":
    main()
