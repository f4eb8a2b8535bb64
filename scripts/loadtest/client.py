"""Clients that put load on a service: a lean one that measures rates, and a user who retries until accepted."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from serve_app.client import ServiceClient
from serve_app.contracts import Json
from serve_app.errors import CapacityError, JobUnknown, ServiceError

DEADLINE_S = 120.0
CONNECTIONS = 32
"""Concurrent connections when a rate is measured: enough that concurrent requests share writes and syncs in Redis, few
enough for a client of one processor."""
USER_CONNECTIONS = 8
AGAIN_S = 0.5
LONGEST_S = 900.0
"""After this time without success a user gives up."""


@dataclass
class Answers:
    """The answers of one run. Latencies in seconds, in order of arrival."""

    seconds: float = 0.0
    client_cpu_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def client_cpu_share(self) -> float:
        return self.client_cpu_seconds / self.seconds


def prepared(path: str, token: str = "", **parts: Any) -> bytes:
    """The bytes of one POST request; `parts` are json, files and data of httpx2."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = httpx2.Request("POST", f"http://localhost{path}", headers=headers, **parts)
    lines = [f"POST {path} HTTP/1.1".encode(), *(name + b": " + value for name, value in request.headers.raw)]
    return b"\r\n".join([*lines, b"", request.read()])


def send_all(
    port: int, requests: Sequence[bytes], status: int, *, connections: int = CONNECTIONS, pause_s: float = 0.0
) -> Answers:
    """Send every request once over `connections` connections, with a pause of `pause_s` after each answer.

    Raises RuntimeError when an answer has another status.
    """
    answers = asyncio.run(_send_all(port, list(reversed(requests)), connections, pause_s))
    if set(answers.statuses) != {status}:
        raise RuntimeError(f"expected only {status}, saw {answers.statuses}: {answers.bodies[0][:300]!r}")
    return answers


async def _send_all(port: int, waiting: list[bytes], connections: int, pause_s: float) -> Answers:
    answers = Answers()
    cpu, start = time.process_time(), time.perf_counter()
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(_connection(port, waiting, answers, pause_s) for _ in range(connections)))
    answers.seconds = time.perf_counter() - start
    answers.client_cpu_seconds = time.process_time() - cpu
    return answers


async def _connection(port: int, waiting: list[bytes], answers: Answers, pause_s: float) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while waiting:
            message, start = waiting.pop(), time.perf_counter()
            writer.write(message)
            status, body = await _answer(reader)
            answers.latencies.append(time.perf_counter() - start)
            answers.statuses[status] += 1
            answers.bodies.append(body)
            if pause_s:
                await asyncio.sleep(pause_s)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    at = lower.index(b"content-length:") + 15
    length = int(lower[at : lower.index(b"\r\n", at)])
    return int(head[9:12]), await reader.readexactly(length)


class PersistentUser:
    """One user who submits pictures at a steady rate and repeats each submit until it is accepted.

    `accepted` holds (job id, picture, time) of every 202, `failures` the reason of every other answer. Thread-safe.
    """

    def __init__(self, client: ServiceClient, model: str, pictures: Sequence[Path]) -> None:
        self.accepted: list[tuple[str, int, float]] = []
        self.failures: list[str] = []
        self._client, self._model, self._pictures = client, model, pictures
        self._deadline = time.monotonic() + LONGEST_S

    @contextmanager
    def submitting(self, jobs: int, per_second: float, first: int) -> Iterator[None]:
        """Submit at this rate until the block ends and `jobs` are accepted. Raises TimeoutError after LONGEST_S."""
        places, over, started = itertools.count(), threading.Event(), time.monotonic()
        self._deadline = started + LONGEST_S

        def work() -> None:
            for place in places:  # shared: each thread takes the next
                if place >= jobs and over.is_set():
                    return
                time.sleep(max(0.0, started + place / per_second - time.monotonic()))
                picture = (first + place) % len(self._pictures)
                self.accepted.append((self.submit(picture), picture, time.time()))

        with ThreadPoolExecutor(USER_CONNECTIONS) as pool:
            working = [pool.submit(work) for _ in range(USER_CONNECTIONS)]
            try:
                yield
            except BaseException:
                self._deadline = 0.0
                raise
            finally:
                over.set()
        for one in working:
            one.result()

    def submit(self, picture: int, params: Json | None = None) -> str:
        """Submit one picture until it is accepted; returns the job's id."""
        while time.monotonic() < self._deadline:
            try:
                return str(self._client.submit(self._pictures[picture], model=self._model, params=params)["job_id"])
            except ServiceError as error:
                self.failures.append(_reason(error))
            time.sleep(AGAIN_S)
        raise TimeoutError(f"the service accepted no job for too long: {Counter(self.failures)}")

    def read(self, job_id: str) -> Json:
        """The job as the service shows it; an unknown one has status NOT_FOUND."""
        deadline = time.monotonic() + LONGEST_S
        while True:
            try:
                return self._client.job(job_id)
            except JobUnknown:
                return {"job_id": job_id, "status": "NOT_FOUND"}
            except ServiceError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(AGAIN_S)

    def read_all(self, ids: Sequence[str]) -> list[Json]:
        """Read each job, in order."""
        with ThreadPoolExecutor(USER_CONNECTIONS) as pool:
            return list(pool.map(self.read, ids))


def _reason(error: ServiceError) -> str:
    """Status and problem type, or the error when there was no answer."""
    if type(error) is CapacityError:
        return type(error.__cause__ or error).__name__
    return f"{error.status} {error.slug}"
