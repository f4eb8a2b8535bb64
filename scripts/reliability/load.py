"""The load: one user who submits at a steady rate until everything asked for is accepted, and remembers what was said.

Whatever is not a 202 counts as a failed submit, with its reason; the picture is sent again until it is accepted.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import httpx2
from benchmark.observed_service import ObservedService

from reliability.pictures import Picture
from serve_app.contracts import Json

CONNECTIONS = 8
REQUEST_S = 30.0
AGAIN_S = 0.5
LONGEST_S = 900.0
"""A load that its fault has not let go by then is an error of the fault."""


class Load:
    """A context manager. `accepted` holds [job id, picture, time] of every 202, `failed` counts every other answer."""

    def __init__(self, service: ObservedService, user: str, model: str, pictures: Sequence[Picture], seed: int) -> None:
        self.user, self.model, self.pictures = user, model, pictures
        self.accepted: list[tuple[str, int, float]] = []
        self.failed: Counter[str] = Counter()
        self.released = asyncio.Event()
        """Set when the load may end once it is large enough."""
        self._seed = seed
        self._reached: dict[int, asyncio.Event] = {}
        self._http = httpx2.AsyncClient(
            base_url=service.cluster.url,
            headers={"Authorization": f"Bearer {service.token(user)}"},
            timeout=REQUEST_S,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def run(self, jobs: int, per_second: float) -> None:
        """Submit at this rate until `jobs` are accepted and the load is released."""
        turns = self._turns(jobs)
        started = time.monotonic()
        async with asyncio.timeout(LONGEST_S), asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._connection(turns, started, per_second))

    async def reached(self, jobs: int) -> None:
        """Return when so many are accepted."""
        await self._reached.setdefault(jobs, asyncio.Event()).wait()

    async def submit(self, picture: int, **params: str) -> str:
        """Submit one picture until it is accepted; the job's id."""
        files = {"image": ("picture.jpg", self.pictures[picture].data)}
        fields = {"model": self.model, "params": json.dumps(params)}
        while True:
            answer = await self._send("POST", "/api/v1/jobs", files=files, data=fields)
            if isinstance(answer, httpx2.Response) and answer.status_code == 202:
                return str(answer.json()["job_id"])
            self.failed[answer if isinstance(answer, str) else _reason(answer)] += 1
            await asyncio.sleep(AGAIN_S)

    async def read(self, ids: Sequence[str]) -> list[Json]:
        """What the service says of each job, in order; of one that it does not know the status is NOT_FOUND."""
        turns = asyncio.Semaphore(CONNECTIONS)
        return list(await asyncio.gather(*(self._read(job_id, turns) for job_id in ids)))

    def _turns(self, jobs: int) -> Iterator[int]:
        place = 0
        while place < jobs or not self.released.is_set():
            yield place
            place += 1

    async def _connection(self, turns: Iterator[int], started: float, per_second: float) -> None:
        for place in turns:
            await asyncio.sleep(started + place / per_second - time.monotonic())
            picture = (self._seed + place) % len(self.pictures)
            job_id = await self.submit(picture)
            self.accepted.append((job_id, picture, time.time()))
            for jobs, reached in self._reached.items():
                if len(self.accepted) >= jobs:
                    reached.set()

    async def _read(self, job_id: str, turns: asyncio.Semaphore) -> Json:
        async with turns, asyncio.timeout(LONGEST_S):
            while True:
                answer = await self._send("GET", f"/api/v1/jobs/{job_id}")
                if isinstance(answer, httpx2.Response) and answer.status_code == 200:
                    job: Json = answer.json()
                    return job
                if isinstance(answer, httpx2.Response) and answer.status_code == 404:
                    return {"job_id": job_id, "status": "NOT_FOUND"}
                await asyncio.sleep(AGAIN_S)

    async def _send(self, method: str, path: str, **options: Any) -> httpx2.Response | str:
        """The answer, or why there was none."""
        try:
            return await self._http.request(method, path, **options)
        except httpx2.TransportError as error:
            return type(error).__name__


def _reason(answer: httpx2.Response) -> str:
    """The status, with the problem where the service itself answered."""
    if "problem+json" not in answer.headers.get("Content-Type", ""):
        return str(answer.status_code)
    return f"{answer.status_code} {answer.json()['type'].rsplit('/', 1)[-1]}"
