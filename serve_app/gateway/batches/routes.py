"""The rows of batches in the route table."""

from __future__ import annotations

from typing import Final

from serve_app import errors
from serve_app.gateway.batches import accept, changes, reads, results
from serve_app.gateway.endpoint import Problems, RouteSpec

_SUBMIT: Final[Problems] = (
    errors.BodyInvalid,
    errors.BodyTooLarge,
    errors.BodyTypeUnsupported,
    errors.IdempotencyKeyInvalid,
    errors.IdempotencyKeyReused,
    errors.ParamsInvalid,
    errors.ModelUnknown,
    errors.BatchUnknown,
    errors.IntakeStopped,
    errors.QueueFull,
    errors.StoreFull,
    errors.StoreUnavailable,
)

ROUTES: Final = (
    RouteSpec(
        "POST",
        "/api/v1/batches",
        accept.submit_batch,
        "Submit many images as one batch",
        _SUBMIT,
        tracked="batch",
        deadline="submit",
    ),
    RouteSpec(
        "GET",
        "/api/v1/batches",
        reads.list_batches,
        "Your batches, newest first",
        (errors.QueryInvalid,),
        tracked="batch_list",
    ),
    RouteSpec(
        "GET",
        "/api/v1/batches/{batch_id}",
        reads.read_batch,
        "A batch with its counts and items",
        (errors.QueryInvalid, errors.BatchUnknown),
        tracked="batch_status",
    ),
    RouteSpec(
        "DELETE",
        "/api/v1/batches/{batch_id}",
        changes.remove_batch,
        "Forget an ended batch with its jobs",
        (errors.BatchUnknown, errors.BatchNotEnded),
        tracked="batch_delete",
    ),
    RouteSpec(
        "GET",
        "/api/v1/batches/{batch_id}/results",
        results.read_results,
        "Results of a batch, as NDJSON or CSV",
        (errors.QueryInvalid, errors.BatchUnknown, errors.UsageUnavailable),
        tracked="batch_results",
    ),
    RouteSpec(
        "POST",
        "/api/v1/batches/{batch_id}/cancel",
        changes.cancel_batch,
        "Cancel all of a batch that has not ended",
        (errors.BatchUnknown,),
        tracked="batch_cancel",
    ),
)
