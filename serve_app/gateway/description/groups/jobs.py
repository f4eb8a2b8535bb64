"""What the routes of jobs, their older forms and the models take and answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.contracts import JobStatus, Priority
from serve_app.gateway.description.groups.operation import Count, FormShape, Moment, Operation, Shape
from serve_app.gateway.operations.lists import JobsQuery
from serve_app.images.header import MEDIA_TYPES

JOB_ID: Final = "6f0a1f0e-5f0c-4f5e-9d8e-3c1f2b7a9d10"
_ENDS: Final = {"self": "", "events": "/events", "result": "/result", "cancel": "/cancel", "image": "/image"}
_JOB: Final[dict[str, Any]] = {
    "job_id": JOB_ID,
    "status": "COMPLETED",
    "model": "sem-classifier",
    "submitted_at": "2026-11-21T12:00:00.000Z",
    "started_at": "2026-11-21T12:00:00.112Z",
    "completed_at": "2026-11-21T12:00:00.391Z",
    "expires_at": "2026-11-21T13:00:00.391Z",
    "deliveries": 1,
    "priority": "normal",
    "queue": None,
    "result": {"label": "Nanowires", "confidence": 0.93, "all_scores": {"Nanowires": 0.93, "Fibres": 0.07}},
    "problem": None,
    "links": {name: f"/api/v1/jobs/{JOB_ID}{end}" for name, end in _ENDS.items()},
}


Keep = Annotated[bool, Field(description="Keep the image as long as the job's record; GET …/image gives it.")]
Class = Annotated[Priority, Field(description="`bulk` waits while any `normal` job of the model does.")]


class OlderSubmitForm(FormShape):
    """One image, as a file or by URL, for one model."""

    image: Annotated[str, Field(json_schema_extra={"format": "binary"})] | None = None
    image_url: str | None = None
    model: Annotated[str, Field(description="The default model if left out.")] | None = None
    params: Annotated[str, Field(description="A JSON object as text, by the model's params_schema.")] | None = None


class SubmitForm(OlderSubmitForm):
    """One image, as a file or by URL, for one model; whether it is kept, and how much it hurries."""

    keep: Keep = False
    priority: Class = Priority.NORMAL


class OlderSubmitBody(Shape):
    """As the form, without a file."""

    image_url: str | None = None
    model: Annotated[str, Field(description="The default model if left out.")] | None = None
    params: Annotated[dict[str, Any], Field(description="By the model's params_schema.")] | None = None


class SubmitBody(OlderSubmitBody):
    """As the form, without a file."""

    keep: Keep | None = False
    priority: Class | None = Priority.NORMAL


class JobId(BaseModel):
    """Which job; other fields are left unread."""

    model_config = ConfigDict(extra="allow")

    job_id: str


class Links(Shape):
    """Where the job is, tells its changes, has its result, and is taken back."""

    self: str
    events: str
    result: str
    cancel: str
    image: Annotated[str, Field(default_factory=str, description="There if the image is kept.")]


class Estimate(Shape):
    """Seconds until the job has ended, if the model goes on as in the last minutes."""

    low: Annotated[float, Field(ge=0)]
    high: Annotated[float, Field(ge=0)]


class Place(Shape):
    """Where a pending job waits; no estimate while the model's pace is not known."""

    position: Annotated[int, Field(ge=1)]
    estimate_s: Estimate | None


class JobProblem(Shape):
    """Why a job has no result."""

    type: str
    title: str
    detail: str


class JobRow(Shape):
    """A job as lists show it."""

    job_id: str
    status: JobStatus
    model: str
    submitted_at: Moment
    started_at: Moment | None
    completed_at: Moment | None
    expires_at: Annotated[Moment | None, Field(description="Once it has ended: until when at least it can be read.")]
    deliveries: Count
    priority: Priority
    queue: Annotated[Place | None, Field(description="Looked up by GET of one job while it is pending; else null.")]
    problem: JobProblem | None
    links: Links


class Job(JobRow):
    """A job. `result` is as the model's result_schema says (GET /api/v1/models)."""

    model_config = ConfigDict(json_schema_extra={"examples": [_JOB]})

    result: dict[str, Any] | None


class JobResult(Shape):
    """What came out of a job, as the model's result_schema says."""

    job_id: str
    model: str
    completed_at: Moment
    result: dict[str, Any]


class JobPage(Shape):
    """A page of jobs, the newest first; `next_cursor` leads to the next page, None: this is the last."""

    data: list[JobRow]
    next_cursor: str | None


class Submitted(Shape):
    """The answer of the older submit."""

    job_id: str
    status: JobStatus
    message: str


OlderStatus = Literal["PENDING", "PROCESSING", "COMPLETED", "FAILED", "NOT_FOUND"]


class OlderJobStatus(Shape):
    """The answer of the older status route. An unknown job has `NOT_FOUND` and an empty `submitted_at`."""

    job_id: str
    status: OlderStatus
    submitted_at: Moment | Literal[""]
    started_at: Moment | None
    completed_at: Moment | None
    metadata: dict[str, str]


class OlderJobResults(Shape):
    """The answer of the older results route. `error` is empty for a completed job."""

    job_id: str
    status: OlderStatus
    result: dict[str, Any] | None
    error: str
    completed_at: Moment | None


class Replica(Shape):
    """A running replica, and what it says of its model."""

    replica: str
    version: str
    device: str
    description: dict[str, Any]


class Model(Shape):
    """A served model."""

    name: str
    input: Literal["image", "none"]
    params_schema: dict[str, Any]
    result_schema: dict[str, Any]
    replicas: list[Replica]


class Models(Shape):
    """All served models, the default first."""

    default: str
    models: list[Model]


_BODIES: Final[Mapping[str, type[BaseModel]]] = {"multipart/form-data": SubmitForm, "application/json": SubmitBody}
_OLDER_BODIES: Final[Mapping[str, type[BaseModel]]] = {
    "multipart/form-data": OlderSubmitForm,
    "application/json": OlderSubmitBody,
}
_BY_URL: Final = {"image_url": "https://images.example.org/nanowires.tif", "model": "sem-classifier", "params": {}}
_OBEYED: Final = ("Idempotency-Key", "traceparent")
_WAITED: Final = ("Preference-Applied", "Vary")
_REPLAYED: Final = ("Idempotent-Replayed",)
_WHICH: Final[Mapping[str, type[BaseModel]]] = {"application/json": JobId}

OPERATIONS: Final[Mapping[str, Operation]] = {
    "POST /api/v1/jobs": Operation(
        "Jobs",
        {200: (Job,), 202: (Job,)},
        _BODIES,
        {**_BY_URL, "keep": True, "priority": "bulk"},
        headers=(*_OBEYED, "Prefer"),
        answer_headers=(*_REPLAYED, *_WAITED, "ETag"),
    ),
    "GET /api/v1/jobs": Operation(
        "Jobs", {200: (JobPage,), 304: ()}, query=JobsQuery, headers=("If-None-Match",), answer_headers=("ETag", "Link")
    ),
    "GET /api/v1/jobs/{job_id}": Operation(
        "Jobs",
        {200: (Job,), 304: ()},
        headers=("If-None-Match", "Prefer"),
        answer_headers=("ETag", "Retry-After", *_WAITED),
    ),
    "GET /api/v1/jobs/{job_id}/events": Operation(
        "Jobs", {200: ("text/event-stream",), 204: ()}, headers=("Last-Event-ID",)
    ),
    "DELETE /api/v1/jobs/{job_id}": Operation("Jobs", {204: ()}),
    "GET /api/v1/jobs/{job_id}/result": Operation(
        "Jobs", {200: (JobResult,), 304: ()}, headers=("If-None-Match",), answer_headers=("ETag",)
    ),
    "POST /api/v1/jobs/{job_id}/retry": Operation("Jobs", {202: (Job,)}),
    "GET /api/v1/jobs/{job_id}/outputs/{name}": Operation(
        "Jobs", {200: ("*/*",), 307: ()}, answer_headers=("Content-Disposition",)
    ),
    "GET /api/v1/jobs/{job_id}/image": Operation(
        "Jobs", {200: tuple(MEDIA_TYPES.values()), 307: ()}, answer_headers=("Content-Disposition",)
    ),
    "POST /api/v1/jobs/{job_id}/cancel": Operation("Jobs", {200: (Job,)}),
    "GET /api/v1/models": Operation("Jobs", {200: (Models,)}),
    "POST /api/v1/inference": Operation(
        "Older routes", {200: (Submitted,)}, _OLDER_BODIES, _BY_URL, headers=_OBEYED, answer_headers=_REPLAYED
    ),
    "POST /api/v1/jobs/status": Operation("Older routes", {200: (OlderJobStatus,)}, _WHICH, {"job_id": JOB_ID}),
    "POST /api/v1/jobs/results": Operation("Older routes", {200: (OlderJobResults,)}, _WHICH, {"job_id": JOB_ID}),
}
