"""Sends what a stress run asks for, so many requests at once, each within its deadline."""

from __future__ import annotations

import asyncio
import random
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from load.tally import Attempt, Tally
from serve_app.client.http import may_need_proxy

PATHS: Final = {
    "inference": "/api/v1/inference",
    "status": "/api/v1/jobs/status",
    "results": "/api/v1/jobs/results",
}
POLL_S: Final = 0.5
POLL_TIMEOUT_S: Final = 60.0
ENDED: Final = ("COMPLETED", "FAILED", "NOT_FOUND")
ISSUER_NAME: Final = "mock-oidc:8080"
"""The name by which clients in a cluster reach the development issuer; tokens name it whatever the address."""
FAULT_SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """One stress run. `pictures` are files to upload and addresses to name, used in turns."""

    base_url: str
    token_url: str
    users: Sequence[str]
    requests: int
    concurrency: int
    mode: str
    poll: bool
    timeout_s: float
    pictures: Sequence[Path | str]


class StressError(Exception):
    """The run cannot begin; the message says why."""


class Stress:
    """One run of a plan. The same plan asks the same things in the same order."""

    def __init__(self, plan: Plan) -> None:
        self.tally = Tally()
        self._plan = plan
        self._bodies = [_body(picture) for picture in plan.pictures]
        # The same choices every time: two runs can be compared.
        self._choices = random.Random(1)
        self._tokens: dict[str, str] = {}

    async def run(self) -> Tally:
        """Send everything. Raises `StressError` when that cannot begin: no token, no such address."""
        plan = self._plan
        async with _client(plan) as http:
            for user in plan.users:
                self._tokens[user] = await self._token(http, user)
            numbers, began = iter(range(plan.requests)), time.perf_counter()
            progress = asyncio.create_task(_show(self.tally, plan.requests))
            try:
                await asyncio.gather(*(self._work(http, numbers) for _ in range(plan.concurrency)))
            finally:
                progress.cancel()
                _say_progress(self.tally, plan.requests, "\n")
            self.tally.seconds = time.perf_counter() - began
        return self.tally

    async def _token(self, http: httpx2.AsyncClient, user: str) -> str:
        form = {
            "grant_type": "client_credentials",
            "scope": "openid",
            "client_id": user,
            "client_secret": "test-secret",
        }
        try:
            answer = await http.post(self._plan.token_url, data=form, headers={"Host": ISSUER_NAME})
            answer.raise_for_status()
            return str(answer.json()["access_token"])
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise StressError(f"no token for {user} from {self._plan.token_url}: {_say(error)}") from error

    async def _work(self, http: httpx2.AsyncClient, numbers: Iterable[int]) -> None:
        for number in numbers:
            user = self._plan.users[number % len(self._plan.users)]
            mode = self._plan.mode
            endpoint = self._choices.choice(list(PATHS)) if mode == "mixed" else mode
            body = {"json": {"job_id": str(uuid.uuid4())}}
            if endpoint == "inference":
                body = self._bodies[number % len(self._bodies)]
            self.tally.add(await self._attempt(http, endpoint, user, body))

    async def _attempt(self, http: httpx2.AsyncClient, endpoint: str, user: str, body: dict[str, Any]) -> Attempt:
        began = time.perf_counter()
        try:
            answer = await self._send(http, PATHS[endpoint], user, body)
            seconds = time.perf_counter() - began
            status = str(answer.status_code)
            if answer.status_code >= 400:
                return Attempt(endpoint, user, status, seconds, fault=f"{status} {answer.text[:FAULT_SHOWN]}")
            if endpoint != "inference" or not self._plan.poll:
                return Attempt(endpoint, user, status, seconds)
            job = await self._poll(http, user, str(answer.json()["job_id"]))
        except (httpx2.HTTPError, TimeoutError, ValueError, KeyError) as error:
            seconds = time.perf_counter() - began
            return Attempt(endpoint, user, type(error).__name__, seconds, fault=_say(error))
        fault = None if job == "COMPLETED" else f"its job ended {job}"
        return Attempt(endpoint, user, status, seconds, job, time.perf_counter() - began, fault)

    async def _poll(self, http: httpx2.AsyncClient, user: str, job_id: str) -> str:
        """The status that the job ended with, or POLL_TIMEOUT."""
        deadline = time.monotonic() + POLL_TIMEOUT_S
        while time.monotonic() < deadline:
            answer = await self._send(http, PATHS["status"], user, {"json": {"job_id": job_id}})
            answer.raise_for_status()
            if (status := str(answer.json()["status"])) in ENDED:
                return status
            await asyncio.sleep(POLL_S)
        return "POLL_TIMEOUT"

    async def _send(self, http: httpx2.AsyncClient, path: str, user: str, body: dict[str, Any]) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self._tokens[user]}"}
        async with asyncio.timeout(self._plan.timeout_s):  # the client's own is for each read
            return await http.post(path, headers=headers, **body)


def _client(plan: Plan) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=plan.concurrency)
    try:
        remote = may_need_proxy(plan.base_url)
        return httpx2.AsyncClient(base_url=plan.base_url, limits=limits, timeout=plan.timeout_s, trust_env=remote)
    except (ValueError, httpx2.InvalidURL) as error:
        raise StressError(f"{plan.base_url} is not the URL of a service: {error}") from error


def _body(picture: Path | str) -> dict[str, Any]:
    if isinstance(picture, str):
        return {"json": {"image_url": picture}}
    try:
        return {"files": {"image": (picture.name, picture.read_bytes())}}
    except OSError as error:
        raise StressError(f"{picture} cannot be read: {error.strerror}") from error


def _say(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()[:FAULT_SHOWN]


async def _show(tally: Tally, requests: int) -> None:
    """One line on a terminal, written over; elsewhere a line now and then."""
    on_terminal = sys.stderr.isatty()
    while True:
        await asyncio.sleep(0.2 if on_terminal else 5)
        _say_progress(tally, requests, "" if on_terminal else "\n")


def _say_progress(tally: Tally, requests: int, end: str) -> None:
    begin = "\r" if sys.stderr.isatty() else ""
    text = f"{begin}{tally.total} of {requests} requests, {tally.failed} failed"
    print(text, end=end, file=sys.stderr, flush=True)
