"""Accepting a submit: from a request's body to a job in Redis, for every route that makes jobs other than as a batch.

A handler that answers with results: `live.take_wait`, `accept_all`, `live.ended_within`, `result_of`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from serve_app.contracts import Job, JobStatus, Json
from serve_app.errors import (
    BodyInvalid,
    BodyTypeUnsupported,
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
from serve_app.gateway.bodies import close_files, media_type, read_form, read_json
from serve_app.gateway.context import Call, Models
from serve_app.gateway.idempotency import identify, read_key
from serve_app.gateway.submission import (
    SubmitRequest,
    checked_params,
    request_of_form,
    request_of_json,
    wants_image,
    with_file_name,
)
from serve_app.gateway.supervisor import RequestTasks
from serve_app.gateway.uploads import ImageFetcher, UploadBudget, UploadShare
from serve_app.images.header import ImageHeader, inspect
from serve_app.images.names import name_in_url
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
class Accepted:
    """The job of a submit, and the headers of its answer."""

    job: Job
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class WantedJob:
    """A job to accept, of a model that takes jobs (`Models.takes_jobs`)."""

    model: str
    params: Json
    """Checked by the model (`checked_params`)."""
    data: bytes | None
    """The image as it came; None for a model without."""


async def accept_body(call: Call, intake: Intake, fields: Sequence[str]) -> Accepted:
    """Accept the job of a form or JSON body, whose fields may be the file `image` and `fields`."""
    key = read_key(call.request)
    with intake.budget.share(call.caller.id) as share:
        kind = media_type(call)
        if kind == "multipart/form-data":
            form = await read_form(call, share, intake.settings)
            try:
                return await accept_request(call, intake, share, request_of_form(form, fields), key)
            finally:
                close_files(form.values())
        if kind == "application/json":
            return await accept_request(call, intake, share, request_of_json(await read_json(call), fields), key)
        raise BodyTypeUnsupported("Send multipart/form-data with the file field image, or application/json.")


async def accept_request(
    call: Call, intake: Intake, share: UploadShare, asked: SubmitRequest, key: str | None
) -> Accepted:
    """Accept the job of a request, or find the job that its idempotency key made before."""
    card = intake.models.takes_jobs(asked.model)
    call.model = card.name
    takes_image = wants_image(card, sources=(asked.image is not None) + (asked.image_url is not None))
    if asked.keep and not takes_image:
        raise BodyInvalid(f"The model {card.name} takes no image, so there is none to keep.")
    params = checked_params(intake.models, card, asked.params)
    name = (asked.image.filename if asked.image else name_in_url(asked.image_url or "")) or ""
    params = with_file_name(intake.models, card, params, name)
    data = await asked.image.read() if asked.image is not None else None
    submission = Submission(
        id=str(uuid.uuid4()),
        owner=call.caller.id,
        model=card.name,
        params=params,
        priority=asked.priority,
        keep=asked.keep,
        traceparent=call.traceparent,
    )
    if key is not None:
        fingerprint: Json = {"model": card.name, "params": params, "image_url": asked.image_url}
        fingerprint |= {"keep": asked.keep, "priority": asked.priority}
        submission = replace(submission, idempotency=await identify(call, key, fingerprint, data))
        if job := await intake.jobs.find_earlier(submission):
            return accepted_as(call, submission, job)
    if takes_image and data is None:
        data = await intake.fetcher.fetch(asked.image_url or "", submission.owner, share)
    return await run_accepting(call, intake, submission, submit(intake, submission, data))


async def run_accepting(
    call: Call, intake: Intake, submission: Submission, accepting: Coroutine[Any, Any, Job]
) -> Accepted:
    """Run `accepting` to its end: after a disconnect there is a whole job or none."""
    call.accepting = True
    return accepted_as(call, submission, await asyncio.shield(intake.tasks.spawn(accepting)))


def accepted_as(call: Call, submission: Submission, job: Job) -> Accepted:
    """The answer's job: that of the submission, or that of the first submit with the same idempotency key."""
    call.job_id, call.accepted = job.id, job.id == submission.id
    return Accepted(job, {} if call.accepted else {"Idempotent-Replayed": "true"})


async def submit(intake: Intake, submission: Submission, data: bytes | None) -> Job:
    """Store the image, if there is one, and submit the job. Raises as `inspect`, the image store and the job store."""
    await intake.store.check_intake()
    if data is None:
        return await intake.jobs.submit(submission)
    in_steps = intake.models.card(submission.model).reads_in_steps
    return await submit_with_input(intake, submission, data, inspect(data, intake.settings, in_steps=in_steps))


async def submit_with_input(intake: Intake, submission: Submission, data: bytes, header: ImageHeader) -> Job:
    """As `submit`, of an image whose header is known."""
    stored = await keep_input(intake.store, submission.id, data, header)
    accepting = intake.jobs.submit(replace(submission, input=stored))
    # Another id: the same submit was accepted meanwhile, with its own inputs.
    return await accepted_with(intake.store, [stored], accepting, has_them=lambda job: job.id == submission.id)


async def accept_all(call: Call, intake: Intake, wanted: Sequence[WantedJob], key: str | None) -> list[Accepted]:
    """Accept the jobs of one request, in order: all of them or none. Each counts as a submit. A repeated idempotency
    key finds the earlier ones.

    Raises as `submit`; the jobs accepted before a refusal are cancelled.
    """
    for one in wanted:
        if one.data is not None:
            inspect(one.data, intake.settings, in_steps=intake.models.card(one.model).reads_in_steps)
    await call.charge(len(wanted) - 1)
    accepted: list[Accepted] = []
    try:
        for place, one in enumerate(wanted):
            part = {"place": place, "of": len(wanted)}
            accepted.append(await _accept_part(call, intake, one, key and f"{key}\0{place}", part))
    except ServiceError:
        for new in (one.job for one in accepted if not one.headers):
            await intake.jobs.cancel(new.id, call.caller.id)
        call.job_id, call.accepted = "", False
        raise
    call.job_id, call.accepted = accepted[0].job.id, any(not one.headers for one in accepted)
    return accepted


async def _accept_part(call: Call, intake: Intake, wanted: WantedJob, key: str | None, part: Json) -> Accepted:
    submission = Submission(
        id=str(uuid.uuid4()),
        owner=call.caller.id,
        model=wanted.model,
        params=wanted.params,
        traceparent=call.traceparent,
    )
    if key is not None:
        fingerprint: Json = {"model": wanted.model, "params": wanted.params, **part}
        submission = replace(submission, idempotency=await identify(call, key, fingerprint, wanted.data))
        if job := await intake.jobs.find_earlier(submission):
            return accepted_as(call, submission, job)
    return await run_accepting(call, intake, submission, submit(intake, submission, wanted.data))


def result_of(job: Job) -> Json:
    """The result of a job that was waited for. Raises `PredictionUnfinished` if it still waits or runs, and
    `InputRejected`, `PredictionFailed` or `JobHasNoResult` if it ended without one."""
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
    raise PredictionUnfinished(f"The job {job.id} has not ended yet; it goes on.", job_id=job.id)
