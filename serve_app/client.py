"""A small HTTP client of the service, for the command line and for scripts."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import quote, urlsplit

import httpx2

from serve_app.contracts import ENDED, Json, Priority
from serve_app.errors import PROBLEMS, CapacityError, DeadlineExceeded, RateLimited, ServiceError

TIMEOUT_S: Final = 60.0
"""Deadline of one request; above the service's own 30 s for a submit."""
HOLD_MAX_S: Final = 20
"""Longest wait that the service grants in one request; it answers as soon as the job has ended."""
POLL_MIN_S: Final = 0.1
POLL_MAX_S: Final = 5.0
"""Pauses between requests if the service did not wait or was down: short at first, then longer."""
AWAY_S: Final = 30.0
"""How long `wait` tolerates an unreachable service or 503: a restart or a lost gateway."""
TOO_FAST_S: Final = 60.0
"""How long `submit` waits while it is rate limited; a used-up quota lasts longer."""
TOKEN: Final = re.compile(r"[!-~]+")


class ServiceClient:
    """Submits files and waits for their jobs. Use it as a context manager.

    A refusal raises the class of `serve_app.errors` of its problem type; an unreachable service raises `CapacityError`.
    """

    def __init__(self, base_url: str, token: str) -> None:
        """Raises ValueError for an invalid URL or token."""
        if not TOKEN.fullmatch(token):
            raise ValueError("The token is not a token: it is empty or holds spaces, line breaks or foreign letters.")
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        try:
            remote = may_need_proxy(base_url)
            self._http = httpx2.Client(base_url=base_url, headers=headers, timeout=TIMEOUT_S, trust_env=remote)
        except (ValueError, httpx2.InvalidURL) as error:
            raise ValueError(f"{base_url} is not the URL of a service: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._http.close()

    def submit(
        self,
        file: Path,
        *,
        model: str | None = None,
        params: Json | None = None,
        keep: bool = False,
        priority: Priority = Priority.NORMAL,
    ) -> Json:
        """Submit one image; returns the accepted job. Waits if this user is rate limited.

        `params` are the model's parameters, for example `{"page": 2}`.
        `keep`: `image` returns the image for as long as the job's record exists.
        """
        fields = {"keep": "true"} if keep else {}
        fields |= {"priority": priority.value} if priority is not Priority.NORMAL else {}
        fields |= {} if model is None else {"model": model}
        fields |= {"params": json.dumps(params)} if params else {}

        def once() -> Json:
            with file.open("rb") as stream:
                return self._ask("POST", "/api/v1/jobs", files={"image": (file.name, stream)}, data=fields)

        return self._patiently(once, RateLimited)

    def models(self) -> Json:
        """The served models, and which of them is the default."""
        return self._ask("GET", "/api/v1/models")

    def metrics(self) -> str:
        """The text of `GET /metrics`, for admins and METRICS_TOKEN."""
        return self._request("GET", "/metrics").text

    def job(self, job_id: str) -> Json:
        """The job's current state."""
        return self._ask("GET", f"/api/v1/jobs/{job_id}")

    def jobs(self, *, status: str | None = None, limit: int = 50, cursor: str | None = None) -> Json:
        """A page of the caller's jobs, newest first; `next_cursor` leads to the next page."""
        asked = {"status": status, "limit": limit, "cursor": cursor}
        return self._ask("GET", "/api/v1/jobs", params={name: value for name, value in asked.items() if value})

    def result(self, job_id: str) -> Json:
        """The result of a completed job, also of one whose record has expired."""
        return self._ask("GET", f"/api/v1/jobs/{job_id}/result")

    def image(self, job_id: str) -> bytes:
        """The image of a job submitted with `keep`, unchanged. Raises `ImageNotKept`."""
        return self._request("GET", f"/api/v1/jobs/{job_id}/image", follow_redirects=True).content

    def cancel(self, job_id: str) -> Json:
        """Cancel a job and return it. Raises `JobEnded`."""
        return self._ask("POST", f"/api/v1/jobs/{job_id}/cancel")

    def retry(self, job_id: str) -> Json:
        """Retry a failed job and return it."""
        return self._ask("POST", f"/api/v1/jobs/{job_id}/retry")

    def remove(self, job_id: str) -> None:
        """Delete an ended job with its image and results."""
        self._request("DELETE", f"/api/v1/jobs/{job_id}")

    def wait(self, job_id: str, timeout_s: float) -> Json:
        """Wait until the job has ended and return it. Raises `DeadlineExceeded` after `timeout_s` seconds.

        An accepted job survives a short outage of the service, so outages of up to `AWAY_S` are tolerated.
        """
        now = time.monotonic()
        deadline, seen, pause = now + timeout_s, now, POLL_MIN_S
        while True:
            asked, rest = time.monotonic(), 0.0
            hold = max(0, min(HOLD_MAX_S, int(deadline - asked)))
            try:
                job = self._ask("GET", f"/api/v1/jobs/{job_id}", headers={"Prefer": f"wait={hold}"})
                seen = time.monotonic()
                if job["status"] in ENDED:
                    return job
                state = job["status"]
            except CapacityError as error:
                if time.monotonic() - seen > AWAY_S:
                    raise
                state, rest = f"unknown ({error.detail})", float(error.retry_after or 0)
            if hold == 0 or time.monotonic() - asked < hold:
                rest, pause = max(rest, pause), min(pause * 1.5, POLL_MAX_S)
            if time.monotonic() + rest > deadline:
                raise DeadlineExceeded(f"Job {job_id} is still {state} after {timeout_s:g} seconds.")
            time.sleep(rest)

    def _patiently(self, ask: Callable[[], Json], refusal: type[CapacityError]) -> Json:
        """Repeat `ask` while the service refuses in this way, for `TOO_FAST_S` at most."""
        deadline = time.monotonic() + TOO_FAST_S
        while True:
            try:
                return ask()
            except refusal as error:
                pause = error.retry_after or 1
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)

    def _ask(self, method: str, path: str, **parts: Any) -> Json:
        answer = self._request(method, path, **parts)
        if (document := _object(answer)) is None:
            raise self._strange(answer)
        return document

    def _request(self, method: str, path: str, **parts: Any) -> httpx2.Response:
        try:
            answer = self._http.request(method, path, **parts)
        except httpx2.HTTPError as error:
            raise CapacityError(f"{self._http.base_url} cannot be reached: {error}") from error
        if answer.status_code >= 400:
            if (problem := _object(answer)) is None:
                raise self._strange(answer)
            raise _error(problem, answer.headers.get("Retry-After", ""))
        return answer

    def _strange(self, answer: httpx2.Response) -> CapacityError:
        return CapacityError(f"{self._http.base_url} answered {answer.status_code} without JSON.")


def may_need_proxy(url: str) -> bool:
    """Whether the proxy of the environment may be used: for remote services, never for one on this machine."""
    return urlsplit(url).hostname not in ("localhost", "127.0.0.1", "::1")


def _object(answer: httpx2.Response) -> Json | None:
    try:
        document = answer.json()
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _error(problem: Json, retry_after: str) -> ServiceError:
    slug = str(problem.get("type", "")).rpartition("/")[2]
    detail = str(problem.get("detail", "The service gave no reason."))
    return PROBLEMS.get(slug, ServiceError)(detail, retry_after=int(retry_after) if retry_after.isdecimal() else None)


ITEMS_MAX: Final = 200
BYTES_MAX: Final = 60 * 1024 * 1024
"""Most bytes of one batch: the default limit of a service."""
POLL_S: Final = 1.0


class BatchClient(ServiceClient):
    """Sends batches and follows them. Errors are those of `ServiceClient`."""

    def send(self, files: Sequence[Path], *, model: str | None = None) -> Json:
        """Send images as one batch; returns the accepted batch. Safely repeats the request while the service is busy or
        down."""
        fields, key = {} if model is None else {"model": model}, str(uuid.uuid4())

        def once() -> Json:
            with ExitStack() as opened:
                parts = [("image", (file.name, opened.enter_context(file.open("rb")))) for file in files]
                return self._ask("POST", "/api/v1/batches", files=parts, data=fields, headers={"Idempotency-Key": key})

        return self._patiently(once, CapacityError)

    def batch(self, batch_id: str) -> Json:
        """The batch's current state, with its counts and first items."""
        return self._ask("GET", f"/api/v1/batches/{batch_id}")

    def batch_results(self, batch_id: str, form: Literal["ndjson", "csv"] = "ndjson") -> str:
        """A line for each item. Raises `CapacityError` if the answer is incomplete."""
        return self._request("GET", f"/api/v1/batches/{batch_id}/results", params={"format": form}).text

    def cancel_batch(self, batch_id: str) -> Json:
        """Cancel all items that have not ended, and return the batch."""
        return self._ask("POST", f"/api/v1/batches/{batch_id}/cancel")

    def wait_batch(self, batch_id: str, timeout_s: float, tell: Callable[[Json], None]) -> Json:
        """Wait until all items have ended; `tell` gets the batch after each request. Raises `DeadlineExceeded`."""
        seen = time.monotonic()
        deadline = seen + timeout_s
        while True:
            try:
                batch = self.batch(batch_id)
                seen = time.monotonic()
                tell(batch)
                if batch["completed_at"]:
                    return batch
            except CapacityError:
                if time.monotonic() - seen > AWAY_S:
                    raise
            if time.monotonic() + POLL_S > deadline:
                raise DeadlineExceeded(f"Batch {batch_id} has items that have not ended after {timeout_s:g} seconds.")
            time.sleep(POLL_S)


def split(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Split files, in order, into as few batches as the limits allow."""
    batch: list[Path] = []
    total = 0
    for file in files:
        size = file.stat().st_size
        if batch and (len(batch) == ITEMS_MAX or total + size > BYTES_MAX):
            yield batch
            batch, total = [], 0
        batch.append(file)
        total += size
    if batch:
        yield batch


PATH: Final = "/api/v1/webhooks"


class WebhookClient(ServiceClient):
    """Registers and manages receivers. Errors are those of `ServiceClient`."""

    def webhooks(self) -> list[Json]:
        """All webhooks of the caller, newest first."""
        found: list[Json] = self._ask("GET", PATH)["webhooks"]
        return found

    def register(self, url: str, events: Sequence[str] = ()) -> Json:
        """Register a webhook; returns it with its secret, which is shown only once. Without `events` it gets all."""
        return self._ask("POST", PATH, json={"url": url, **({"events": list(events)} if events else {})})

    def remove(self, webhook_id: str) -> None:
        """Delete a webhook."""
        self._request("DELETE", _path(webhook_id))

    def rotate(self, webhook_id: str) -> Json:
        """Give a webhook a new secret; returns it with the secret."""
        return self._ask("POST", _path(webhook_id, "rotate"))

    def send_test(self, webhook_id: str) -> str:
        """Send a test event; returns the delivery's id."""
        return str(self._ask("POST", _path(webhook_id, "test"))["delivery_id"])

    def deliveries(self, webhook_id: str) -> list[Json]:
        """Waiting and ended deliveries."""
        found: list[Json] = self._ask("GET", _path(webhook_id, "deliveries"))["deliveries"]
        return found

    def redeliver(self, webhook_id: str, delivery_id: str) -> None:
        """Send a delivery again now."""
        self._request("POST", _path(webhook_id, "deliveries", delivery_id, "redeliver"))


def _path(*parts: str) -> str:
    return "/".join((PATH, *(quote(part, safe="") for part in parts)))


class AdminClient(ServiceClient):
    """The service with an admin's token. Errors are those of `ServiceClient`."""

    def dead_jobs(self, model: str | None = None) -> Iterator[Json]:
        """Dead jobs of one model or of all, newest first, fetched page by page."""
        query = {} if model is None else {"model": model}
        while True:
            page = self._ask("GET", "/api/v1/admin/dead", params=query)
            yield from page["data"]
            if not page["next_cursor"]:
                return
            query["cursor"] = page["next_cursor"]

    def dead_job(self, job_id: str) -> Json:
        """All data of a dead job except its image."""
        return self._ask("GET", f"/api/v1/admin/dead/{job_id}")

    def requeue(self, job_id: str) -> None:
        """Run a dead job again."""
        self._ask("POST", f"/api/v1/admin/dead/{job_id}/requeue")

    def drop(self, job_id: str) -> None:
        """Delete a dead job and its image."""
        self._request("DELETE", f"/api/v1/admin/dead/{job_id}")

    def stops(self) -> list[Json]:
        """The stops in force."""
        stops: list[Json] = self._ask("GET", "/api/v1/admin/stops")["stops"]
        return stops

    def stop(self, what: str, model: str | None, message: str, retry_after_s: int) -> Json:
        """Stop `intake` of one model or of all, or a model's `work`."""
        said = {"what": what, "model": model, "message": message, "retry_after_s": retry_after_s}
        return self._ask("POST", "/api/v1/admin/stops", json=said)

    def resume(self, stop: str) -> None:
        """Lift a stop, by its name."""
        self._request("DELETE", f"/api/v1/admin/stops/{stop}")
