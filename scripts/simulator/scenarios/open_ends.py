"""What is open while an upgrade goes on: slow uploads, event streams, connections kept alive to old pods."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2

from simulator.around.edge import Edge
from simulator.load import Asked

BOUNDARY = "one-picture-3f9a"
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="picture.jpg"\r\n'
    "Content-Type: image/jpeg\r\n\r\n"
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()
UPLOADS = 4
UPLOAD_S = 12.0
PIECES = 24
EVERY_S = 1.0
ENDED = ("completed", "failed", "cancelled")
COMES_BACK_S = 1.0
"""After a break a client of an event stream waits as long as the stream told it to."""
REQUEST_S = 30.0


class OpenEnds:
    """A context manager. All of it begins on entry; on exit uploads and streams are waited for, connections closed."""

    def __init__(self, edge: Edge, token: str, picture: Path, jobs: Sequence[str], old: Sequence[str]) -> None:
        self.asked: list[Asked] = []
        self.ids: list[str] = []
        """Jobs of the uploads."""
        self._edge, self._picture, self._jobs, self._old = edge, picture.read_bytes(), jobs, old
        self._headers = {"Authorization": f"Bearer {token}"}
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="open-ends", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    async def _run(self) -> None:
        client = httpx2.AsyncClient(headers=self._headers, timeout=REQUEST_S, trust_env=False)
        async with client as http, asyncio.TaskGroup() as group:
            for _ in range(UPLOADS):
                group.create_task(self._upload(http))
            for job_id in self._jobs:
                group.create_task(self._follow(http, job_id))
            for address in self._old:
                group.create_task(self._keep(address))

    async def _upload(self, http: httpx2.AsyncClient) -> None:
        """One upload, slowly; repeated once with its key when it breaks."""
        began, key = time.time(), uuid.uuid4().hex
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Idempotency-Key": key}
        url, answers = f"{self._edge.repeating}/api/v1/jobs", []
        for _ in range(2):
            try:
                answer = await http.post(url, content=self._slowly(), headers=headers)
            except httpx2.HTTPError as error:
                answers.append(type(error).__name__)
                continue
            answers.append(str(answer.status_code))
            if answer.is_success:
                self.ids.append(answer.json()["job_id"])
                break
        self._keep_record("upload", began, answers)

    async def _slowly(self) -> AsyncIterator[bytes]:
        body = HEAD + self._picture + TAIL
        size = -(-len(body) // PIECES)
        for place in range(0, len(body), size):
            yield body[place : place + size]
            await asyncio.sleep(UPLOAD_S / PIECES)

    async def _follow(self, http: httpx2.AsyncClient, job_id: str) -> None:
        """A stream of events to the job's end. Who is cut off comes back with the last event that came."""
        began, answers, seen = time.time(), list[str](), ""
        while len(answers) < 10:
            headers = {"Last-Event-ID": seen} if seen else {}
            try:
                seen, status = await self._events(http, job_id, headers)
            except httpx2.HTTPError as error:
                answers.append(type(error).__name__)
            else:
                if status in ENDED:
                    answers.append("200")
                    break
                answers.append(f"ended as {status}")
            await asyncio.sleep(COMES_BACK_S)
        self._keep_record("stream", began, answers)

    async def _events(self, http: httpx2.AsyncClient, job_id: str, headers: dict[str, str]) -> tuple[str, str]:
        """Id and status of the last event before the stream ended."""
        seen, status, url = (
            headers.get("Last-Event-ID", ""),
            "nothing",
            f"{self._edge.repeating}/api/v1/jobs/{job_id}/events",
        )
        async with http.stream("GET", url, headers=headers) as answer:
            if answer.status_code == 204:
                return seen, "completed"
            if answer.is_error:
                return seen, str(answer.status_code)
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    seen = value
                elif name == "data":
                    status = str(json.loads(value).get("status", status)).lower()
        return seen, status

    async def _keep(self, address: str) -> None:
        """A request each second on one connection to this pod, until the pod closes it; then the edge answers."""
        limits = httpx2.Limits(max_connections=1)
        async with httpx2.AsyncClient(
            headers=self._headers, timeout=REQUEST_S, trust_env=False, limits=limits
        ) as straight:
            place = f"http://{address}:8000"
            while not self._over.is_set():
                began = time.time()
                answer = await self._get(straight, f"{place}/api/v1/models")
                answers = [answer]
                if not answer.startswith("2") and place != self._edge.repeating:
                    place = self._edge.repeating  # the name leads to the new side by now
                    answers.append(await self._get(straight, f"{place}/api/v1/models"))
                self._keep_record("kept-alive", began, answers)
                await asyncio.sleep(EVERY_S)

    @staticmethod
    async def _get(http: httpx2.AsyncClient, url: str) -> str:
        try:
            return str((await http.get(url)).status_code)
        except httpx2.HTTPError as error:
            return type(error).__name__

    def _keep_record(self, what: str, began: float, answers: list[str]) -> None:
        seconds = time.time() - began
        self.asked.append(Asked(began, what, "plain", answers[0], seconds))
        self.asked.append(Asked(began, what, "client", answers[-1], seconds, len(answers)))
