"""Every error a person or a client can meet; one class = one problem type (RFC 9457) = one heading in docs/problems.md.

ServiceError
├── RequestError                      the caller can mend it
│   ├── TokenMissing              401 token-missing
│   ├── TokenInvalid              401 token-invalid
│   ├── UserBlocked               403 user-blocked
│   ├── AdminRequired             403 admin-required
│   ├── QueryInvalid              400 query-invalid
│   ├── BodyInvalid               400 body-invalid
│   ├── BodyTooLarge              413 body-too-large
│   ├── BodyTypeUnsupported       415 body-type-unsupported
│   ├── ParamsInvalid             422 params-invalid
│   ├── ImageMissing              400 image-missing
│   ├── ImageTypeUnsupported      415 image-type-unsupported
│   ├── ImageTooLarge             413 image-too-large
│   ├── ImageUnreadable           422 image-unreadable
│   ├── ImageUrlInvalid           422 image-url-invalid
│   ├── ImageUrlForbidden         422 image-url-forbidden
│   ├── ImageUrlFailed            422 image-url-failed
│   ├── IdempotencyKeyInvalid     400 idempotency-key-invalid
│   ├── IdempotencyKeyReused      422 idempotency-key-reused
│   ├── ModelUnknown              404 model-unknown
│   ├── JobUnknown                404 job-unknown
│   ├── InputGone                 409 input-gone
│   ├── JobEnded                  409 job-ended
│   ├── JobNotFinished            409 job-not-finished
│   ├── JobHasNoResult            409 job-has-no-result
│   ├── RetryRefused              409 retry-refused
│   ├── ResultExpired             410 result-expired
│   ├── OutputUnknown             404 output-unknown
│   ├── BatchUnknown              404 batch-unknown
│   ├── BatchNotEnded             409 batch-not-ended
│   ├── ImageNotKept              404 image-not-kept
│   ├── DecisionUnknown           404 decision-unknown
│   ├── StopUnknown               404 stop-unknown
│   ├── DecisionsFull             409 decisions-full
│   ├── WebhookUrlInvalid         422 webhook-url-invalid
│   ├── WebhookUrlForbidden       422 webhook-url-forbidden
│   ├── WebhookUnknown            404 webhook-unknown
│   ├── DeliveryUnknown           404 delivery-unknown
│   ├── WebhooksFull              409 webhooks-full
│   ├── RouteUnknown              404 route-unknown
│   └── MethodNotAllowed          405 method-not-allowed
├── CapacityError                     the house is full, a part of it is away, or the caller is too fast; try again
│   ├── RateLimited               429 rate-limited
│   ├── TooManyStreams            429 too-many-streams
│   ├── IntakeStopped             503 intake-stopped
│   ├── QueueFull                 503 queue-full
│   ├── StoreFull                 503 store-full
│   ├── StoreUnavailable          503 store-unavailable
│   ├── TrackerUnavailable        503 tracker-unavailable
│   ├── KeysUnavailable           503 keys-unavailable
│   ├── UsageUnavailable          503 usage-unavailable
│   └── DeadlineExceeded          504 deadline-exceeded
├── JobError                          a job ends FAILED with it; never an HTTP status of its own
│   ├── ImageUndecodable              image-undecodable
│   ├── ImageTooCostly                image-too-costly
│   ├── InputLost                     input-lost
│   ├── ModelRejected                 model-rejected
│   ├── ModelTimedOut                 model-timeout
│   ├── OutputsUnstored               outputs-unstored
│   └── JobDead                       job-dead
├── ModelUnready                      not the input's fault: the job is given back, never shown to a client
├── ReplicaLost                       the replica died or hung with the chunk: counted as a delivery
└── InternalError                 500 internal-error
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from serve_app.contracts import Failure


class ServiceError(Exception):
    """Base of all; `detail` is written for the person who has to act."""

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
        """JSON Pointer (RFC 6901) into the request body -> what is wrong there."""


class InternalError(ServiceError):
    """A defect of ours. The detail says nothing of the inside."""


class RequestError(ServiceError):
    """The caller can mend it; 4xx."""


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
    """The house is full, a part of it is away, or the caller is too fast; the same request may pass later."""

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
    """Not the input's fault; jobs are given back uncounted and the breaker opens."""

    slug, title = "model-unready", "The model is not ready"


class ReplicaLost(ServiceError):
    """The replica, or its decode workers, died or hung while it held the chunk; the loss counts as a delivery.

    `hung`: a forward pass of the chunk ran past its deadline. Any of its jobs may be the cause; each runs alone next.
    """

    slug, title = "replica-lost", "The model replica was lost"

    def __init__(self, detail: str, *, hung: bool = False) -> None:
        super().__init__(detail)
        self.hung = hung
