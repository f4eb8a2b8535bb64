"""A problem of each type, as a client meets it: what was asked for, and what it is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from serve_app import errors
from serve_app.contracts import Json
from serve_app.gateway.description.groups.batches import BATCH_ID
from serve_app.gateway.description.groups.jobs import JOB_ID
from serve_app.gateway.problems import problem_type

_JOBS: Final = "/api/v1/jobs"
_WEBHOOKS: Final = "/api/v1/webhooks"
_BATCH: Final = f"/api/v1/batches/{BATCH_ID}"
_BLOCKS: Final = "/api/v1/admin/blocks"

DETAILS: Final[Mapping[str, tuple[str, str]]] = {
    "token-missing": (_JOBS, "Send the header Authorization: Bearer with an access token."),
    "token-invalid": (_JOBS, "The token has expired."),
    "user-blocked": (
        _JOBS,
        "An admin has blocked you: A script that does not stop. "
        "Ask your facility, and name the id 0123456789abcdef0123456789abcdef.",
    ),
    "admin-required": ("/api/v1/admin/queue", "Your token names no role that makes you an admin here."),
    "query-invalid": ("/api/v1/usage", "There is no query parameter 'form' here; there are since, until, month."),
    "body-invalid": (_JOBS, "The body is not valid JSON: Expecting value: line 1 column 11 (char 10)."),
    "body-too-large": (_JOBS, "The body may have at most 65536 bytes."),
    "body-type-unsupported": (_JOBS, "Send multipart/form-data with the file field image, or application/json."),
    "params-invalid": (_JOBS, "The parameters of sem-classifier are not valid at /params/top_k."),
    "image-missing": (_JOBS, "Send exactly one image: the file field image, or image_url."),
    "image-type-unsupported": (_JOBS, "The file is a PDF document. Send PNG, JPEG, TIFF, GIF, WebP or BMP."),
    "image-too-large": (_JOBS, "The image has more than 50 MiB."),
    "image-unreadable": (_JOBS, "The PNG header is cut off. Send the whole file."),
    "image-url-invalid": (_JOBS, "The image URL must begin with https:// or http:// and name a host."),
    "image-url-forbidden": (_JOBS, "The image URL does not lead to a public address."),
    "image-url-failed": (_JOBS, "The server of the image URL could not be reached."),
    "model-unknown": (_JOBS, "No model of this name is served here. GET /api/v1/models lists them."),
    "job-unknown": (f"{_JOBS}/{JOB_ID}", "There is no job with this id."),
    "idempotency-key-invalid": (_JOBS, "The Idempotency-Key must have 1 to 255 characters."),
    "idempotency-key-reused": (_JOBS, "This Idempotency-Key came with another request before. Take a new one."),
    "output-unknown": (
        f"{_JOBS}/{JOB_ID}/outputs/mask.png",
        "This job has no output of this name. Its result lists those it has.",
    ),
    "image-not-kept": (f"{_JOBS}/{JOB_ID}/image", "This job's image is not kept: its submit did not ask for that."),
    "job-ended": (f"{_JOBS}/{JOB_ID}/cancel", "The job has ended already; its outcome stays."),
    "input-gone": (f"{_JOBS}/{JOB_ID}/retry", "The job's input is gone, so it cannot run again. Submit it anew."),
    "job-not-finished": (f"{_JOBS}/{JOB_ID}/result", "The job is PROCESSING. Ask again in a moment."),
    "job-has-no-result": (f"{_JOBS}/{JOB_ID}/result", "The job is CANCELLED."),
    "retry-refused": (f"{_JOBS}/{JOB_ID}/retry", "The job is COMPLETED. Only a FAILED job can be retried."),
    "result-expired": (
        f"{_JOBS}/{JOB_ID}/result",
        "The job was completed; its result is no longer kept. Submit the image again.",
    ),
    "webhook-url-invalid": (_WEBHOOKS, "The webhook URL must begin with https:// and name a host."),
    "webhook-url-forbidden": (_WEBHOOKS, "The webhook URL does not lead to a public address."),
    "webhook-unknown": (f"{_WEBHOOKS}/{JOB_ID}", "You have no webhook with this id."),
    "delivery-unknown": (
        f"{_WEBHOOKS}/{JOB_ID}/deliveries/msg_1/redeliver",
        "There is no delivery of this id; the log keeps the last ones for some days.",
    ),
    "webhooks-full": (_WEBHOOKS, "You have 10 webhooks already. Delete one that is no longer needed."),
    "batch-unknown": (_BATCH, "There is no batch with this id."),
    "batch-not-ended": (_BATCH, "The batch has items that have not ended. Cancel it first."),
    "decision-unknown": (f"{_BLOCKS}/0123456789abcdef0123456789abcdef", "There is no block of this principal id."),
    "stop-unknown": (
        "/api/v1/admin/stops/intake",
        "There is no stop of this name in force. GET /api/v1/admin/stops lists them.",
    ),
    "decisions-full": (_BLOCKS, "There are 1000 already. Take some back that are no longer needed."),
    "route-unknown": ("/api/v2/jobs", "There is nothing at this path. GET /api/v1/version lists the routes."),
    "method-not-allowed": (_JOBS, "Allowed here: GET, HEAD, POST."),
    "rate-limited": (_JOBS, "You may send 20 submits a second, and a burst at first. Try again in 1 s."),
    "too-many-streams": (
        f"{_JOBS}/{JOB_ID}/events",
        "You have 16 streams open here, or all users 64. Close some, or ask again by Prefer: wait.",
    ),
    "intake-stopped": (_JOBS, "No jobs are taken in now: Beam line maintenance until noon."),
    "queue-full": (_JOBS, "Too many jobs wait for this model. Try again later."),
    "store-full": (_JOBS, "Too many uploads are under way. Try again in a moment."),
    "store-unavailable": (_JOBS, "The image store is away. Try again in a moment."),
    "tracker-unavailable": (_JOBS, "The job tracker is away. Try again in a moment."),
    "keys-unavailable": (_JOBS, "The token issuer cannot be reached. Try again in a moment."),
    "usage-unavailable": ("/api/v1/usage", "The usage records cannot be read now. Usage is counted all the same."),
    "deadline-exceeded": (_JOBS, "The request was not answered within 30 seconds."),
    "internal-error": (_JOBS, "The service failed. The request id helps to find out why."),
    "image-undecodable": (f"{_JOBS}/{JOB_ID}", "The PNG file could not be decoded: the file is damaged."),
    "image-too-costly": (f"{_JOBS}/{JOB_ID}", "Reading this input took longer than 20 s."),
    "input-lost": (f"{_JOBS}/{JOB_ID}", "The stored input is gone; submit it again."),
    "model-rejected": (f"{_JOBS}/{JOB_ID}", "The model's scores for this image are not numbers."),
    "model-timeout": (f"{_JOBS}/{JOB_ID}", "The model did not finish this input within 60 s."),
    "outputs-unstored": (f"{_JOBS}/{JOB_ID}", "The model's files found no room. Retry the job when there is some."),
    "job-dead": (
        f"{_JOBS}/{JOB_ID}",
        "Given up after 3 deliveries, 3 of them lost while the job ran alone. The last: the replica died",
    ),
}
"""By slug: where it was met, and its detail."""

_UNSEEN: Final = (errors.ModelUnready, errors.ReplicaLost)


def problems_shown(base: type[errors.ServiceError] = errors.ServiceError) -> Iterator[type[errors.ServiceError]]:
    """The problem types that a client may meet, in the order of the tree; a job's own ones too."""
    children = [child for child in base.__subclasses__() if child.__module__ == errors.__name__]
    for child in children:
        yield from problems_shown(child)
    if not children and base not in _UNSEEN:
        yield base


def problem_example(problem: type[errors.ServiceError]) -> Json:
    """An answer of this type; of a job's own types, the `problem` of the job. The title is all there is without one."""
    instance, detail = DETAILS.get(problem.slug, (_JOBS, f"{problem.title}."))
    told: Json = {"type": problem_type(problem.slug), "title": problem.title}
    if issubclass(problem, errors.JobError):
        return {**told, "detail": detail}
    answer = {"detail": detail, "instance": instance, "request_id": "0d5e3c9b7f814a6f9c1b2a3d4e5f6071"}
    return {**told, "status": problem.status, **answer}
