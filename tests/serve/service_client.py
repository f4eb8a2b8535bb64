"""A client as a careful user writes one: bounded in count, patient with a service that loses a process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from loadtest.service import POLL_S
from running_service import RunningService

from serve_app.contracts import Json

CONNECTIONS = 8
STREAM_S = 120
LONGEST_PAUSE_S = 1.0
"""Between two reads of one job: readers must not take the processors from the model."""
LOOK_S = 0.25
"""Between two looks at what takes long to come: each may ask Serve's dashboard, which costs more than the wait."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED")
BOUNDARY = "one-picture-3f9a"
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="picture.jpg"\r\n'
    "Content-Type: image/jpeg\r\n\r\n"
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()
PROXY_FAULTS = (500, 502, 504)
"""What the proxy answers for a replica that it lost."""


class Client:
    """One user's client. `interruptions` tells what it had to try again, and why."""

    def __init__(self, service: RunningService, http: httpx2.AsyncClient, user: str, **claims: Any) -> None:
        self.http, self.user = http, user
        self.interruptions: list[str] = []
        self.headers = {"Authorization": f"Bearer {service.token(user, **claims)}"}
        self._turns = asyncio.Semaphore(CONNECTIONS)

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        return await self._send("GET", path, **options)

    async def post(self, path: str, **options: Any) -> httpx2.Response:
        return await self._send("POST", path, **options)

    async def submit(self, picture: bytes, **fields: str) -> str:
        """Submit one picture until it is accepted; the job's id."""
        return await self._submit(files={"image": ("picture.jpg", picture)}, data=fields)

    async def submit_slowly(self, picture: bytes, rest: asyncio.Event) -> str:
        """As `submit`, but half of the body is sent only after `rest` is set."""

        async def body() -> AsyncIterator[bytes]:
            yield HEAD + picture[: len(picture) // 2]
            await rest.wait()
            yield picture[len(picture) // 2 :] + TAIL

        return await self._submit(body, headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})

    async def submit_text(self, text: str, model: str) -> str:
        """Submit a job of parameters alone; its id."""
        return await self._submit(json={"model": model, "params": {"text": text}})

    async def submit_all(self, pictures: Sequence[bytes]) -> list[str]:
        """One job per picture; their ids, in order."""
        return list(await asyncio.gather(*map(self.submit, pictures)))

    async def wait(self, ids: Sequence[str], seconds: float = 90) -> list[Json]:
        """The ended jobs, in order."""
        async with asyncio.timeout(seconds):
            return list(await asyncio.gather(*map(self._ended, ids)))

    async def events(self, job_id: str) -> AsyncIterator[Json]:
        """The events of a job as they arrive; the end is the stream's own, for httpx2 raises for one that was cut."""
        path = f"/api/v1/jobs/{job_id}/events"
        async with (
            asyncio.timeout(STREAM_S),
            self.http.stream("GET", path, headers=self.headers) as answer,
        ):
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    async def _ended(self, job_id: str) -> Json:
        pause = 4 * POLL_S
        while True:
            answer = await self._insist("GET", f"/api/v1/jobs/{job_id}")
            assert answer.status_code == 200, answer.text
            job: Json = answer.json()
            if job["status"] in ENDED:
                return job
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _submit(self, stream: Callable[[], AsyncIterator[bytes]] | None = None, **body: Any) -> str:
        answer = await self._insist("POST", "/api/v1/jobs", stream, **body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    async def _insist(
        self, method: str, path: str, stream: Callable[[], AsyncIterator[bytes]] | None = None, **options: Any
    ) -> httpx2.Response:
        """Try again after a lost connection, a 503, and a fault of the proxy; the application itself never has one."""
        while True:
            try:
                content = {"content": stream()} if stream else {}
                answer = await self._send(method, path, **content, **options)
            except httpx2.TransportError as error:
                self.interruptions.append(type(error).__name__)
            else:
                if answer.status_code < 500:
                    return answer
                ours = "problem+json" in answer.headers.get("Content-Type", "")
                assert answer.status_code == 503 or (answer.status_code in PROXY_FAULTS and not ours), answer.text
                self.interruptions.append(str(answer.status_code))
            await asyncio.sleep(POLL_S)

    async def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        async with self._turns:
            return await self.http.request(method, path, headers=headers, **options)


@asynccontextmanager
async def connected(service: RunningService, user: str, **claims: Any) -> AsyncIterator[Client]:
    """A client of the running service for one user, whose token has these claims."""
    async with httpx2.AsyncClient(base_url=service.cluster.url, timeout=30, trust_env=False) as http:
        yield Client(service, http, user, **claims)


async def until(look: Callable[[], Any], seconds: float = 30) -> Any:
    """What `look` gives, once it is true."""
    deadline, pause = time.monotonic() + seconds, POLL_S
    while not (found := look()):
        assert time.monotonic() < deadline, "the awaited condition did not come"
        await asyncio.sleep(pause)
        pause = min(1.2 * pause, LOOK_S)
    return found


async def recorded_once(service: RunningService, client: Client, ids: list[str]) -> None:
    """One outcome per job; one usage row per request of this user, of which each submit is one."""
    outcomes = "SELECT job_id FROM job_outcomes WHERE job_id = ANY(%s) AND status = 'COMPLETED' AND NOT dead"
    await until(lambda: len(service.rows(outcomes, ids)) >= len(ids))
    assert sorted(job for (job,) in service.rows(outcomes, ids)) == sorted(ids)
    submits = "SELECT job_id FROM api_usage WHERE username = %s AND endpoint_type = 'inference'"
    await until(lambda: len(service.rows(submits, client.user)) >= len(ids))
    assert sorted(job for (job,) in service.rows(submits, client.user)) == sorted(ids)
