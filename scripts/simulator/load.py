"""One user's traffic through the edge: reads at a steady rate, each through both of its ports, and submits.

The edge repeats a read once on one port and nothing on the other. A submit is repeated by the client, with its
Idempotency-Key. Everything that was asked is kept, with what came of it.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2

from serve_app.contracts import Json
from simulator.around.edge import Edge

READS_PER_S = 8.0
SUBMITS_PER_S = 2.0
LEAST_REQUESTS = 300
REQUEST_S = 30.0
PATIENCE_S = 30.0
"""How long a client goes on to repeat a submit."""
AGAIN_S = 0.5


@dataclass(frozen=True)
class Asked:
    """One request. `answer` is the status, or the name of the error; `through` the port, or `client` for a submit."""

    at: float
    what: str
    through: str
    answer: str
    seconds: float
    attempts: int = 1

    @property
    def failed(self) -> bool:
        return not self.answer.startswith("2")


class Load:
    """A context manager: the load lasts as long as it is open, and at least until enough was asked."""

    def __init__(self, edge: Edge, token: str, pictures: Sequence[Path]) -> None:
        self.asked: list[Asked] = []
        self.held: list[tuple[str, float]] = []
        """The ids that the client holds, and when it got them."""
        self._edge, self._token = edge, token
        self._pictures = [path.read_bytes() for path in pictures]
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def record(self) -> Json:
        """All of it, in plain JSON."""
        return {"asked": [asdict(one) for one in list(self.asked)], "held": list(self.held)}

    def repeated_count(self) -> int:
        """Requests with the repeats of edge and client so far: what the promise is about."""
        return sum(one.through != "plain" for one in list(self.asked))

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}"}
        limits = httpx2.Limits(max_connections=100)
        async with httpx2.AsyncClient(headers=headers, timeout=REQUEST_S, trust_env=False, limits=limits) as http:
            under_way: set[asyncio.Task[None]] = set()
            began, reads, submits = time.monotonic(), 0, 0
            while not (self._over.is_set() and self.repeated_count() >= LEAST_REQUESTS):
                due = time.monotonic() - began
                while submits < due * SUBMITS_PER_S:
                    under_way.add(asyncio.create_task(self._submit(http, submits)))
                    submits += 1
                while reads < due * READS_PER_S:
                    for through in ("repeating", "plain"):
                        under_way.add(asyncio.create_task(self._read(http, reads, through)))
                    reads += 1
                under_way = {task for task in under_way if not task.done()}
                await asyncio.sleep(1 / READS_PER_S)
            await asyncio.gather(*under_way)

    async def _read(self, http: httpx2.AsyncClient, number: int, through: str) -> None:
        job_id = self.held[-1 - number % min(len(self.held), 20)][0] if self.held else uuid.uuid4().hex
        kinds = [("POST", "/api/v1/jobs/status"), ("POST", "/api/v1/jobs/results"), ("GET", "/api/v1/jobs")]
        kinds += [("GET", f"/api/v1/jobs/{job_id}")] if self.held else [("GET", "/api/v1/models")]
        method, path = kinds[number % len(kinds)]
        body = {"json": {"job_id": job_id}} if method == "POST" else {}
        began, url = time.time(), (self._edge.repeating if through == "repeating" else self._edge.plain) + path
        answer, _ = await self._ask(http, method, url, **body)
        what = "job" if job_id in path else path.rsplit("/", 1)[-1]
        self.asked.append(Asked(began, what, through, answer, time.time() - began))

    async def _submit(self, http: httpx2.AsyncClient, number: int) -> None:
        began, key, attempts = time.time(), uuid.uuid4().hex, 0
        picture = self._pictures[number % len(self._pictures)]
        while True:
            attempts += 1
            answer, body = await self._ask(
                http,
                "POST",
                f"{self._edge.repeating}/api/v1/jobs",
                headers={"Idempotency-Key": key},
                files={"image": ("picture.jpg", picture)},
            )
            if attempts == 1:
                self.asked.append(Asked(began, "submit", "plain", answer, time.time() - began))
            if body is not None or time.time() - began > PATIENCE_S:
                break
            await asyncio.sleep(AGAIN_S)
        self.asked.append(Asked(began, "submit", "client", answer, time.time() - began, attempts))
        if body is not None:
            self.held.append((body["job_id"], time.time()))

    @staticmethod
    async def _ask(http: httpx2.AsyncClient, method: str, url: str, **options: object) -> tuple[str, Json | None]:
        try:
            answer = await http.request(method, url, **options)  # type: ignore[arg-type]
        except httpx2.HTTPError as error:
            return type(error).__name__, None
        return str(answer.status_code), answer.json() if answer.is_success else None
