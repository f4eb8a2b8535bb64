"""What the owner of a job asks for after the submit. Each change is one script, as the tracker's are.

Every method raises JobUnknown for an id that is unknown, malformed or someone else's, and TrackerUnavailable when Redis
is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from serve_app.connections import redis_errors
from serve_app.contracts import Job, JobStatus
from serve_app.errors import InputGone, JobEnded, JobNotFinished, RetryRefused, ServiceError
from serve_app.jobs.keys import key
from serve_app.jobs.records import (
    JOB_ID,
    Page,
    PageEnd,
    decode_pairs,
    no_such_job,
    of_newer_release,
    place_after,
    read_job,
    read_page_end,
    read_row,
)
from serve_app.jobs.scripts import Scripts
from serve_app.jobs.tracker import refused
from serve_app.settings import Settings


class Desk:
    """An owner's jobs. One per process and event loop, beside the tracker; safe to share between tasks."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._scripts = Scripts(redis, settings)

    async def cancel(self, job_id: str, owner: str) -> Job:
        """End a job that waits or runs as CANCELLED, at once; the job. A second time changes nothing.

        Raises JobEnded when it is COMPLETED or FAILED.
        """
        return await self._change("cancel", job_id, owner)

    async def retry(self, job_id: str, owner: str) -> Job:
        """Start the next run of a failed job, with the same input and parameters; the job. Bounded as a submit is.

        Raises RetryRefused when it did not fail or is dead, InputGone, QueueFull, StoreFull.
        """
        return await self._change("retry", job_id, owner)

    async def remove(self, job_id: str, owner: str) -> None:
        """Forget an ended job: record, input and outcome. Its counts stay. Raises JobNotFinished."""
        await self._ask("remove", job_id, owner)

    async def removed(self, job_ids: Sequence[str]) -> set[str]:
        """Which of these jobs were removed within a day: what PostgreSQL may still hold of them is nobody's to read."""
        if not job_ids:
            return set()
        with redis_errors():
            found: Any = await self._redis.mget([key("removed", id=job_id) for job_id in job_ids])
        return {job_id for job_id, mark in zip(job_ids, found, strict=True) if mark is not None}

    async def page(
        self,
        owner: str,
        *,
        limit: int,
        after: PageEnd | None = None,
        since: int | None = None,
        status: JobStatus | None = None,
        model: str | None = None,
    ) -> Page:
        """Up to `limit` of the owner's jobs, newest first. It may hold fewer, even none, and yet not be the last.

        `after` is the `end` of the page before; `since` is in microseconds of Redis' clock.
        """
        last = "-inf" if since is None else str(since)
        asked = (*place_after(after), last, limit, status or "", model or "")
        with redis_errors():
            at, entry, *rows = await self._scripts.run("page", owner, *asked)
        return Page(tuple(read_row(owner, *row) for row in rows), read_page_end(at, entry))

    async def _change(self, script: str, job_id: str, owner: str) -> Job:
        [fields] = await self._ask(script, job_id, owner)
        return read_job(job_id, decode_pairs(fields))

    async def _ask(self, script: str, job_id: str, owner: str) -> Sequence[Any]:
        """What the script replies after `done`."""
        if not JOB_ID.fullmatch(job_id):
            raise no_such_job()
        with redis_errors():
            reply: Sequence[Any] = await self._scripts.run(script, job_id, owner)
        if reply[0] != b"done":
            raise _refusal(reply)
        return reply[1:]


def _refusal(reply: Sequence[Any]) -> ServiceError:
    match reply[0]:
        case b"unknown":
            return no_such_job()
        case b"foreign":
            return of_newer_release()
        case b"ended":
            return JobEnded("The job has ended already; its outcome stays.")
        case b"unended":
            return JobNotFinished("The job has not ended. Cancel it first.", retry_after=1)
        case b"unfailed":
            return RetryRefused("Only a job that failed can run again.")
        case b"dead":
            return RetryRefused("The job was given up after repeated losses; only an admin can let it run again.")
        case b"input":
            return InputGone("The job's input is gone, so it cannot run again. Submit it anew.")
    return refused(reply)
