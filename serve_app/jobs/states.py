"""Which change of a job's status is allowed. The scripts are given this table and change a status in one place alone
(`change` in lua/common.lua), which asks it; docs/architecture.md draws it."""

from __future__ import annotations

from serve_app.contracts import JobStatus

ALLOWED: dict[JobStatus, frozenset[JobStatus]] = {
    # A waiting job may be finished by a replica whose lease ran out meanwhile: the work is done, so it counts.
    JobStatus.PENDING: frozenset({JobStatus.PROCESSING, JobStatus.COMPLETED, JobStatus.CANCELLED}),
    # Back to PENDING: given back, or lost with its replica.
    JobStatus.PROCESSING: frozenset(
        {JobStatus.PENDING, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED},
    ),
    JobStatus.COMPLETED: frozenset(),
    # The next run of the same job: its owner retries it, or an admin requeues a dead one.
    JobStatus.FAILED: frozenset({JobStatus.PENDING}),
    JobStatus.CANCELLED: frozenset(),
}
