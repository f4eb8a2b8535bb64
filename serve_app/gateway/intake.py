"""From a checked request to jobs in Redis, and for routes that answer with the result also to the jobs' ends.

A route that waits: `take_wait` (live.py), then `accept` or `accept_all`, then `ended_within` (live.py), then
`result_of`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from serve_app.contracts import Job, JobStatus, Json, Priority
from serve_app.errors import (
    ImageTooCostly,
    ImageUndecodable,
    InputRejected,
    JobHasNoResult,
    ModelRejected,
    ModelTimeout,
    PredictionFailed,
    PredictionUnfinished,
    ServiceError,
)
from serve_app.gateway.context import Call, Models
from serve_app.gateway.idempotency import identify
from serve_app.gateway.supervisor import RequestTasks
from serve_app.gateway.uploads import ImageFetcher, UploadBudget, UploadShare
from serve_app.images.header import ImageHeader, inspect
from serve_app.images.store import ImageStore, accepted_with, keep_input
from serve_app.jobs.records import Submission
from serve_app.jobs.store import JobStore
from serve_app.settings import Settings

FAULTS_OF_INPUTS: Final = frozenset({ImageUndecodable.slug, ImageTooCostly.slug, ModelRejected.slug})
"""Failures that the same input meets again."""


@dataclass(frozen=True)
class Intake:
    """The services that a submit needs until its job is in Redis."""

    jobs: JobStore
    store: ImageStore
    models: Models
    budget: UploadBudget
    fetcher: ImageFetcher
    tasks: RequestTasks
    settings: Settings


@dataclass(frozen=True, slots=True)
class WantedJob:
    """A job to accept. The model takes jobs (`Models.takes_jobs`) and has checked the parameters (`checked_params`).

    With neither `data` nor `image_url` the job has parameters only.
    """

    model: str
    params: Json
    data: bytes | None = None
    """The image's bytes, not looked at yet."""
    image_url: str | None = None
    keep: bool = False
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True, slots=True)
class Accepted:
    """The job of a submit, and the headers of its answer."""

    job: Job
    headers: dict[str, str]


async def accept(call: Call, intake: Intake, share: UploadShare, wanted: WantedJob, key: str | None) -> Accepted:
    """The job of the caller, once it is in Redis: a new one, or the earlier one of the same idempotency key.

    Raises as `inspect`, `ImageFetcher.fetch`, `ImageStore.put` and `JobStore.submit`.
    """
    return await _accept(call, intake, share, wanted, key, {})


async def accept_all(
    call: Call, intake: Intake, share: UploadShare, wanted: Sequence[WantedJob], key: str | None
) -> list[Accepted]:
    """As `accept`, for several jobs of one request, in order: all of them or none. Each counts as a submit.

    If one is refused, those before it are cancelled.
    """
    for one in wanted:
        if one.data is not None:
            inspect(one.data, intake.settings)
    await call.charge(len(wanted) - 1)
    accepted: list[Accepted] = []
    try:
        for place, one in enumerate(wanted):
            place_key = None if key is None else f"{key}\0{place}"  # no key contains NUL
            accepted.append(await _accept(call, intake, share, one, place_key, {"of": len(wanted)}))
    except ServiceError:
        for job in (one.job for one in accepted if not one.headers):
            await intake.jobs.cancel(job.id, call.caller.id)
        call.job_id, call.accepted = "", False
        raise
    call.job_id, call.accepted = accepted[0].job.id, any(not one.headers for one in accepted)
    return accepted


def result_of(job: Job) -> Json:
    """The result of a job that was waited for. Raises the problem of one that has none: `PredictionUnfinished` if it
    still waits or runs, `InputRejected`, `PredictionFailed`, or `JobHasNoResult` if it was cancelled."""
    if job.status is JobStatus.COMPLETED:
        return job.result or {}
    if job.failure is not None:
        reason = f"{job.failure.slug}: {job.failure.detail}"
        if job.failure.slug in FAULTS_OF_INPUTS:
            raise InputRejected(reason, job_id=job.id)
        if job.failure.slug == ModelTimeout.slug:
            raise PredictionUnfinished(reason, job_id=job.id)
        raise PredictionFailed(reason, job_id=job.id)
    if job.ended:
        raise JobHasNoResult("The job was cancelled.", job_id=job.id)
    raise PredictionUnfinished(f"The job {job.id} has not ended yet. Read it at its Location.", job_id=job.id)


async def _accept(
    call: Call, intake: Intake, share: UploadShare, wanted: WantedJob, key: str | None, marks: Json
) -> Accepted:
    data = wanted.data
    submission = Submission(
        id=str(uuid.uuid4()),
        owner=call.caller.id,
        model=wanted.model,
        params=wanted.params,
        priority=wanted.priority,
        keep=wanted.keep,
        traceparent=call.traceparent,
    )
    job = None
    if key is not None:
        fingerprint: Json = {"model": wanted.model, "params": wanted.params, "image_url": wanted.image_url}
        fingerprint |= {"keep": wanted.keep, "priority": wanted.priority, **marks}
        submission = replace(submission, idempotency=await identify(call, key, fingerprint, data))
        job = await intake.jobs.find_earlier(submission)
    if job is None:
        if wanted.image_url is not None:
            data = await intake.fetcher.fetch(wanted.image_url, submission.owner, share)
        # From here accepting runs to its end: after a disconnect there is a whole job or none.
        call.accepting = True
        job = await asyncio.shield(intake.tasks.spawn(_submit(intake, submission, data)))
    call.job_id, call.accepted = job.id, job.id == submission.id
    return Accepted(job, {"Idempotent-Replayed": "true"} if job.id != submission.id else {})


async def _submit(intake: Intake, submission: Submission, data: bytes | None) -> Job:
    await intake.store.check_intake()
    if data is None:
        return await intake.jobs.submit(submission)
    return await _submit_with_input(intake, submission, data, inspect(data, intake.settings))


async def _submit_with_input(intake: Intake, submission: Submission, data: bytes, header: ImageHeader) -> Job:
    stored = await keep_input(intake.store, submission.id, data, header)
    accepting = intake.jobs.submit(replace(submission, input=stored))
    # Another id: the same submit was accepted meanwhile, with its own inputs.
    return await accepted_with(intake.store, [stored], accepting, has_them=lambda job: job.id == submission.id)
