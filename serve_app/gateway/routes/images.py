"""The images API: send an image, get its objects in the same answer, read them later. Every image is a job's input; its
objects are that job's result. The paths without `/api/v1` are the predecessor's."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from starlette.datastructures import UploadFile
from starlette.responses import Response

from serve_app import errors
from serve_app.contracts import Job, JobStatus, Json, ModelCard
from serve_app.errors import (
    BodyInvalid,
    BodyTypeUnsupported,
    ImageExists,
    ImageMissing,
    ImagesUnavailable,
    ImageUnknown,
    JobEnded,
    JobHasNoResult,
    JobNotFinished,
    JobUnknown,
    ModelRefused,
    ObjectUnknown,
    ResultExpired,
    ServiceError,
    UsageUnavailable,
)
from serve_app.gateway.bodies import Form, close_files, media_type, read_form
from serve_app.gateway.context import Call, Models
from serve_app.gateway.endpoint import Problems, RouteSpec, RouteTable
from serve_app.gateway.http import CLIENT_GONE, escape, json_response, read_query, tagged
from serve_app.gateway.idempotency import digest_of, identify, read_key
from serve_app.gateway.intake import Intake, accepted_as, submit_with_input
from serve_app.gateway.live import KEPT, JobWatch, end_within, wait_of
from serve_app.gateway.pagination import end_of, next_page
from serve_app.gateway.schemas import images as schemas
from serve_app.gateway.schemas.common import JobProblem, job_problem
from serve_app.gateway.schemas.jobs import POLL_AFTER_S
from serve_app.images.header import ImageHeader, inspect
from serve_app.jobs.records import PageEnd, Submission
from serve_app.jobs.store import JobStore
from serve_app.settings import Settings
from serve_app.usage.images import Image, Images, NewImage
from serve_app.usage.outbox import Outbox
from serve_app.usage.outcomes import Outcomes, find_older

IMAGE_ID: Final = re.compile(r"[0-9a-f]{64}")
ACCEPTING_S: Final = 60.0
"""Longer than it takes from an image's row to its job. An older image without a job lost it."""
_AGAIN: Final = "Send the image again, and it is looked at again."
_POST: Final[Problems] = (
    errors.BodyInvalid,
    errors.BodyTooLarge,
    errors.BodyTypeUnsupported,
    errors.IdempotencyKeyInvalid,
    errors.IdempotencyKeyReused,
    errors.ModelRefused,
    errors.ImageMissing,
    errors.ImageTypeUnsupported,
    errors.ImageTooLarge,
    errors.ImageUnreadable,
    errors.ImageExists,
    errors.ImagesFull,
    errors.ImagesUnavailable,
    errors.IntakeStopped,
    errors.QueueFull,
    errors.StoreFull,
    errors.StoreUnavailable,
)
_OBJECTS: Final[Problems] = (
    errors.ImageUnknown,
    errors.JobNotFinished,
    errors.JobHasNoResult,
    errors.ResultExpired,
    errors.ImagesUnavailable,
)

_log = logging.getLogger(__name__)

ROUTES: Final = RouteTable()


@dataclass(frozen=True, slots=True)
class State:
    """What is known of an image's job; without status it is gone."""

    status: JobStatus | None
    result: Json | None = None
    problem: JobProblem | None = None
    """Why there is no result, and there will be none."""
    is_accepting: bool = False
    """True: the image's row is there, and its job not yet."""

    @property
    def shown(self) -> schemas.Looked:
        """For an answer."""
        return schemas.looked(self.status, self.result, self.problem)


@dataclass(frozen=True)
class ImageRecords:
    """Images, and where their jobs and results are."""

    images: Images
    jobs: JobStore
    outbox: Outbox
    outcomes: Outcomes
    settings: Settings

    async def find(self, call: Call) -> Image:
        """The caller's image in the path. Raises `ImageUnknown`, `ImagesUnavailable`."""
        image_id = call.request.path_params["image_id"]
        found = await self.images.find(call.caller.id, image_id) if IMAGE_ID.fullmatch(image_id) else None
        if found is None:
            raise ImageUnknown("There is no image with this id.")
        call.job_id, call.model = found.job_id, found.model
        return found

    async def state(self, image: Image, owner: str) -> State:
        """What came of the image's job, from its record, or from PostgreSQL after that. Raises `ImagesUnavailable`,
        `TrackerUnavailable`."""
        try:
            return state_of(await self.jobs.read(image.job_id, owner))
        except JobUnknown:
            pass
        if await self.jobs.removed([image.job_id]):
            return _without_job("job-unknown", "Its job was deleted.")
        try:
            ended = await find_older(self.outbox, self.outcomes, image.job_id, owner, self.settings.job_ttl)
        except UsageUnavailable as error:
            raise ImagesUnavailable(error.detail) from error
        if ended is None:
            if image.age_s < ACCEPTING_S:
                return State(JobStatus.PENDING, is_accepting=True)
            return _without_job("job-unknown", "Its job is gone.")
        if ended.status is not JobStatus.COMPLETED:
            return _failed(ended.status, ended.slug, ended.detail)
        if ended.result is None:
            return replace(_without_job("result-expired", "Its objects are no longer kept."), status=ended.status)
        return State(ended.status, ended.result)

    async def result(self, call: Call, image: Image) -> Json:
        """The result of the image's job. Raises `JobNotFinished`, `JobHasNoResult`, `ResultExpired`, and as `state`."""
        state = await self.state(image, call.caller.id)
        if state.result is not None:
            return state.result
        if state.problem is None:
            words = "The image is still being looked at. Ask again in a moment."
            raise JobNotFinished(words, retry_after=POLL_AFTER_S)
        kind = ResultExpired if state.problem["type"].endswith("result-expired") else JobHasNoResult
        raise kind(f"There are no objects: {state.problem['detail']}")


async def wait_for_objects(call: Call, response: Response, watch: JobWatch) -> Response:
    """200 with the objects when the job ends within IMAGES_WAIT_S, or a shorter `Prefer: wait=N`; else the unchanged
    `response`."""
    response.headers["Vary"] = "Prefer"
    asked, seconds = wait_of(call.request.headers.getlist("prefer")), watch.settings.images_wait_s
    if asked is not None:
        seconds = min(seconds, asked)
    if response.status_code != 202 or not seconds:
        return response
    with watch.waits.take(call.caller.id) as free:
        if not free:
            return response
        if asked is not None:
            response.headers["Preference-Applied"] = f"wait={seconds:g}"
        ended = await end_within(call, watch, seconds)
    if isinstance(ended, Job):
        headers = {name: response.headers[name] for name in KEPT if name in response.headers}
        return json_response({**json.loads(bytes(response.body)), **state_of(ended).shown}, headers=headers)
    return Response(status_code=CLIENT_GONE) if ended else response


@ROUTES.add(
    RouteSpec(
        "POST",
        "/api/v1/images",
        "Send an image and wait for its objects",
        "Images",
        {200: (schemas.Image,), 202: (schemas.Image,)},
        _POST,
        tracked="images",
        deadline="submit",
        after=wait_for_objects,
        bodies={"multipart/form-data": schemas.ImageForm},
        headers=("Idempotency-Key", "traceparent", "Prefer"),
        answer_headers=("Location", "Idempotent-Replayed", "Preference-Applied", "Vary"),
    )
)
async def send_image(call: Call, intake: Intake, records: ImageRecords) -> Response:
    """200 with the objects once they are found; 202 without them after IMAGES_WAIT_S. 409 if you have the image
    already, unless its job failed: then it is looked at again."""
    key = read_key(call.request)
    if media_type(call) != "multipart/form-data":
        raise BodyTypeUnsupported("Send multipart/form-data with the file field file.")
    with intake.budget.share(call.caller.id) as share:
        form = await read_form(call, share, intake.settings)
        try:
            data = await _file_of(form).read()
            if not data:
                raise ImageMissing("File cannot be empty.")
            return await _accept(call, intake, records, data, key)
        finally:
            close_files(form.values())


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/images",
        "Your images, newest first",
        "Images",
        {200: (schemas.ImagePage,), 304: ()},
        (errors.QueryInvalid, errors.ImagesUnavailable),
        tracked="images",
        query=schemas.ImagesQuery,
        headers=("If-None-Match",),
        answer_headers=("ETag", "Link"),
    )
)
async def list_images(call: Call, records: ImageRecords) -> Response:
    """200 with a page of the caller's images, newest first, and the cursor of the next page."""
    query = read_query(call.request, schemas.ImagesQuery)
    end = end_of(query.cursor)
    found = await records.images.page(call.caller.id, limit=query.limit + 1, after=(end.at, end.id) if end else None)
    page = found[: query.limit]
    last = PageEnd(page[-1].created_at, page[-1].job_id) if len(found) > len(page) else None
    cursor, headers = next_page(call.request, last)
    answer: schemas.ImagePage = {"data": [schemas.image_entry(image) for image in page], "next_cursor": cursor}
    return tagged(call.request, json_response(answer, headers=headers))


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/images/{image_id}",
        "An image with its objects",
        "Images",
        {200: (schemas.Image,)},
        (errors.ImageUnknown, errors.ImagesUnavailable),
        tracked="images",
        answer_headers=("Retry-After",),
    )
)
async def read_image(call: Call, records: ImageRecords) -> Response:
    """200 as long as the caller has the image; `detection` is null before there is one, and `problem` says why there
    will be none."""
    image = await records.find(call)
    return _image_response(image, await records.state(image, call.caller.id))


@ROUTES.add(
    RouteSpec(
        "DELETE",
        "/api/v1/images/{image_id}",
        "Delete an image, its job and its objects",
        "Images",
        {204: ()},
        (errors.ImageUnknown, errors.JobNotFinished, errors.ImagesUnavailable),
        tracked="images",
    )
)
async def delete_image(call: Call, records: ImageRecords) -> Response:
    """204 once image, job and objects are deleted; a job that waits or runs is cancelled."""
    image = await records.find(call)
    owner = call.caller.id
    if (await records.state(image, owner)).is_accepting:
        raise JobNotFinished("The image is being accepted. Try again in a moment.", retry_after=POLL_AFTER_S)
    await _drop_job(records.jobs, image.job_id, owner)
    if not await records.images.delete(owner, image.id, image.job_id):
        raise JobNotFinished("The image was just sent again. Try again in a moment.", retry_after=POLL_AFTER_S)
    return Response(status_code=204)


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/images/{image_id}/objects",
        "The objects of an image",
        "Images",
        {200: (schemas.Objects,)},
        _OBJECTS,
        tracked="images",
    )
)
async def list_objects(call: Call, records: ImageRecords) -> Response:
    """200 with all objects of the image; 409 before they are found, and if there is no result."""
    image = await records.find(call)
    return json_response(schemas.objects(image.id, await records.result(call, image)))


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/images/{image_id}/objects/{object_id}",
        "One object of an image",
        "Images",
        {200: (schemas.ObjectDetail,)},
        (*_OBJECTS, errors.ObjectUnknown),
        tracked="images",
    )
)
async def read_object(call: Call, records: ImageRecords) -> Response:
    """200 with the object; an unknown id, a malformed one and one of another image get the same 404."""
    image = await records.find(call)
    object_id = call.request.path_params["object_id"]
    for found in schemas.detections(await records.result(call, image)):
        if found["object_id"] == object_id:
            return json_response(schemas.object_detail(found))
    raise ObjectUnknown("This image has no object with this id.")


ROUTES.extend([replace(route, path=route.path.removeprefix("/api/v1"), at_root=True) for route in ROUTES])


def _file_of(form: Form) -> UploadFile:
    if unknown := form.keys() - {"file"}:
        words = "no such field; the form has the file field file only"
        raise BodyInvalid("Unknown fields in the body.", pointers={f"/{escape(name)}": words for name in unknown})
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise ImageMissing("Send the image as the file field file: its part needs a filename.")
    return file


def _detector(models: Models, settings: Settings) -> ModelCard:
    """The model of IMAGES_MODEL. Raises `ModelRefused`."""
    name = settings.images_model
    card = models.cards.get(name)
    if card is None or "detections" not in card.result_schema.get("properties", {}):
        raise ModelRefused(f"IMAGES_MODEL is {name}, which is not a served model that finds objects.")
    return models.takes_jobs(name)


async def _accept(call: Call, intake: Intake, records: ImageRecords, data: bytes, key: str | None) -> Response:
    card = _detector(intake.models, intake.settings)
    call.model = card.name
    header = inspect(data, intake.settings)
    owner, job_id = call.caller.id, str(uuid.uuid4())
    new = NewImage(owner, await digest_of(data), job_id, card.name, header.media_type, len(data))
    submission = Submission(job_id, owner, card.name, {}, traceparent=call.traceparent)
    if key is not None:
        submission = replace(submission, idempotency=await identify(call, key, {"model": card.name}, data))
        if earlier := await intake.jobs.find_earlier(submission):
            return await _replay(call, records, submission, new, earlier)
    call.accepting = True
    taking = intake.tasks.spawn(_take(intake, records, new, submission, data, header))
    try:
        image, job = await asyncio.shield(taking)
    except ImageExists:
        # The same key may have come twice at once.
        if key is None or (earlier := await intake.jobs.find_earlier(submission)) is None:
            raise
        return await _replay(call, records, submission, new, earlier)
    if job.id != submission.id:
        return await _replay(call, records, submission, new, job)
    accepted_as(call, submission, job)
    return _image_response(image, state_of(job), 202, {"Location": schemas.image_path(image.id)})


async def _take(
    intake: Intake, records: ImageRecords, new: NewImage, submission: Submission, data: bytes, header: ImageHeader
) -> tuple[Image, Job]:
    """Write the image's row, then submit its job: of two requests with the same image, one gets the row. Without the
    job the row is withdrawn."""
    await intake.store.check_intake()
    image, previous = await _claim(records, new)
    try:
        job = await submit_with_input(intake, submission, data, header)
    except Exception:
        await _give_up(records, new, previous)
        raise
    if job.id != submission.id:
        await _give_up(records, new, previous)
    return image, job


async def _claim(records: ImageRecords, new: NewImage) -> tuple[Image, str | None]:
    """The row of the image, which names the new job; and the job that it named before. Raises `ImageExists` unless that
    one ended without a result."""
    found, is_new = await records.images.add(new)
    if is_new:
        return found, None
    if (await records.state(found, new.owner)).problem is not None:
        changed = await records.images.replace(new, found.job_id)
        if changed is not None:
            return changed, found.job_id
    raise ImageExists(f"Image already exists with ID: {new.id}", location=schemas.image_path(new.id))


async def _give_up(records: ImageRecords, new: NewImage, previous: str | None) -> None:
    """Undo `_claim`, and cancel a job that was accepted although the reply was lost. Failures are logged: the next
    request with this image finds a row without a job."""
    try:
        if previous is None:
            await records.images.withdraw(new.owner, new.id, new.job_id)
        else:
            await records.images.replace(replace(new, job_id=previous), new.job_id)
        await _drop_job(records.jobs, new.job_id, new.owner)
    except ServiceError as error:
        _log.warning("an image that was not accepted may be listed for a while: %s", error.detail)


async def _drop_job(jobs: JobStore, job_id: str, owner: str) -> None:
    """Cancel the job if it waits or runs, and remove it if its record is there."""
    try:
        with suppress(JobEnded):
            await jobs.cancel(job_id, owner)
        await jobs.remove(job_id, owner)
    except JobUnknown:
        pass


async def _replay(call: Call, records: ImageRecords, submission: Submission, new: NewImage, job: Job) -> Response:
    """The answer to a repeated request: the image, as far as its first job has come."""
    headers = {"Location": schemas.image_path(new.id), **accepted_as(call, submission, job).headers}
    found = await records.images.find(new.owner, new.id)
    image = Image(new.id, job.id, new.model, new.media_type, new.bytes, job.submitted_at * 1000, ACCEPTING_S)
    if found is not None:
        image = replace(found, job_id=job.id)
    state = await records.state(image, new.owner)
    return _image_response(image, state, 200 if state.result or state.problem else 202, headers)


def state_of(job: Job) -> State:
    """What a job's record says."""
    if job.status in (JobStatus.FAILED, JobStatus.CANCELLED):
        return _failed(job.status, *((job.failure.slug, job.failure.detail) if job.failure else (None, None)))
    return State(job.status, job.result)


def _failed(status: JobStatus, slug: str | None, detail: str | None) -> State:
    reason = detail or f"The job is {status.value}."
    return State(status, None, job_problem(slug or "job-has-no-result", f"{reason} {_AGAIN}"))


def _without_job(slug: str, reason: str) -> State:
    return State(None, None, job_problem(slug, f"{reason} {_AGAIN}"))


def _image_response(
    image: Image, state: State, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    answer: schemas.Image = {**schemas.image_entry(image), **state.shown}
    pending = {} if state.result or state.problem else {"Retry-After": str(POLL_AFTER_S)}
    return json_response(answer, status, {**pending, **(headers or {})})
