"""Every error that a client can get, as one table. A row is a problem type (RFC 9457): a class to raise and to catch,
and a heading in docs/problems.md. The classes after it control the dispatcher and never reach a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, TypeVar

from serve_app.contracts import Failure


class ServiceError(Exception):
    """Base of all problems; `detail` is written for the person who has to act on it."""

    slug: ClassVar[str] = "internal-error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "The service failed"

    def __init__(
        self,
        detail: str,
        *,
        retry_after: int | None = None,
        pointers: Mapping[str, str] | None = None,
        job_id: str = "",
        location: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.pointers = dict(pointers or {})
        """JSON Pointer (RFC 6901) into the request body -> the fault at that place."""
        self.job_id = job_id
        """The job that the request made, if it made one."""
        self.location = location
        """Path of what the request conflicts with."""


class InternalError(ServiceError):
    """A defect of the service. The detail reveals nothing about internals."""


class RequestError(ServiceError):
    """The caller can correct the request; 4xx."""


class CapacityError(ServiceError):
    """Overloaded, a dependency is down, or rate limited; the same request may succeed later."""

    status = 503


class JobError(ServiceError):
    """A job ends FAILED with it. It is never an HTTP status."""

    def as_failure(self) -> Failure:
        return Failure(self.slug, self.detail)


PROBLEMS: Final[dict[str, type[ServiceError]]] = {InternalError.slug: InternalError}
"""Every problem type by its slug, in the order of the table."""

Group = TypeVar("Group", bound=ServiceError)


def _problem(group: type[Group], slug: str, status: int, title: str) -> type[Group]:
    """A new problem type. Assign it to the name that its slug gives (`queue-full`: QueueFull), because pickle finds it
    by that name."""
    name = slug.title().replace("-", "")
    kind: type[Group] = type(name, (group,), dict(__module__=__name__, slug=slug, status=status, title=title))
    PROBLEMS[slug] = kind
    return kind


def _failure(slug: str, title: str) -> type[JobError]:
    return _problem(JobError, slug, JobError.status, title)


TokenMissing: Final = _problem(RequestError, "token-missing", 401, "A bearer token is required")
TokenInvalid: Final = _problem(RequestError, "token-invalid", 401, "The bearer token was refused")
UserBlocked: Final = _problem(RequestError, "user-blocked", 403, "Your access is blocked")
AdminRequired: Final = _problem(RequestError, "admin-required", 403, "Only admins may do this")
QueryInvalid: Final = _problem(RequestError, "query-invalid", 400, "The query parameters are not valid")
BodyInvalid: Final = _problem(RequestError, "body-invalid", 400, "The request body could not be read")
BodyTooLarge: Final = _problem(RequestError, "body-too-large", 413, "The request body is too large")
BodyTypeUnsupported: Final = _problem(
    RequestError, "body-type-unsupported", 415, "The request body has an unsupported media type"
)
ParamsInvalid: Final = _problem(RequestError, "params-invalid", 422, "The model's parameters are not valid")
ImageMissing: Final = _problem(RequestError, "image-missing", 400, "Send one image")
ImageTypeUnsupported: Final = _problem(RequestError, "image-type-unsupported", 415, "The image type is not supported")
ImageTooLarge: Final = _problem(RequestError, "image-too-large", 413, "The image is too large")
ImageUnreadable: Final = _problem(RequestError, "image-unreadable", 422, "The image could not be read")
ImageUrlInvalid: Final = _problem(RequestError, "image-url-invalid", 422, "The image URL is not valid")
ImageUrlForbidden: Final = _problem(RequestError, "image-url-forbidden", 422, "The image URL is not allowed")
ImageUrlFailed: Final = _problem(RequestError, "image-url-failed", 422, "The image could not be fetched")
IdempotencyKeyInvalid: Final = _problem(
    RequestError, "idempotency-key-invalid", 400, "The idempotency key is not valid"
)
IdempotencyKeyReused: Final = _problem(
    RequestError, "idempotency-key-reused", 422, "The idempotency key belongs to another request"
)
InputRejected: Final = _problem(RequestError, "input-rejected", 422, "The input could not be processed")
ModelUnknown: Final = _problem(RequestError, "model-unknown", 404, "No such model")
JobUnknown: Final = _problem(RequestError, "job-unknown", 404, "No such job")
InputGone: Final = _problem(RequestError, "input-gone", 409, "The job's input is gone")
JobEnded: Final = _problem(RequestError, "job-ended", 409, "The job has ended")
JobNotFinished: Final = _problem(RequestError, "job-not-finished", 409, "The job has not ended")
JobHasNoResult: Final = _problem(RequestError, "job-has-no-result", 409, "The job ended without a result")
RetryRefused: Final = _problem(RequestError, "retry-refused", 409, "This job cannot be retried")
ResultExpired: Final = _problem(RequestError, "result-expired", 410, "The result is no longer kept")
OutputUnknown: Final = _problem(RequestError, "output-unknown", 404, "No such output")
SignedUrlInvalid: Final = _problem(RequestError, "signed-url-invalid", 403, "The signed URL is not valid")
SignedUrlExpired: Final = _problem(RequestError, "signed-url-expired", 410, "The signed URL has expired")
BatchUnknown: Final = _problem(RequestError, "batch-unknown", 404, "No such batch")
BatchNotEnded: Final = _problem(RequestError, "batch-not-ended", 409, "The batch has not ended")
ImageNotKept: Final = _problem(RequestError, "image-not-kept", 404, "The image is not kept")
ImageUnknown: Final = _problem(RequestError, "image-unknown", 404, "No such image")
ImageExists: Final = _problem(RequestError, "image-exists", 409, "You have this image already")
ImagesFull: Final = _problem(RequestError, "images-full", 409, "No more images fit")
ObjectUnknown: Final = _problem(RequestError, "object-unknown", 404, "No such object")
DecisionUnknown: Final = _problem(RequestError, "decision-unknown", 404, "There is no such block or override")
StopUnknown: Final = _problem(RequestError, "stop-unknown", 404, "There is no such stop")
DecisionsFull: Final = _problem(RequestError, "decisions-full", 409, "No more blocks or overrides fit")
WebhookUrlInvalid: Final = _problem(RequestError, "webhook-url-invalid", 422, "The webhook URL is not valid")
WebhookUrlForbidden: Final = _problem(RequestError, "webhook-url-forbidden", 422, "The webhook URL is not allowed")
WebhookUnknown: Final = _problem(RequestError, "webhook-unknown", 404, "No such webhook")
DeliveryUnknown: Final = _problem(RequestError, "delivery-unknown", 404, "No such delivery")
WebhooksFull: Final = _problem(RequestError, "webhooks-full", 409, "No more webhooks fit")
RouteUnknown: Final = _problem(RequestError, "route-unknown", 404, "No such route")
MethodNotAllowed: Final = _problem(RequestError, "method-not-allowed", 405, "The method is not allowed here")

ModelRefused: Final = _problem(CapacityError, "model-refused", 503, "The model cannot be served here")
ModelNotReady: Final = _problem(CapacityError, "model-not-ready", 503, "The model is not ready")
RateLimited: Final = _problem(CapacityError, "rate-limited", 429, "Too many requests")
TooManyStreams: Final = _problem(CapacityError, "too-many-streams", 429, "Too many streams are open")
IntakeStopped: Final = _problem(CapacityError, "intake-stopped", 503, "No jobs are taken in now")
QueueFull: Final = _problem(CapacityError, "queue-full", 503, "The queue is full")
StoreFull: Final = _problem(CapacityError, "store-full", 503, "There is no room for more")
StoreUnavailable: Final = _problem(CapacityError, "store-unavailable", 503, "The image store is not reachable")
TrackerUnavailable: Final = _problem(CapacityError, "tracker-unavailable", 503, "The job tracker is not reachable")
KeysUnavailable: Final = _problem(CapacityError, "keys-unavailable", 503, "The token issuer's keys are not reachable")
UsageUnavailable: Final = _problem(CapacityError, "usage-unavailable", 503, "The usage records are not reachable")
PredictionFailed: Final = _problem(CapacityError, "prediction-failed", 503, "The prediction failed")
PredictionUnfinished: Final = _problem(
    CapacityError, "prediction-unfinished", 504, "The prediction takes longer than the request waits"
)
ImagesUnavailable: Final = _problem(CapacityError, "images-unavailable", 503, "The images are not reachable")
DeadlineExceeded: Final = _problem(CapacityError, "deadline-exceeded", 504, "The request took too long")

ImageUndecodable: Final = _failure("image-undecodable", "The image's pixels could not be decoded")
ImageTooCostly: Final = _failure("image-too-costly", "Decoding the image took too much memory or time")
InputLost: Final = _failure("input-lost", "The stored input is no longer there")
ModelRejected: Final = _failure("model-rejected", "The model could not process this input")
ModelTimeout: Final = _failure("model-timeout", "The model did not finish this input in time")
OutputsUnstored: Final = _failure("outputs-unstored", "There was no room for the model's files")
JobDead: Final = _failure("job-dead", "The job was given up after repeated losses")


class ModelOutage(Exception):
    """A model could not take its jobs. Controls the dispatcher and appears in logs and metrics; clients never get
    it."""

    slug: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class ModelUnready(ModelOutage):
    """The input is not at fault: the jobs are given back without counting a delivery, and the breaker opens."""

    slug, title = "model-unready", "The model is not ready"


class TransientFailure(ModelOutage):
    """A model failed for a reason that is not the input's and may pass: the job runs again after a pause, up to
    its third delivery. Then it is dead, with this reason."""

    slug, title = "transient-failure", "The model failed for a reason that may pass"


class ReplicaLost(ModelOutage):
    """The replica or its decode workers died or hung while it held the chunk; the loss counts as a delivery.

    `hung`: a forward pass of the chunk exceeded its deadline. Any of its jobs may be the cause, so each runs alone
    next."""

    slug, title = "replica-lost", "The model replica was lost"

    def __init__(self, detail: str, *, hung: bool = False) -> None:
        super().__init__(detail)
        self.hung = hung
