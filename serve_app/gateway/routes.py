"""The route table: every path of the public API, what it may answer, and how its use is counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Literal

from starlette.responses import Response

from serve_app import errors
from serve_app.gateway import reads, submit
from serve_app.gateway.admin import dead, figures, people, stops
from serve_app.gateway.batches import routes as batches
from serve_app.gateway.description import read as description
from serve_app.gateway.endpoint import Problems, RouteSpec
from serve_app.gateway.live import stream
from serve_app.gateway.live.wait import wait_for_end
from serve_app.gateway.monitoring import exposition, health
from serve_app.gateway.operations import changes, images, lists, outputs, results
from serve_app.gateway.service import Call
from serve_app.gateway.usage import read as usage
from serve_app.gateway.webhooks import manage as webhooks

_BODY: Final[Problems] = (errors.BodyInvalid, errors.BodyTooLarge, errors.BodyTypeUnsupported)
_SUBMIT: Final[Problems] = (
    *_BODY,
    errors.IdempotencyKeyInvalid,
    errors.IdempotencyKeyReused,
    errors.ParamsInvalid,
    errors.ModelUnknown,
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
_DECIDE: Final[Problems] = (*_BODY, errors.DecisionsFull)
_WEBHOOK_URL: Final[Problems] = (errors.WebhookUrlInvalid, errors.WebhookUrlForbidden)
_TAKE_BACK: Final[Problems] = (errors.DecisionUnknown,)
_REQUEUE: Final[Problems] = (
    errors.JobUnknown,
    errors.InputGone,
    errors.IntakeStopped,
    errors.QueueFull,
    errors.StoreFull,
)

EVERY_ROUTE: Final[Problems] = (errors.MethodNotAllowed, errors.DeadlineExceeded, errors.InternalError)
"""Problems any route may answer with."""
EVERY_AUTHENTICATED_ROUTE: Final[Problems] = (
    errors.TokenMissing,
    errors.TokenInvalid,
    errors.KeysUnavailable,
    errors.UserBlocked,
    errors.RateLimited,
    errors.TrackerUnavailable,
)
"""Problems any route that needs a token may answer with."""


def _admin(
    method: Literal["GET", "POST", "DELETE"],
    path: str,
    handler: Callable[[Call], Awaitable[Response]],
    summary: str,
    problems: Problems = (),
) -> RouteSpec:
    return RouteSpec(method, path, handler, summary, (errors.AdminRequired, *problems), tracked="admin", admin=True)


def _webhook(
    method: Literal["GET", "POST", "DELETE"],
    path: str,
    handler: Callable[[Call], Awaitable[Response]],
    summary: str,
    *problems: type[errors.ServiceError],
) -> RouteSpec:
    return RouteSpec(method, f"/api/v1/webhooks{path}", handler, summary, problems, tracked="webhooks")


ROUTES: Final = (
    # Both submits count as `inference`: usage tells what was asked for, not through which door.
    RouteSpec(
        "POST",
        "/api/v1/inference",
        submit.submit_inference,
        "Submit an image to the default model",
        _SUBMIT,
        tracked="inference",
        deadline="submit",
    ),
    RouteSpec(
        "POST",
        "/api/v1/jobs/status",
        reads.read_status,
        "Status of a job, by id in the body",
        _BODY,
        tracked="job_status",
    ),
    RouteSpec(
        "POST",
        "/api/v1/jobs/results",
        reads.read_results,
        "Result of a job, by id in the body",
        _BODY,
        tracked="job_results",
    ),
    RouteSpec(
        "POST",
        "/api/v1/jobs",
        submit.submit_job,
        "Submit a job to any model",
        _SUBMIT,
        tracked="inference",
        deadline="submit",
        after=wait_for_end,
    ),
    RouteSpec(
        "GET", "/api/v1/jobs", lists.list_jobs, "Your jobs, newest first", (errors.QueryInvalid,), tracked="job_list"
    ),
    RouteSpec(
        "GET",
        "/api/v1/jobs/{job_id}",
        reads.read_job,
        "A job with its result or problem",
        (errors.JobUnknown,),
        tracked="job_status",
        overlaps=True,
        after=wait_for_end,
    ),
    RouteSpec(
        "DELETE",
        "/api/v1/jobs/{job_id}",
        changes.remove_job,
        "Forget a job that has ended",
        (errors.JobUnknown, errors.JobNotFinished),
        tracked="job_delete",
    ),
    RouteSpec(
        "GET",
        "/api/v1/jobs/{job_id}/events",
        stream.read_events,
        "A job's changes as they happen (server-sent events)",
        (errors.JobUnknown, errors.TooManyStreams),
        tracked="job_events",
    ),
    RouteSpec(
        "GET",
        "/api/v1/jobs/{job_id}/result",
        results.read_result,
        "The result of a completed job, also of an older one",
        (
            errors.JobUnknown,
            errors.JobNotFinished,
            errors.JobHasNoResult,
            errors.ResultExpired,
            errors.UsageUnavailable,
        ),
        tracked="job_results",
    ),
    RouteSpec(
        "POST",
        "/api/v1/jobs/{job_id}/retry",
        changes.retry_job,
        "Run a failed job once more",
        (errors.RetryRefused, *_REQUEUE),
        tracked="job_retry",
        deadline="submit",
    ),
    RouteSpec(
        "POST",
        "/api/v1/jobs/{job_id}/cancel",
        changes.cancel_job,
        "Cancel a job that waits or runs",
        (errors.JobUnknown, errors.JobEnded),
        tracked="job_cancel",
    ),
    RouteSpec(
        "GET",
        "/api/v1/jobs/{job_id}/outputs/{name}",
        outputs.read_output,
        "A file that the model gave with the result",
        (errors.JobUnknown, errors.OutputUnknown, errors.StoreUnavailable),
        tracked="job_results",
    ),
    RouteSpec(
        "GET",
        "/api/v1/jobs/{job_id}/image",
        images.read_image,
        "The image of a job, if it was to be kept",
        (errors.JobUnknown, errors.ImageNotKept, errors.StoreUnavailable),
        tracked="job_image",
    ),
    *batches.ROUTES,
    RouteSpec("GET", "/api/v1/models", health.models, "The served models and their replicas", tracked="models"),
    RouteSpec(
        "GET",
        "/api/v1/usage",
        usage.read_usage,
        "Usage: your own; for admins everyone's",
        (errors.QueryInvalid, errors.AdminRequired, errors.UsageUnavailable),
        tracked="usage",
    ),
    _webhook("GET", "", webhooks.listed, "Your webhooks"),
    _webhook(
        "POST",
        "",
        webhooks.register,
        "Register a webhook",
        *_BODY,
        *_WEBHOOK_URL,
        errors.WebhooksFull,
        errors.StoreFull,
    ),
    _webhook("GET", "/{webhook_id}", webhooks.read, "A webhook", errors.WebhookUnknown),
    _webhook("DELETE", "/{webhook_id}", webhooks.remove, "Delete a webhook", errors.WebhookUnknown),
    _webhook("POST", "/{webhook_id}/rotate", webhooks.rotate, "Give it a new secret", errors.WebhookUnknown),
    _webhook(
        "POST", "/{webhook_id}/test", webhooks.try_out, "Send it a test event", errors.WebhookUnknown, errors.QueueFull
    ),
    _webhook("GET", "/{webhook_id}/deliveries", webhooks.deliveries, "Its deliveries", errors.WebhookUnknown),
    _webhook(
        "POST",
        "/{webhook_id}/deliveries/{delivery_id}/redeliver",
        webhooks.redeliver,
        "Deliver again",
        errors.WebhookUnknown,
        errors.DeliveryUnknown,
        errors.QueueFull,
    ),
    _admin("GET", "/api/v1/admin/queue", figures.queue, "Jobs by state, all and by model"),
    _admin("GET", "/api/v1/admin/ledger", figures.counters, "Counters of each model's jobs"),
    _admin("GET", "/api/v1/admin/limits", figures.limits, "Rates and quotas in force"),
    _admin("GET", "/api/v1/admin/blocks", people.blocks, "Blocked users"),
    _admin("POST", "/api/v1/admin/blocks", people.block, "Block a user", _DECIDE),
    _admin("DELETE", "/api/v1/admin/blocks/{principal_id}", people.unblock, "Unblock a user", _TAKE_BACK),
    _admin("GET", "/api/v1/admin/overrides", people.overrides, "Users with rates of their own"),
    _admin("POST", "/api/v1/admin/overrides", people.override, "Give a user other rates", _DECIDE),
    _admin(
        "DELETE", "/api/v1/admin/overrides/{principal_id}", people.remove_override, "Give the usual rates", _TAKE_BACK
    ),
    _admin(
        "GET",
        "/api/v1/admin/dead",
        dead.page,
        "Dead jobs, the newest first",
        (errors.QueryInvalid, errors.ModelUnknown),
    ),
    _admin("GET", "/api/v1/admin/dead/{job_id}", dead.show, "A dead job", (errors.JobUnknown,)),
    _admin("DELETE", "/api/v1/admin/dead/{job_id}", dead.drop, "Drop a dead job", (errors.JobUnknown,)),
    _admin("POST", "/api/v1/admin/dead/{job_id}/requeue", dead.requeue, "Run a dead job again", _REQUEUE),
    _admin("GET", "/api/v1/admin/stops", stops.stops, "What admins have stopped"),
    _admin("POST", "/api/v1/admin/stops", stops.stop, "Stop intake or work", (*_BODY, errors.ModelUnknown)),
    _admin("DELETE", "/api/v1/admin/stops/{stop}", stops.resume, "Take a stop back", (errors.StopUnknown,)),
    RouteSpec("GET", "/api/v1/version", health.version, "API version and routes"),
    RouteSpec("GET", "/openapi.json", description.read_document, "All routes for programs: OpenAPI 3.1"),
    RouteSpec("GET", "/docs", description.read_page, "All routes for people, as a page"),
    RouteSpec(
        "GET",
        "/problems/{slug}",
        description.go_to_problem,
        "What a problem's type means: its place on the page",
        (errors.RouteUnknown,),
    ),
    RouteSpec("GET", "/health", health.health, "Health of gateway, queue and models"),
    RouteSpec("GET", "/__health", health.alive, "The gateway answers"),
    RouteSpec("GET", "/livez", health.alive, "The process lives"),
    RouteSpec("GET", "/readyz", health.ready, "Whether jobs are worked on; ?verbose: which part is not ready"),
    RouteSpec("GET", "/healthz", health.ready, "The same as /readyz"),
    RouteSpec(
        "GET",
        "/metrics",
        exposition.metrics,
        "Queue, ledger and outbox for Prometheus",
        (
            errors.TokenMissing,
            errors.TokenInvalid,
            errors.KeysUnavailable,
            errors.AdminRequired,
            errors.TrackerUnavailable,
        ),
    ),
)
"""In matching order: a fixed path stands before the pattern that would also take it."""
