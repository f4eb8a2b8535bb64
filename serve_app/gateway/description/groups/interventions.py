"""What the routes take and answer by which admins step in: dead jobs and stops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from serve_app.gateway.admin.dead import Page
from serve_app.gateway.admin.stops import Stop
from serve_app.gateway.description.groups.operation import Count, Moment, Operation, Shape
from serve_app.jobs.records import Stopped


class Loss(Shape):
    """Why the job was given up."""

    type: str
    title: str
    detail: str


class DeadJob(Shape):
    """A job that was given up. `owner` is a principal id."""

    job_id: str
    model: str
    owner: str
    died_at: Moment
    run: Count
    deliveries: Count
    strikes: Count
    problem: Loss | None


class DeadJobs(Shape):
    """The newest first; `next_cursor` is null on the last page."""

    data: list[DeadJob]
    next_cursor: str | None


class KeptInput(Shape):
    """What the job works on; never the bytes."""

    media_type: str
    bytes: Count
    pixels: Count
    kept: bool


class DeadJobInFull(DeadJob):
    """All that is known of it."""

    submitted_at: Moment
    started_at: Moment | None
    params: dict[str, Any]
    input: KeptInput | None


class Requeued(Shape):
    """The run that waits now."""

    job_id: str
    status: Literal["PENDING"]
    run: Count


class KeptStop(Shape):
    """A stop in force, who made it and when; without a model it is everybody's."""

    stop: str
    what: Stopped
    model: str | None
    message: str
    retry_after_s: Count
    by: str
    by_id: str
    at: Moment


class Stops(Shape):
    """By name."""

    stops: list[KeptStop]


_STOP: Final = {"message": "Beam line maintenance until noon.", "retry_after_s": 3600}
_DEAD: Final = "/api/v1/admin/dead"

OPERATIONS: Final[Mapping[str, Operation]] = {
    f"GET {_DEAD}": Operation("Admin", {200: (DeadJobs,)}, query=Page),
    f"GET {_DEAD}/{{job_id}}": Operation("Admin", {200: (DeadJobInFull,)}),
    f"DELETE {_DEAD}/{{job_id}}": Operation("Admin", {204: ()}),
    f"POST {_DEAD}/{{job_id}}/requeue": Operation("Admin", {202: (Requeued,)}),
    "GET /api/v1/admin/stops": Operation("Admin", {200: (Stops,)}),
    "POST /api/v1/admin/stops": Operation("Admin", {201: (KeptStop,)}, {"application/json": Stop}, _STOP),
    "DELETE /api/v1/admin/stops/{stop}": Operation("Admin", {204: ()}),
}
