"""Stress test of a running service: many requests by several users at once, and a summary of the answers.

Without --image and --image-url it uploads the sample pictures of this repository. The exit status is 0 when every
request succeeded and 1 when one failed: no answer in time, HTTP 400 or above, or, with --poll, a job that did not
complete.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
import uuid
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from loadtest.results import ROOT, percentile
from serve_app.client import may_need_proxy

SAMPLES = ROOT / "serve_app" / "samples"
PATHS: Final = {
    "inference": "/api/v1/inference",
    "status": "/api/v1/jobs/status",
    "results": "/api/v1/jobs/results",
}
BOUNDS: Final = {"requests": (1, 1_000_000), "concurrency": (1, 1000), "timeout": (0.001, 600.0)}
IMAGES_MAX_BYTES: Final = 256 * 1024 * 1024
"""All pictures together: they are kept in memory."""
POLL_S: Final = 0.5
POLL_TIMEOUT_S: Final = 60.0
ENDED: Final = ("COMPLETED", "FAILED", "NOT_FOUND")
ISSUER_NAME: Final = "mock-oidc:8080"
"""The development issuer's name inside a cluster; tokens carry it whatever address the issuer was asked at."""
PROGRESS_S: Final = 2.0
REASON_MAX: Final = 200
FAILURES_SHOWN: Final = 8
WIDTH: Final = 18
INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Plan:
    """One stress run. `bodies` are the uploads and the addresses of pictures, used in turns."""

    base_url: str
    token_url: str
    users: Sequence[str]
    requests: int
    concurrency: int
    mode: str
    poll: bool
    timeout: float
    bodies: Sequence[dict[str, Any]]


class StressError(Exception):
    """The run cannot begin; the message says why."""


def main() -> int:
    """Run, print the summary, and return the exit status."""
    plan = read_plan()
    try:
        tally = asyncio.run(Stress(plan).run())
    except StressError as error:
        print(f"stress_test_api: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stress_test_api: interrupted", file=sys.stderr)
        return INTERRUPTED
    print(tally.report())
    return 1 if tally.failed else 0


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults, and the description as it is."""


def read_plan(arguments: Sequence[str] | None = None) -> Plan:
    """The plan of a command line; exits with status 2 and a reason for an invalid one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Help)
    parser.add_argument("--base-url", default="http://localhost:8080", help="address of the service")
    token_url = "http://localhost:18080/default/token"  # noqa: S105  no secret
    parser.add_argument("--mock-token-url", dest="token_url", default=token_url, help="development issuer")
    parser.add_argument("--users", default="alice,bob,charlie", help="names of the users, who take turns")
    parser.add_argument("--requests", type=int, default=30, help="number of requests")
    parser.add_argument("--concurrency", type=int, default=5, help="requests at once")
    parser.add_argument("--mode", choices=[*PATHS, "mixed"], default="mixed", help="mixed: a random one of the others")
    parser.add_argument("--poll", action="store_true", help="wait for the end of every submitted job")
    parser.add_argument("--timeout", type=float, default=30.0, help="of one request, in seconds")
    parser.add_argument("--image", action="append", default=[], type=Path, help="file to upload; may be repeated")
    parser.add_argument("--image-url", action="append", default=[], help="picture the service fetches; may be repeated")
    given = vars(parser.parse_args(arguments))
    for name, (least, most) in BOUNDS.items():
        if not least <= given[name] <= most:
            parser.error(f"--{name} must be {least} to {most}")
    users = [user.strip() for user in given.pop("users").split(",") if user.strip()]
    if not users:
        parser.error("--users names nobody")
    files, urls = given.pop("image"), given.pop("image_url")
    if not files and not urls:
        files = sorted(SAMPLES.glob("*.jpg"))
    try:
        if sum(path.stat().st_size for path in files) > IMAGES_MAX_BYTES:
            parser.error(f"the images have more than {IMAGES_MAX_BYTES} bytes together")
        bodies = [{"files": {"image": (path.name, path.read_bytes())}} for path in files]
    except OSError as error:
        parser.error(f"{error.filename} cannot be read: {error.strerror}")
    return Plan(**given, users=users, bodies=bodies + [{"json": {"image_url": url}} for url in urls])


@dataclass
class Tally:
    """The counts of a run, and eight bytes for each latency."""

    seconds: float = 0.0
    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in ("endpoint", "status", "user", "job status")}
    )
    latencies: array[float] = field(default_factory=lambda: array("d"))
    job_latencies: array[float] = field(default_factory=lambda: array("d"))
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    """The first few."""

    def add(self, endpoint: str, user: str, status: str, seconds: float, failure: str | None = None) -> None:
        """Count one request; without a `failure` it is a success."""
        for name, value in (("endpoint", endpoint), ("status", status), ("user", user)):
            self.counts[name][value] += 1
        self.latencies.append(seconds)
        if failure is not None:
            self.failed += 1
            if len(self.failures) < FAILURES_SHOWN:
                self.failures.append(f"{endpoint} by {user}: {failure}")

    def add_job(self, status: str, seconds: float) -> None:
        """Count a job by its last status, with the time from its submit to its end."""
        self.counts["job status"][status] += 1
        self.job_latencies.append(seconds)

    def report(self) -> str:
        """The summary."""
        total = len(self.latencies)
        rows = {
            "Total requests": f"{total}",
            "Success": f"{total - self.failed}",
            "Failed": f"{self.failed}",
            "Elapsed/s": f"{self.seconds:.3f}",
            "Throughput req/s": f"{total / self.seconds:.1f}",
        }
        for name, latencies in (("Latency", self.latencies), ("Job", self.job_latencies)):
            if ordered := sorted(latencies):
                for column, rank in {"min": 0, "p50": 50, "p95": 95, "p99": 99, "max": 100}.items():
                    rows[f"{name} {column}/s"] = f"{percentile(ordered, rank):.3f}"
        lines = ["Stress test complete", *(f"{name:<{WIDTH}}{value:>8}" for name, value in rows.items())]
        for name, counts in self.counts.items():
            if counts:
                width = max(WIDTH - 2, *map(len, counts))
                lines += ["", f"By {name}", *(f"  {one:<{width}}{count:>8}" for one, count in counts.most_common())]
        if self.failures:
            lines += ["", f"Sample failures ({len(self.failures)} of {self.failed})"]
            lines += [f"  {failure}" for failure in self.failures]
        return "\n".join(lines)


class Stress:
    """One run of a plan. The same plan sends the same requests in the same order."""

    def __init__(self, plan: Plan) -> None:
        self.tally = Tally()
        self._plan = plan
        self._choices = random.Random(1)
        self._tokens: dict[str, str] = {}

    async def run(self) -> Tally:
        """Send everything. Raises `StressError` when the address is no URL or a user gets no token."""
        async with self._client() as http:
            for user in self._plan.users:
                self._tokens[user] = await self._token(http, user)
            numbers, began = iter(range(self._plan.requests)), time.perf_counter()
            progress = asyncio.create_task(self._show_progress())
            try:
                await asyncio.gather(*(self._work(http, numbers) for _ in range(self._plan.concurrency)))
            finally:
                progress.cancel()
                self._print_progress()
            self.tally.seconds = time.perf_counter() - began
        return self.tally

    def _client(self) -> httpx2.AsyncClient:
        url, limits = self._plan.base_url, httpx2.Limits(max_connections=self._plan.concurrency)
        try:
            remote = may_need_proxy(url)
            return httpx2.AsyncClient(base_url=url, limits=limits, timeout=self._plan.timeout, trust_env=remote)
        except (ValueError, httpx2.InvalidURL) as error:
            raise StressError(f"{url} is not the URL of a service: {error}") from error

    async def _token(self, http: httpx2.AsyncClient, user: str) -> str:
        form = {"grant_type": "client_credentials", "scope": "openid", "client_id": user}
        form["client_secret"] = "test-secret"  # noqa: S105  the development issuer takes any
        try:
            answer = await http.post(self._plan.token_url, data=form, headers={"Host": ISSUER_NAME})
            answer.raise_for_status()
            return str(answer.json()["access_token"])
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise StressError(f"no token for {user} from {self._plan.token_url}: {_reason(error)}") from error

    async def _work(self, http: httpx2.AsyncClient, numbers: Iterable[int]) -> None:
        for number in numbers:
            user = self._plan.users[number % len(self._plan.users)]
            mode = self._plan.mode
            endpoint = self._choices.choice(list(PATHS)) if mode == "mixed" else mode
            body = {"json": {"job_id": str(uuid.uuid4())}}
            if endpoint == "inference":
                body = self._plan.bodies[number % len(self._plan.bodies)]
            await self._attempt(http, endpoint, user, body)

    async def _attempt(self, http: httpx2.AsyncClient, endpoint: str, user: str, body: dict[str, Any]) -> None:
        began, failure = time.perf_counter(), None
        try:
            answer = await self._send(http, endpoint, user, body)
            seconds = time.perf_counter() - began
            status = str(answer.status_code)
            if answer.status_code >= 400:
                failure = f"{status} {answer.text[:REASON_MAX]}"
            elif endpoint == "inference" and self._plan.poll:
                job = await self._poll(http, user, str(answer.json()["job_id"]))
                self.tally.add_job(job, time.perf_counter() - began)
                failure = None if job == "COMPLETED" else f"its job ended {job}"
        except (httpx2.HTTPError, TimeoutError, ValueError, KeyError) as error:
            status, seconds, failure = type(error).__name__, time.perf_counter() - began, _reason(error)
        self.tally.add(endpoint, user, status, seconds, failure)

    async def _poll(self, http: httpx2.AsyncClient, user: str, job_id: str) -> str:
        """The last status of the job, or POLL_TIMEOUT."""
        deadline = time.monotonic() + POLL_TIMEOUT_S
        while time.monotonic() < deadline:
            answer = await self._send(http, "status", user, {"json": {"job_id": job_id}})
            answer.raise_for_status()
            if (status := str(answer.json()["status"])) in ENDED:
                return status
            await asyncio.sleep(POLL_S)
        return "POLL_TIMEOUT"

    async def _send(self, http: httpx2.AsyncClient, endpoint: str, user: str, body: dict[str, Any]) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self._tokens[user]}"}
        async with asyncio.timeout(self._plan.timeout):  # the client's own timeout is for each read
            return await http.post(PATHS[endpoint], headers=headers, **body)

    async def _show_progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            self._print_progress()

    def _print_progress(self) -> None:
        done = len(self.tally.latencies)
        print(f"{done} of {self._plan.requests} requests, {self.tally.failed} failed", file=sys.stderr, flush=True)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()[:REASON_MAX]
