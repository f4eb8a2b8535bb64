"""GET /openapi.json, GET /docs, and GET /problems/{slug}, which is the `type` of a problem as a link."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from serve_app.errors import RouteUnknown
from serve_app.gateway.service import Call

NOTHING_FROM_ELSEWHERE: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
"""A page of plain text and its own style sheet; nothing else may ever load or run in it."""


async def read_document(call: Call) -> Response:
    """200 with the OpenAPI 3.1 document of all routes."""
    return Response(call.service.description.document, media_type="application/json")


async def read_page(call: Call) -> Response:
    """200 with the same as a page for people. It loads nothing and runs no script."""
    headers = {"Content-Security-Policy": NOTHING_FROM_ELSEWHERE}
    return Response(call.service.description.page, headers=headers, media_type="text/html")


async def go_to_problem(call: Call) -> Response:
    """303 to the place of a problem type on the page."""
    slug = call.request.path_params["slug"]
    if slug not in call.service.description.problems:
        raise RouteUnknown("There is no such problem type. GET /docs lists them.")
    return Response(status_code=303, headers={"Location": f"/docs#{slug}"})
