"""What the routes of usage and of admins take and answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from serve_app.gateway.admin.people import Block, Override
from serve_app.gateway.description.groups.operation import Count, Moment, Operation, Shape
from serve_app.gateway.usage.read import UsageQuery


class UsageReport(BaseModel):
    """The usage report, as `semapi usage --format json` prints it; it has more keys than these."""

    model_config = ConfigDict(extra="allow")

    generated_at_utc: str
    timezone: str
    bucket: Literal["minute", "hour", "day"]
    total: Count
    unique_users: Count
    error_count: Count
    endpoint_counts: list[dict[str, Any]]
    status_counts: list[dict[str, Any]]
    user_counts: list[dict[str, Any]]
    notes: list[str]


class States(Shape):
    """Jobs since the beginning, by state; `total_jobs` and `queue_size` are older names."""

    total: Count
    total_jobs: Count
    pending: Count
    processing: Count
    completed: Count
    failed: Count
    cancelled: Count
    queue_size: Count


class Queue(States):
    """All models together, and each."""

    models: dict[str, States]


class Counters(Shape):
    """accepted + reopened = completed + failed + cancelled + dead + in_flight, which is waiting + running + difference.

    A difference other than 0 is a job that was lost or counted twice.
    """

    accepted: Count
    reopened: Count
    completed: Count
    failed: Count
    cancelled: Count
    dead: Count
    in_flight: int
    waiting: Count
    running: Count
    difference: int


class Ledgers(Shape):
    """Each model's counters."""

    models: dict[str, Counters]


class UserLimits(Shape):
    """What one user may ask for; a quota of 0 is none."""

    submits_per_s: float
    reads_per_s: float
    submits_per_day: Count


class HouseLimits(Shape):
    """What all users together may ask for."""

    submits_per_s: float
    reads_per_s: float


class Limits(Shape):
    """The limits in force for everybody, and how many users have a decision of their own."""

    burst_s: float
    user: UserLimits
    house: HouseLimits
    submits_per_day_of_roles: dict[str, int]
    blocks: Count
    overrides: Count


class KeptBlock(Shape):
    """A block in force, who decided it and when."""

    principal_id: str
    name: str
    reason: str
    by: str
    by_id: str
    at: Moment


class KeptOverride(KeptBlock):
    """Other rates in force, who decided them and when."""

    submits_per_s: float | None = None
    reads_per_s: float | None = None
    submits_per_day: Count | None = None


class Blocks(Shape):
    """The newest first."""

    blocks: list[KeptBlock]


class Overrides(Shape):
    """The newest first."""

    overrides: list[KeptOverride]


_ADA: Final = {"principal_id": "0123456789abcdef0123456789abcdef", "name": "ada"}
_BLOCK: Final = {**_ADA, "reason": "A script that does not stop."}
_OVERRIDE: Final = {**_ADA, "reason": "The workshop of next week.", "submits_per_s": 50}

OPERATIONS: Final[Mapping[str, Operation]] = {
    "GET /api/v1/usage": Operation("Usage", {200: (UsageReport, "text/csv")}, query=UsageQuery),
    "GET /api/v1/admin/queue": Operation("Admin", {200: (Queue,)}),
    "GET /api/v1/admin/ledger": Operation("Admin", {200: (Ledgers,)}),
    "GET /api/v1/admin/limits": Operation("Admin", {200: (Limits,)}),
    "GET /api/v1/admin/blocks": Operation("Admin", {200: (Blocks,)}),
    "POST /api/v1/admin/blocks": Operation("Admin", {201: (KeptBlock,)}, {"application/json": Block}, _BLOCK),
    "DELETE /api/v1/admin/blocks/{principal_id}": Operation("Admin", {204: ()}),
    "GET /api/v1/admin/overrides": Operation("Admin", {200: (Overrides,)}),
    "POST /api/v1/admin/overrides": Operation(
        "Admin", {201: (KeptOverride,)}, {"application/json": Override}, _OVERRIDE
    ),
    "DELETE /api/v1/admin/overrides/{principal_id}": Operation("Admin", {204: ()}),
}
