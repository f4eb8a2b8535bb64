"""Dead jobs as admins see them: listed, inspected, run again or dropped. Nothing here shows an image."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from serve_app.contracts import Job, JobStatus, Json
from serve_app.gateway.admin.actor import actor_of
from serve_app.gateway.problems import job_problem, json_response
from serve_app.gateway.query import read_query
from serve_app.gateway.service import Call
from serve_app.gateway.views import job_path, timestamp
from serve_app.jobs.records import PageEnd

LIMIT: Final = 50
LIMIT_MAX: Final = 100
CURSOR: Final = r"^(\d{1,15})-([0-9a-f-]{36})$"


class Page(BaseModel):
    """Which dead jobs are asked for."""

    model_config = ConfigDict(frozen=True)

    model: str | None = None
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = LIMIT
    cursor: Annotated[str, Field(pattern=CURSOR)] | None = None


async def page(call: Call) -> Response:
    """200 with dead jobs, the newest first, of one model or of all."""
    asked, service = read_query(call, Page), call.service
    models = list(service.cards) if asked.model is None else [service.card(asked.model).name]
    jobs, after = await service.jobs.dead_page(models, asked.limit, _place(asked.cursor))
    cursor = f"{after.at}-{after.id}" if after else None
    return json_response({"data": [_row(job) for job in jobs], "next_cursor": cursor})


async def show(call: Call) -> Response:
    """200 with all that is known of a dead job but the image itself."""
    job, input_is_kept = await call.service.jobs.read_dead(_job_id(call))
    call.job_id, call.model = job.id, job.model
    stored: Json | None = None
    if job.input is not None:
        stored = {"media_type": job.input.media_type, "bytes": job.input.bytes, "pixels": job.input.pixels}
        stored["kept"] = input_is_kept
    times = {"submitted_at": timestamp(job.submitted_at), "started_at": timestamp(job.started_at)}
    return json_response({**_row(job), **times, "params": job.params, "input": stored})


async def requeue(call: Call) -> Response:
    """202 once the job waits for its next run."""
    job_id = _job_id(call)
    await call.service.store.check_intake()
    run = await call.service.jobs.requeue_dead(job_id, actor_of(call).event("requeue", job_id))
    call.job_id = job_id
    return json_response(
        {"job_id": job_id, "status": JobStatus.PENDING.value, "run": run}, 202, {"Location": job_path(job_id)}
    )


async def drop(call: Call) -> Response:
    """204 once the job's record and image are removed."""
    job_id = _job_id(call)
    await call.service.jobs.drop_dead(job_id, actor_of(call).event("drop", job_id))
    call.job_id = job_id
    return Response(status_code=204)


def _job_id(call: Call) -> str:
    call.target = call.request.path_params["job_id"]
    return call.target


def _place(cursor: str | None) -> PageEnd | None:
    found = re.fullmatch(CURSOR, cursor) if cursor else None
    return PageEnd(int(found[1]), found[2]) if found else None


def _row(job: Job) -> Json:
    failure = job.failure
    return {
        "job_id": job.id,
        "model": job.model,
        "owner": job.owner,
        "died_at": timestamp(job.completed_at),
        "run": job.run,
        "deliveries": job.deliveries,
        "strikes": job.strikes,
        "problem": job_problem(failure.slug, failure.detail) if failure else None,
    }
