"""Which change of a job's status is allowed. The scripts are given this table; nothing else decides it."""

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
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}
