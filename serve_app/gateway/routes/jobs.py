"""The routes of jobs: submit in two forms, read, list, follow, cancel, retry, remove, and the files of a job."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from starlette.responses import RedirectResponse, Response

from serve_app import errors
from serve_app.contracts import Job, JobStatus, Principal
from serve_app.errors import (
    BodyInvalid,
    ImageNotKept,
    JobHasNoResult,
    JobNotFinished,
    JobUnknown,
    OutputUnknown,
    RequestError,
    ResultExpired,
    SignedUrlInvalid,
    TooManyStreams,
    UserBlocked,
)
from serve_app.gateway.bodies import read_json
from serve_app.gateway.context import Call
from serve_app.gateway.endpoint import Problems, RouteSpec, RouteTable
from serve_app.gateway.http import (
    StreamingBody,
    download_headers,
    header_of,
    is_http_1_0,
    json_response,
    origin_of,
    read_query,
    tagged,
)
from serve_app.gateway.intake import Intake, accept_body
from serve_app.gateway.live import (
    RETRY_AFTER_S,
    STREAMS_MAX,
    STREAMS_MAX_PER_USER,
    EventStream,
    JobPresenter,
    JobWatch,
    event_id,
    state_now,
    wait_for_end,
)
from serve_app.gateway.pagination import end_of, next_page
from serve_app.gateway.ratelimit import Limiter
from serve_app.gateway.schemas import jobs as schemas
from serve_app.gateway.signing import UrlSigner
from serve_app.gateway.submission import FIELDS, OLDER_FIELDS
from serve_app.images.bucket_store import URL_LIFE_S
from serve_app.images.header import MEDIA_TYPES
from serve_app.images.store import ImageStore, StoredOutput
from serve_app.jobs.records import JOB_ID, no_such_job
from serve_app.jobs.store import JobStore
from serve_app.settings import Settings
from serve_app.usage.outbox import Outbox
from serve_app.usage.outcomes import Outcomes, find_older

_BODY: Final[Problems] = (errors.BodyInvalid, errors.BodyTooLarge, errors.BodyTypeUnsupported)
_SUBMIT: Final[Problems] = (
    *_BODY,
    errors.IdempotencyKeyInvalid,
    errors.IdempotencyKeyReused,
    errors.ParamsInvalid,
    errors.ModelUnknown,
    errors.ModelRefused,
    errors.ImageMissing,
    errors.ImageTypeUnsupported,
    errors.ImageTooLarge,
    errors.ImageUnreadable,
    errors.ImageUrlInvalid,
    errors.ImageUrlForbidden,
    errors.ImageUrlFailed,
    errors.IntakeStopped,
    errors.QueueFull,
    errors.StoreFull,
    errors.StoreUnavailable,
)
_BY_URL: Final = {"image_url": "https://images.example.org/nanowires.tif", "model": "sem-classifier", "params": {}}
_BY_ID: Final = {"job_id": "6f0a1f0e-5f0c-4f5e-9d8e-3c1f2b7a9d10"}
_WAITED: Final = ("Preference-Applied", "Vary")

ROUTES: Final = RouteTable()


# Both submits count as `inference`: usage records what was requested, not by which route.
@ROUTES.add(
    RouteSpec(
        "POST",
        "/api/v1/inference",
        "Submit an image to the default model",
        "Older routes",
        {200: (schemas.Submitted,)},
        _SUBMIT,
        tracked="inference",
        deadline="submit",
        bodies={"multipart/form-data": schemas.OlderSubmitForm, "application/json": schemas.OlderSubmitBody},
        example=_BY_URL,
        headers=("Idempotency-Key", "traceparent"),
        answer_headers=("Idempotent-Replayed",),
    )
)
async def submit_inference(call: Call, intake: Intake) -> Response:
    """200 with id and status, as the first public version of this route answered."""
    accepted = await accept_body(call, intake, OLDER_FIELDS)
    return json_response(schemas.submitted(accepted.job), headers=accepted.headers)


@ROUTES.add(
    RouteSpec(
        "POST",
        "/api/v1/jobs/status",
        "Status of a job, by id in the body",
        "Older routes",
        {200: (schemas.OlderJobStatus,)},
        _BODY,
        tracked="job_status",
        bodies={"application/json": schemas.JobId},
        example=_BY_ID,
    )
)
async def read_status(call: Call, jobs: JobStore) -> Response:
    """200 always; an unknown or foreign id has the status NOT_FOUND."""
    job_id = await _id_in_body(call)
    try:
        return json_response(schemas.status_of(await _read(call, jobs, job_id.lower())))
    except JobUnknown:
        return json_response(schemas.status_not_found(job_id))


@ROUTES.add(
    RouteSpec(
        "POST",
        "/api/v1/jobs/results",
        "Result of a job, by id in the body",
        "Older routes",
        {200: (schemas.OlderJobResults,)},
        _BODY,
        tracked="job_results",
        bodies={"application/json": schemas.JobId},
        example=_BY_ID,
    )
)
async def read_results(call: Call, jobs: JobStore) -> Response:
    """200 always, as `read_status`."""
    job_id = await _id_in_body(call)
    try:
        return json_response(schemas.results_of(await _read(call, jobs, job_id.lower())))
    except JobUnknown:
        return json_response(schemas.results_not_found(job_id))


@ROUTES.add(
    RouteSpec(
        "POST",
        "/api/v1/jobs",
        "Submit a job to any model",
        "Jobs",
        {200: (schemas.Job,), 202: (schemas.Job,)},
        _SUBMIT,
        tracked="inference",
        deadline="submit",
        after=wait_for_end,
        bodies={"multipart/form-data": schemas.SubmitForm, "application/json": schemas.SubmitBody},
        example={**_BY_URL, "keep": True, "priority": "bulk"},
        headers=("Idempotency-Key", "traceparent", "Prefer"),
        answer_headers=("Idempotent-Replayed", *_WAITED, "ETag"),
    )
)
async def submit_job(call: Call, intake: Intake) -> Response:
    """202 with the job object, once the job is in Redis."""
    accepted = await accept_body(call, intake, FIELDS)
    return _accepted_response(accepted.job, intake.settings, accepted.headers)


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/jobs",
        "Your jobs, newest first",
        "Jobs",
        {200: (schemas.JobPage,), 304: ()},
        (errors.QueryInvalid,),
        tracked="job_list",
        query=schemas.JobsQuery,
        headers=("If-None-Match",),
        answer_headers=("ETag", "Link"),
    )
)
async def list_jobs(call: Call, jobs: JobStore, settings: Settings) -> Response:
    """200 with a page of the caller's jobs, newest first, and the cursor of the next page."""
    query = read_query(call.request, schemas.JobsQuery)
    page = await jobs.page(
        call.caller.id,
        limit=query.limit,
        after=end_of(query.cursor),
        since=_microseconds(query.since) if query.since else None,
        status=query.status,
        model=query.model,
    )
    cursor, headers = next_page(call.request, page.end)
    answer: schemas.JobPage = {
        "data": [schemas.job_row(job, settings.job_ttl) for job in page.jobs],
        "next_cursor": cursor,
    }
    return tagged(call.request, json_response(answer, headers=headers))


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/jobs/{job_id}",
        "A job with its result or problem",
        "Jobs",
        {200: (schemas.Job,), 304: ()},
        (errors.JobUnknown,),
        tracked="job_status",
        overlaps=True,
        after=wait_for_end,
        headers=("If-None-Match", "Prefer"),
        answer_headers=("ETag", "Retry-After", *_WAITED),
    )
)
async def read_job(call: Call, jobs: JobStore, presenter: JobPresenter) -> Response:
    """200 while the caller's job exists; unknown, foreign and malformed ids get the same 404."""
    return await presenter.respond(call.request, await _read(call, jobs))


@ROUTES.add(
    RouteSpec(
        "DELETE",
        "/api/v1/jobs/{job_id}",
        "Forget a job that has ended",
        "Jobs",
        {204: ()},
        (errors.JobUnknown, errors.JobNotFinished),
        tracked="job_delete",
    )
)
async def remove_job(call: Call, jobs: JobStore) -> Response:
    """204 once the ended job is removed."""
    job_id = call.request.path_params["job_id"]
    await jobs.remove(job_id, call.caller.id)
    call.job_id = job_id
    return Response(status_code=204)


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/jobs/{job_id}/events",
        "A job's changes as they happen (server-sent events)",
        "Jobs",
        {200: ("text/event-stream",), 204: ()},
        (errors.JobUnknown, errors.TooManyStreams),
        tracked="job_events",
        headers=("Last-Event-ID",),
    )
)
async def read_events(call: Call, jobs: JobStore, watch: JobWatch) -> Response:
    """200 with the stream; 204, which ends reconnecting, if the client has seen the job's end."""
    job = await _read(call, jobs)
    seen = header_of(call.request.scope, b"last-event-id")
    if job.ended and seen == event_id(job):
        return Response(status_code=204)
    if is_http_1_0(call.request.scope):
        return await state_now(watch.presenter, job, seen)
    if not call.holds.enter_context(watch.streams.take(call.caller.id)):
        raise TooManyStreams(
            f"You have {STREAMS_MAX_PER_USER} streams open here, or all users {STREAMS_MAX}. Close some, or use "
            "Prefer: wait.",
            retry_after=RETRY_AFTER_S,
        )
    return EventStream(call, watch, seen)


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/jobs/{job_id}/result",
        "The result of a completed job, also of an older one",
        "Jobs",
        {200: (schemas.JobResult,), 304: ()},
        (
            errors.JobUnknown,
            errors.JobNotFinished,
            errors.JobHasNoResult,
            errors.ResultExpired,
            errors.UsageUnavailable,
        ),
        tracked="job_results",
        headers=("If-None-Match",),
        answer_headers=("ETag",),
    )
)
async def read_result(call: Call, jobs: JobStore, outbox: Outbox, outcomes: Outcomes, settings: Settings) -> Response:
    """200 with the result of a COMPLETED job, 409 before or without one, 410 when it is no longer kept, else 404.

    503 while a job's record may have expired before its outcome reached PostgreSQL.
    """
    job_id = call.request.path_params["job_id"]
    try:
        job = await _read(call, jobs)
    except JobUnknown:
        if not JOB_ID.fullmatch(job_id) or await jobs.removed([job_id]):
            raise no_such_job() from None
        return await _older_result(call, outbox, outcomes, settings)
    if not job.ended:
        raise JobNotFinished(f"The job is {job.status.value}. Ask again in a moment.", retry_after=schemas.POLL_AFTER_S)
    if job.status is not JobStatus.COMPLETED:
        raise _no_result(job.status, *((job.failure.slug, job.failure.detail) if job.failure else (None, None)))
    return _result(call, job.id, job.model, job.completed_at, job.result)


@ROUTES.add(
    RouteSpec(
        "POST",
        "/api/v1/jobs/{job_id}/retry",
        "Run a failed job once more",
        "Jobs",
        {202: (schemas.Job,)},
        (
            errors.RetryRefused,
            errors.JobUnknown,
            errors.InputGone,
            errors.IntakeStopped,
            errors.QueueFull,
            errors.StoreFull,
        ),
        tracked="job_retry",
        deadline="submit",
    )
)
async def retry_job(call: Call, jobs: JobStore, store: ImageStore, settings: Settings) -> Response:
    """202 with the failed job, which runs again."""
    await store.check_intake()
    call.accepting = True
    job = await jobs.retry(call.request.path_params["job_id"], call.caller.id)
    call.job_id, call.model, call.accepted = job.id, job.model, True
    return _accepted_response(job, settings, {})


@ROUTES.add(
    RouteSpec(
        "POST",
        "/api/v1/jobs/{job_id}/cancel",
        "Cancel a job that waits or runs",
        "Jobs",
        {200: (schemas.Job,)},
        (errors.JobUnknown, errors.JobEnded),
        tracked="job_cancel",
    )
)
async def cancel_job(call: Call, jobs: JobStore, settings: Settings) -> Response:
    """200 with the cancelled job, also for a second call; 409 once it is COMPLETED or FAILED."""
    job = await jobs.cancel(call.request.path_params["job_id"], call.caller.id)
    call.job_id, call.model = job.id, job.model
    return json_response(schemas.job_object(job, settings.job_ttl))


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/jobs/{job_id}/outputs/{name}",
        "A file that the model gave with the result",
        "Jobs",
        {200: ("*/*",), 307: ()},
        (errors.JobUnknown, errors.OutputUnknown, errors.StoreUnavailable),
        tracked="job_results",
        answer_headers=("Content-Disposition",),
    )
)
async def read_output(call: Call, jobs: JobStore, store: ImageStore) -> Response:
    """The file, as a download; or 307 to a URL of the bucket, valid for an hour.

    404 while the job has no result, and for a name that its result does not list.
    """
    name = call.request.path_params["name"]
    found = await find_output(store, await _read(call, jobs), name)
    if found.data is None:
        return RedirectResponse(found.url, 307)
    return Response(found.data, 200, download_headers(name), media_type=found.media_type)


@ROUTES.add(
    RouteSpec(
        "POST",
        "/api/v1/jobs/{job_id}/outputs/{name}/url",
        "A URL of a file for an hour, without a token",
        "Jobs",
        {200: (schemas.OutputUrl,)},
        (errors.JobUnknown, errors.OutputUnknown, errors.StoreUnavailable),
        tracked="job_results",
    )
)
async def make_output_url(call: Call, jobs: JobStore, store: ImageStore, signer: UrlSigner) -> Response:
    """200 with a URL of the bucket, or of this service where files are in Redis. Each call makes a new one."""
    name = call.request.path_params["name"]
    job = await _read(call, jobs)
    found = await find_output(store, job, name)
    url = found.url or origin_of(call.request) + await signer.sign(job, name)
    answer: schemas.OutputUrl = {"url": url, "expires_in": URL_LIFE_S}
    return json_response(answer)


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/files/{job_id}/{name}",
        "A file by its signed URL",
        "Jobs",
        {200: ("*/*",)},
        (
            errors.QueryInvalid,
            errors.SignedUrlInvalid,
            errors.SignedUrlExpired,
            errors.OutputUnknown,
            errors.RateLimited,
            errors.StoreUnavailable,
            errors.TrackerUnavailable,
        ),
        query=schemas.SignedQuery,
        answer_headers=("Content-Disposition", "Referrer-Policy"),
    )
)
async def read_signed(call: Call, jobs: JobStore, store: ImageStore, signer: UrlSigner, limiter: Limiter) -> Response:
    """The file, as a download. The request counts towards the rate of the job's owner, whoever sends it."""
    query = read_query(call.request, schemas.SignedQuery)
    job_id, name = call.request.path_params["job_id"], call.request.path_params["name"]
    await signer.verify(job_id, name, query)
    try:
        await limiter.ask(Principal(query.owner, ""), "read").granted()
        job = await jobs.read(job_id, query.owner)
    except UserBlocked as error:  # the reason is the owner's business
        raise SignedUrlInvalid("This URL is not valid any more.") from error
    except JobUnknown as error:
        raise OutputUnknown("This file is gone: files are deleted with their job.") from error
    call.job_id, call.model = job.id, job.model
    found = await find_output(store, job, name)
    if found.data is None:  # it is in a bucket now, which has its own URLs
        raise OutputUnknown("This file has moved. Ask its owner for a new URL.")
    headers = {**download_headers(name), "Referrer-Policy": "no-referrer"}
    return Response(found.data, 200, headers, media_type=found.media_type)


async def find_output(store: ImageStore, job: Job, name: str) -> StoredOutput:
    """A file that the job's result lists. Raises `OutputUnknown`."""
    found = await store.get_output(job.id, name) if name in _output_names(job) else None
    if found is None:
        raise OutputUnknown("This job has no output of this name. Its result lists those it has.")
    return found


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/jobs/{job_id}/image",
        "The image of a job, if it was to be kept",
        "Jobs",
        {200: tuple(MEDIA_TYPES.values()), 307: ()},
        (errors.JobUnknown, errors.ImageNotKept, errors.StoreUnavailable),
        tracked="job_image",
        answer_headers=("Content-Disposition",),
    )
)
async def read_image(call: Call, jobs: JobStore, store: ImageStore) -> Response:
    """The unchanged image, as a download; or 307 to a URL of the bucket, valid for an hour."""
    job = await _read(call, jobs)
    if job.input is None or not job.keep:
        raise ImageNotKept("This job's image is not kept: its submit did not ask for that.")
    stored = job.input
    name = f"{job.id}.{stored.media_type.partition('/')[2]}"
    found = await store.find(stored.reference, name, stored.media_type)
    if found is None:
        raise ImageNotKept("This job's image is gone.")
    if found.pieces is None:
        return RedirectResponse(found.url, 307)
    return StreamingBody(found.pieces, headers=download_headers(name), media_type=stored.media_type, size=stored.bytes)


async def _read(call: Call, jobs: JobStore, job_id: str | None = None) -> Job:
    """The caller's job of this id, or of the id in the path. Raises `JobUnknown`."""
    job = await jobs.read(call.request.path_params["job_id"] if job_id is None else job_id, call.caller.id)
    call.job_id, call.model = job.id, job.model
    return job


async def _id_in_body(call: Call) -> str:
    job_id = (await read_json(call)).get("job_id")
    if not isinstance(job_id, str):
        raise BodyInvalid("The body needs the field job_id, a text.", pointers={"/job_id": "must be a text"})
    return job_id


def _accepted_response(job: Job, settings: Settings, headers: dict[str, str]) -> Response:
    """202 with a job that waits."""
    headers = {"Location": schemas.job_path(job.id), "Retry-After": str(schemas.POLL_AFTER_S), **headers}
    return json_response(schemas.job_object(job, settings.job_ttl), 202, headers)


async def _older_result(call: Call, outbox: Outbox, outcomes: Outcomes, settings: Settings) -> Response:
    """From PostgreSQL, when the record has expired."""
    job_id = call.request.path_params["job_id"]
    outcome = await find_older(outbox, outcomes, job_id, call.caller.id, settings.job_ttl)
    if outcome is None:
        raise no_such_job()
    call.job_id, call.model = job_id, outcome.model
    if outcome.status is not JobStatus.COMPLETED:
        raise _no_result(outcome.status, outcome.slug, outcome.detail)
    if outcome.result is None:
        raise ResultExpired("The job was completed; its result is no longer kept. Submit the image again.")
    return _result(call, job_id, outcome.model, outcome.completed_at, outcome.result)


def _no_result(status: JobStatus, slug: str | None, detail: str | None) -> RequestError:
    reason = f" {slug}: {detail}" if slug and detail else ""
    return JobHasNoResult(f"The job is {status.value}.{reason}")


def _result(call: Call, job_id: str, model: str, completed_at: int | None, result: Any) -> Response:
    """The same bytes from Redis and from PostgreSQL, which does not keep the order of names."""
    shown = schemas.job_result(job_id, model, completed_at, result)
    body = json.dumps(shown, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return tagged(
        call.request, Response(body, headers={"Cache-Control": schemas.CHECKED}, media_type="application/json")
    )


def _output_names(job: Job) -> set[object]:
    entries = (job.result or {}).get("outputs") if job.status is JobStatus.COMPLETED else None
    # A model may have a field of this name with another meaning.
    return {one.get("name") for one in entries if isinstance(one, dict)} if isinstance(entries, list) else set()


def _microseconds(moment: datetime) -> int:
    """In microseconds. A time without an offset is UTC."""
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000)
