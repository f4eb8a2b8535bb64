"""Dead letters: jobs that used up their strikes or deliveries, kept for a person to look at, run again or drop.

What a person does and its audit event happen in one step or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from redis.asyncio import Redis

from serve_app.connections import redis_errors
from serve_app.contracts import AuditEvent, Job
from serve_app.errors import InputGone, JobUnknown
from serve_app.jobs.limits import RECORD_VERSION
from serve_app.jobs.records import JOB_ID, PageEnd, decode_pairs, place_after, read_job
from serve_app.jobs.scripts import Scripts
from serve_app.jobs.tracker import refused
from serve_app.settings import Settings


class DeadLetters:
    """The dead jobs of every model. Every method raises `TrackerUnavailable` when Redis is away."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._scripts = Scripts(redis, settings)

    async def page(
        self, models: Sequence[str], limit: int, after: PageEnd | None = None
    ) -> tuple[list[Job], PageEnd | None]:
        """The newest `limit` of these models' that come after that place, and where this page ended; None at the end.

        A page may hold fewer, even none, and yet not be the last: what is gone, and a record of a newer release, which
        that release shows, are left out. Times are in milliseconds.
        """
        start = place_after(after)
        with redis_errors():
            pages = [await self._scripts.run("dead_page", model, *start, limit + 1) for model in models]
        found = [
            (PageEnd(int(at), job_id.decode()), decode_pairs(hash_)) for page in pages for job_id, at, hash_ in page
        ]
        found.sort(key=itemgetter(0), reverse=True)
        looked_at = found[:limit]
        jobs = [read_job(end.id, said) for end, said in looked_at if 0 < int(said.get("v", 0)) <= RECORD_VERSION]
        return jobs, looked_at[-1][0] if len(found) > limit else None

    async def read(self, job_id: str) -> tuple[Job, bool]:
        """A dead job, and whether its input is still there. Raises `JobUnknown` for every other id."""
        reply = await self._run("dead_read", job_id)
        if not reply:
            raise _unknown()
        return read_job(job_id, decode_pairs(reply[0])), bool(reply[1])

    async def requeue(self, job_id: str, event: AuditEvent) -> int:
        """Start the next run of a dead job, with no strikes and no deliveries, at its old place; the run's number.

        Bounded as a submit is. Raises `JobUnknown`, `InputGone`, and as `Tracker.submit` where there is no room.
        """
        reply = await self._run("dead_requeue", job_id, *event.pairs())
        if reply[0] == b"unknown":
            raise _unknown()
        if reply[0] == b"input":
            raise InputGone("The job's input is gone, so it cannot run again. Drop it; its owner may send it anew.")
        if reply[0] != b"reopened":
            raise refused(reply)
        return int(reply[1])

    async def drop(self, job_id: str, event: AuditEvent) -> None:
        """Remove a dead job's record, input and outcome; the ledger keeps it as dead. Raises `JobUnknown`."""
        if not await self._run("dead_drop", job_id, *event.pairs()):
            raise _unknown()

    async def _run(self, script: str, job_id: str, *arguments: str | int) -> Any:
        if not JOB_ID.fullmatch(job_id):
            raise _unknown()
        with redis_errors():
            return await self._scripts.run(script, job_id, *arguments)


def _unknown() -> JobUnknown:
    return JobUnknown("There is no dead job with this id. It may have been dropped or requeued.")
