"""The route table: the rows of all modules, and the problems that many routes share."""

from __future__ import annotations

from typing import Final

from serve_app import errors
from serve_app.gateway.endpoint import Problems, RouteSpec
from serve_app.gateway.openapi import Description, describe
from serve_app.gateway.routes import admin, batches, images, jobs, predictions, protocols, service, usage, webhooks
from serve_app.gateway.schemas.webhooks import SENT

ROUTES: Final[tuple[RouteSpec, ...]] = (
    *jobs.ROUTES,
    *batches.ROUTES,
    *images.ROUTES,
    *service.MODEL_ROUTES,
    *predictions.ROUTES,
    *protocols.ROUTES,
    *usage.ROUTES,
    *webhooks.ROUTES,
    *admin.ROUTES,
    *service.ROUTES,
)
"""In matching order: fixed paths before patterns that would also match them."""

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


def description() -> Description:
    """The OpenAPI document and the page of all routes."""
    return describe(ROUTES, EVERY_ROUTE, EVERY_AUTHENTICATED_ROUTE, tuple(SENT.items()))
