"""Every error that a client can meet. One class is one problem type (RFC 9457) and one heading in docs/problems.md.

`RequestError`: the caller can correct it (4xx). `CapacityError`: try again later. `JobError`: a job ends FAILED with
it, which is never an HTTP status. `ModelUnready` and `ReplicaLost` are for the dispatcher and never reach a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from serve_app.contracts import Failure


class ServiceError(Exception):
    """Base of all; `detail` is written for the person who has to act on it."""

    slug: ClassVar[str] = "internal-error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "The service failed"

    def __init__(
        self, detail: str, *, retry_after: int | None = None, pointers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.pointers = dict(pointers or {})
        """JSON Pointer (RFC 6901) into the request body -> the fault there."""


class InternalError(ServiceError):
    """A bug of ours. The detail reveals nothing about internals."""


class RequestError(ServiceError):
    """The caller can correct it; 4xx."""


class TokenMissing(RequestError):
    slug, status, title = "token-missing", 401, "A bearer token is required"


class TokenInvalid(RequestError):
    slug, status, title = "token-invalid", 401, "The bearer token was refused"


class UserBlocked(RequestError):
    slug, status, title = "user-blocked", 403, "Your access is blocked"


class AdminRequired(RequestError):
    slug, status, title = "admin-required", 403, "Only admins may do this"


class QueryInvalid(RequestError):
    slug, status, title = "query-invalid", 400, "The query parameters are not valid"


class BodyInvalid(RequestError):
    slug, status, title = "body-invalid", 400, "The request body could not be read"


class BodyTooLarge(RequestError):
    slug, status, title = "body-too-large", 413, "The request body is too large"


class BodyTypeUnsupported(RequestError):
    slug, status, title = "body-type-unsupported", 415, "The request body has an unsupported media type"


class ParamsInvalid(RequestError):
    slug, status, title = "params-invalid", 422, "The model's parameters are not valid"


class ImageMissing(RequestError):
    slug, status, title = "image-missing", 400, "Send one image"


class ImageTypeUnsupported(RequestError):
    slug, status, title = "image-type-unsupported", 415, "The image type is not supported"


class ImageTooLarge(RequestError):
    slug, status, title = "image-too-large", 413, "The image is too large"


class ImageUnreadable(RequestError):
    slug, status, title = "image-unreadable", 422, "The image could not be read"


class ImageUrlInvalid(RequestError):
    slug, status, title = "image-url-invalid", 422, "The image URL is not valid"


class ImageUrlForbidden(RequestError):
    slug, status, title = "image-url-forbidden", 422, "The image URL is not allowed"


class ImageUrlFailed(RequestError):
    slug, status, title = "image-url-failed", 422, "The image could not be fetched"


class IdempotencyKeyInvalid(RequestError):
    slug, status, title = "idempotency-key-invalid", 400, "The idempotency key is not valid"


class IdempotencyKeyReused(RequestError):
    slug, status, title = "idempotency-key-reused", 422, "The idempotency key belongs to another request"


class ModelUnknown(RequestError):
    slug, status, title = "model-unknown", 404, "No such model"


class JobUnknown(RequestError):
    slug, status, title = "job-unknown", 404, "No such job"


class InputGone(RequestError):
    slug, status, title = "input-gone", 409, "The job's input is gone"


class JobEnded(RequestError):
    slug, status, title = "job-ended", 409, "The job has ended"


class JobNotFinished(RequestError):
    slug, status, title = "job-not-finished", 409, "The job has not ended"


class JobHasNoResult(RequestError):
    slug, status, title = "job-has-no-result", 409, "The job ended without a result"


class RetryRefused(RequestError):
    slug, status, title = "retry-refused", 409, "This job cannot be retried"


class ResultExpired(RequestError):
    slug, status, title = "result-expired", 410, "The result is no longer kept"


class OutputUnknown(RequestError):
    slug, status, title = "output-unknown", 404, "No such output"


class BatchUnknown(RequestError):
    slug, status, title = "batch-unknown", 404, "No such batch"


class BatchNotEnded(RequestError):
    slug, status, title = "batch-not-ended", 409, "The batch has not ended"


class ImageNotKept(RequestError):
    slug, status, title = "image-not-kept", 404, "The image is not kept"


class DecisionUnknown(RequestError):
    slug, status, title = "decision-unknown", 404, "There is no such block or override"


class StopUnknown(RequestError):
    slug, status, title = "stop-unknown", 404, "There is no such stop"


class DecisionsFull(RequestError):
    slug, status, title = "decisions-full", 409, "No more blocks or overrides fit"


class WebhookUrlInvalid(RequestError):
    slug, status, title = "webhook-url-invalid", 422, "The webhook URL is not valid"


class WebhookUrlForbidden(RequestError):
    slug, status, title = "webhook-url-forbidden", 422, "The webhook URL is not allowed"


class WebhookUnknown(RequestError):
    slug, status, title = "webhook-unknown", 404, "No such webhook"


class DeliveryUnknown(RequestError):
    slug, status, title = "delivery-unknown", 404, "No such delivery"


class WebhooksFull(RequestError):
    slug, status, title = "webhooks-full", 409, "No more webhooks fit"


class RouteUnknown(RequestError):
    slug, status, title = "route-unknown", 404, "No such route"


class MethodNotAllowed(RequestError):
    slug, status, title = "method-not-allowed", 405, "The method is not allowed here"


class CapacityError(ServiceError):
    """Overloaded, a dependency is down, or rate limited; the same request may succeed later."""

    status = 503


class RateLimited(CapacityError):
    slug, status, title = "rate-limited", 429, "Too many requests"


class TooManyStreams(CapacityError):
    slug, status, title = "too-many-streams", 429, "Too many streams are open"


class IntakeStopped(CapacityError):
    slug, title = "intake-stopped", "No jobs are taken in now"


class QueueFull(CapacityError):
    slug, title = "queue-full", "The queue is full"


class StoreFull(CapacityError):
    slug, title = "store-full", "There is no room for more"


class StoreUnavailable(CapacityError):
    slug, title = "store-unavailable", "The image store is not reachable"


class TrackerUnavailable(CapacityError):
    slug, title = "tracker-unavailable", "The job tracker is not reachable"


class KeysUnavailable(CapacityError):
    slug, title = "keys-unavailable", "The token issuer's keys are not reachable"


class UsageUnavailable(CapacityError):
    slug, title = "usage-unavailable", "The usage records are not reachable"


class DeadlineExceeded(CapacityError):
    slug, status, title = "deadline-exceeded", 504, "The request took too long"


class JobError(ServiceError):
    """A job ends FAILED with it."""

    def as_failure(self) -> Failure:
        return Failure(self.slug, self.detail)


class ImageUndecodable(JobError):
    slug, title = "image-undecodable", "The image's pixels could not be decoded"


class ImageTooCostly(JobError):
    slug, title = "image-too-costly", "Decoding the image took too much memory or time"


class InputLost(JobError):
    slug, title = "input-lost", "The stored input is no longer there"


class ModelRejected(JobError):
    slug, title = "model-rejected", "The model could not process this input"


class ModelTimedOut(JobError):
    slug, title = "model-timeout", "The model did not finish this input in time"


class OutputsUnstored(JobError):
    slug, title = "outputs-unstored", "There was no room for the model's files"


class JobDead(JobError):
    slug, title = "job-dead", "The job was given up after repeated losses"


class ModelUnready(ServiceError):
    """Not the input's fault: the jobs are given back without a delivery counted, and the breaker opens."""

    slug, title = "model-unready", "The model is not ready"


class ReplicaLost(ServiceError):
    """The replica or its decode workers died or hung while it held the chunk; the loss counts as a delivery.

    `hung`: a forward pass of the chunk exceeded its deadline. Any of its jobs may be the cause, so each runs alone
    next."""

    slug, title = "replica-lost", "The model replica was lost"

    def __init__(self, detail: str, *, hung: bool = False) -> None:
        super().__init__(detail)
        self.hung = hung
