"""A job as it is shown with its place in the queue and how long it may take, while it waits."""

from __future__ import annotations

import math

from serve_app.contracts import Job, JobStatus, Json
from serve_app.errors import CapacityError
from serve_app.gateway import views
from serve_app.gateway.live.rates import Rate
from serve_app.gateway.service import Service
from serve_app.jobs.records import QueuePosition


async def shown(service: Service, job: Job) -> Json:
    """The job object; `queue` is null unless the job waits."""
    queue = await _queue(service, job) if job.status is JobStatus.PENDING else None
    return views.job_object(job, service.settings.job_ttl, queue)


async def _queue(service: Service, job: Job) -> Json | None:
    try:
        place = await service.jobs.queue_position(job.id)
    except CapacityError:
        return None  # the job is more than its place
    if place is None:
        return None
    rate = service.rates.of(job.model)
    seconds = estimate(place, rate, service.cards[job.model].max_batch_size) if rate else None
    return {"position": place.most + 1, "estimate_s": seconds}


def estimate(place: QueuePosition, rate: Rate, batch: int) -> Json:
    """Seconds until the job ends. Least: only its owner's older jobs go first. Most: all that may, and those that run.
    Jobs end by batches, so a batch more or less may end in any time."""
    low = max(0, place.least + 1 - batch) / rate.fastest
    high = (place.most + place.running + batch) / rate.slowest
    return {"low": math.floor(low), "high": math.ceil(high)}
