"""All that is said of routes: a new route gets one entry in the module of its group, by `METHOD path`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel

from serve_app.contracts import Json
from serve_app.gateway.admin.people import PRINCIPAL_ID
from serve_app.gateway.description.groups import batches, house, interventions, jobs, people, webhooks
from serve_app.gateway.description.groups.operation import Operation
from serve_app.gateway.endpoint import RouteSpec
from serve_app.models.contract import OUTPUT_NAME

OPERATIONS: Final[Mapping[str, Operation]] = {
    **jobs.OPERATIONS,
    **batches.OPERATIONS,
    **webhooks.OPERATIONS,
    **people.OPERATIONS,
    **interventions.OPERATIONS,
    **house.OPERATIONS,
}
WEBHOOKS: Final[Mapping[str, type[BaseModel]]] = webhooks.SENT
"""What the service sends by itself: the event's name -> its body."""

PATH_PARAMETERS: Final[Mapping[str, Json]] = {
    "job_id": {"type": "string", "description": "The id that the submit answered."},
    "name": {
        "type": "string",
        "pattern": f"^{OUTPUT_NAME.pattern}$",
        "description": "Of a file, as the result lists it.",
    },
    "batch_id": {"type": "string", "description": "The id that the submit of the batch answered."},
    "principal_id": {
        "type": "string",
        "pattern": f"^{PRINCIPAL_ID}$",
        "description": "A user, as in the usage records.",
    },
    "webhook_id": {"type": "string", "description": "The id that the registration answered."},
    "delivery_id": {"type": "string", "description": "The header webhook-id of what was sent."},
    "stop": {"type": "string", "description": "The name of a stop in force: intake, intake:MODEL or work:MODEL."},
    "slug": {"type": "string", "pattern": "^[a-z-]+$", "description": "The last part of a problem's type."},
}


def name_of(route: RouteSpec) -> str:
    """A route as it is called here."""
    return f"{route.method} {route.path}"


def parameters_of(path: str) -> list[str]:
    """The names in the braces of a path."""
    return re.findall(r"{(\w+)}", path)


def is_described(route: RouteSpec) -> bool:
    """Whether all is here that the document needs; the document leaves a route out until then."""
    return name_of(route) in OPERATIONS and all(name in PATH_PARAMETERS for name in parameters_of(route.path))
