"""The description of all routes, made once for all gateways of a process."""

from __future__ import annotations

import json
from functools import lru_cache

from serve_app.gateway.description.document import make_document
from serve_app.gateway.description.examples import problems_shown
from serve_app.gateway.description.operations import WEBHOOKS
from serve_app.gateway.description.page import write_page
from serve_app.gateway.description.published import Description
from serve_app.gateway.endpoint import Problems, RouteSpec
from serve_app.gateway.monitoring.health import API_VERSION


@lru_cache(maxsize=1)
def describe(routes: tuple[RouteSpec, ...], every: Problems, every_authenticated: Problems) -> Description:
    """Document and page of these routes; `every…` are problems that each, or each with a token, may answer."""
    document = make_document(routes, every, every_authenticated, WEBHOOKS, API_VERSION.removeprefix("v"))
    return Description(
        document=json.dumps(document, separators=(",", ":")).encode(),
        page=write_page(document).encode(),
        problems=frozenset(problem.slug for problem in problems_shown()),
    )
