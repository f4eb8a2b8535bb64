"""The allowed changes of a job's status. The scripts get this table, and the only function that changes a status
(`change` in lua/common.lua) checks it; docs/architecture.md draws it."""

from __future__ import annotations

from serve_app.contracts import JobStatus

ALLOWED: dict[JobStatus, frozenset[JobStatus]] = {
    # A replica whose lease has expired may finish a job that waits again: the work is done, so it counts.
    JobStatus.PENDING: frozenset({JobStatus.PROCESSING, JobStatus.COMPLETED, JobStatus.CANCELLED}),
    # Back to PENDING: given back, or its replica was lost.
    JobStatus.PROCESSING: frozenset(
        {JobStatus.PENDING, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED},
    ),
    JobStatus.COMPLETED: frozenset(),
    # The next run of the same job: its owner retries it, or an admin requeues a dead one.
    JobStatus.FAILED: frozenset({JobStatus.PENDING}),
    JobStatus.CANCELLED: frozenset(),
}
