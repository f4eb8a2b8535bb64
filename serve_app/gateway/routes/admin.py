"""The admin routes: counts and limits; blocks, overrides and stops; dead jobs.

The endpoint has checked that the caller is an admin before any of these handlers runs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from serve_app import errors
from serve_app.contracts import JobStatus
from serve_app.errors import BodyInvalid, DecisionUnknown
from serve_app.gateway.bodies import read_json
from serve_app.gateway.context import Call, Models
from serve_app.gateway.endpoint import Content, Method, Problems, RouteSpec, RouteTable
from serve_app.gateway.http import json_response, pointers_of, read_query
from serve_app.gateway.ratelimit import BURST_S, DecisionKind, Decisions
from serve_app.gateway.schemas import admin as schemas
from serve_app.gateway.schemas.common import PRINCIPAL_ID
from serve_app.gateway.schemas.jobs import job_path
from serve_app.images.store import ImageStore
from serve_app.jobs.records import PageEnd, QueueState, StopName
from serve_app.jobs.store import JobStore
from serve_app.settings import Settings

_PATH: Final = "/api/v1/admin"
_BODY: Final[Problems] = (errors.BodyInvalid, errors.BodyTooLarge, errors.BodyTypeUnsupported)
_DECIDE: Final[Problems] = (*_BODY, errors.DecisionsFull)
_ADA: Final = {"principal_id": "0123456789abcdef0123456789abcdef", "name": "ada"}

ROUTES: Final = RouteTable()

D = TypeVar("D", bound=schemas.Decision)


def _row(
    method: Method,
    path: str,
    summary: str,
    answers: Mapping[int, tuple[Content, ...]],
    problems: Problems = (),
    body: type[BaseModel] | None = None,
    example: Any = None,
    query: type[BaseModel] | None = None,
) -> RouteSpec:
    return RouteSpec(
        method,
        f"{_PATH}{path}",
        summary,
        "Admin",
        answers,
        (errors.AdminRequired, *problems),
        tracked="admin",
        admin=True,
        bodies={"application/json": body} if body else {},
        example=example,
        query=query,
    )


@ROUTES.add(_row("GET", "/queue", "Jobs by state, all and by model", {200: (schemas.Queue,)}))
async def read_queue(call: Call, jobs: JobStore, models: Models) -> Response:
    """Jobs by state since the beginning, for all models and for each."""
    each = {name: schemas.states(state) for name, state in (await _queues(jobs, models)).items()}
    return json_response(schemas.queue(each))


@ROUTES.add(_row("GET", "/ledger", "Counters of each model's jobs", {200: (schemas.Ledgers,)}))
async def read_ledger(call: Call, jobs: JobStore, models: Models) -> Response:
    """Each model's counters, the jobs in flight by these counters, and the jobs counted in the queues themselves."""
    queues = await _queues(jobs, models)
    answer: schemas.Ledgers = {"models": {name: schemas.counters(state) for name, state in queues.items()}}
    return json_response(answer)


@ROUTES.add(_row("GET", "/limits", "Rates and quotas in force", {200: (schemas.Limits,)}))
async def read_limits(call: Call, decisions: Decisions, settings: Settings) -> Response:
    """The rates and quotas in force for all users, and how many users have their own."""
    blocks, overrides = await asyncio.gather(decisions.listed("block"), decisions.listed("override"))
    answer: schemas.Limits = {
        "burst_s": BURST_S,
        "user": {
            "submits_per_s": settings.rate_submits_per_s,
            "reads_per_s": settings.rate_reads_per_s,
            "submits_per_day": settings.quota_submits_per_day,
        },
        "house": {
            "submits_per_s": settings.rate_house_submits_per_s,
            "reads_per_s": settings.rate_house_reads_per_s,
        },
        "submits_per_day_of_roles": settings.role_quotas,
        "blocks": len(blocks),
        "overrides": len(overrides),
    }
    return json_response(answer)


@ROUTES.add(_row("GET", "/blocks", "Blocked users", {200: (schemas.Blocks,)}))
async def list_blocks(call: Call, decisions: Decisions) -> Response:
    """200 with the blocks in force, newest first."""
    answer: schemas.Blocks = {"blocks": [schemas.decision(kept) for kept in await decisions.listed("block")]}
    return json_response(answer)


@ROUTES.add(
    _row(
        "POST",
        "/blocks",
        "Block a user",
        {201: (schemas.KeptBlock,)},
        _DECIDE,
        schemas.Block,
        {**_ADA, "reason": "A script that does not stop."},
    )
)
async def block(call: Call, decisions: Decisions) -> Response:
    """201 with the block, which is now in force."""
    return await _decide(call, decisions, "block", await _read_decision(call, schemas.Block))


@ROUTES.add(
    _row("DELETE", "/blocks/{principal_id}", "Unblock a user", {204: ()}, (errors.DecisionUnknown,)),
)
async def unblock(call: Call, decisions: Decisions) -> Response:
    """204 once the block is removed."""
    return await _take_back(call, decisions, "block")


@ROUTES.add(_row("GET", "/overrides", "Users with rates of their own", {200: (schemas.Overrides,)}))
async def list_overrides(call: Call, decisions: Decisions) -> Response:
    """200 with the overrides in force, newest first."""
    answer: schemas.Overrides = {"overrides": [schemas.decision(kept) for kept in await decisions.listed("override")]}
    return json_response(answer)


@ROUTES.add(
    _row(
        "POST",
        "/overrides",
        "Give a user other rates",
        {201: (schemas.KeptOverride,)},
        _DECIDE,
        schemas.Override,
        {**_ADA, "reason": "The workshop of next week.", "submits_per_s": 50},
    )
)
async def override(call: Call, decisions: Decisions) -> Response:
    """201 with the override, which is now in force."""
    return await _decide(call, decisions, "override", await _read_decision(call, schemas.Override))


@ROUTES.add(_row("DELETE", "/overrides/{principal_id}", "Give the usual rates", {204: ()}, (errors.DecisionUnknown,)))
async def remove_override(call: Call, decisions: Decisions) -> Response:
    """204 once the user has the general rates again."""
    return await _take_back(call, decisions, "override")


@ROUTES.add(
    _row(
        "GET",
        "/dead",
        "Dead jobs, the newest first",
        {200: (schemas.DeadJobs,)},
        (errors.QueryInvalid, errors.ModelUnknown),
        query=schemas.DeadJobsQuery,
    )
)
async def list_dead_jobs(call: Call, jobs: JobStore, models: Models) -> Response:
    """200 with dead jobs, newest first, of one model or of all."""
    query = read_query(call.request, schemas.DeadJobsQuery)
    names = models.names if query.model is None else [models.card(query.model).name]
    found, after = await jobs.dead_page(names, query.limit, _page_end(query.cursor))
    answer: schemas.DeadJobs = {
        "data": [schemas.dead_job(job) for job in found],
        "next_cursor": f"{after.at}-{after.id}" if after else None,
    }
    return json_response(answer)


@ROUTES.add(_row("GET", "/dead/{job_id}", "A dead job", {200: (schemas.DeadJobDetail,)}, (errors.JobUnknown,)))
async def read_dead_job(call: Call, jobs: JobStore) -> Response:
    """200 with all data of a dead job except the image itself."""
    job, input_is_kept = await jobs.read_dead(_target(call, "job_id"))
    call.job_id, call.model = job.id, job.model
    return json_response(schemas.dead_job_detail(job, input_is_kept=input_is_kept))


@ROUTES.add(_row("DELETE", "/dead/{job_id}", "Drop a dead job", {204: ()}, (errors.JobUnknown,)))
async def drop_dead_job(call: Call, jobs: JobStore) -> Response:
    """204 once the job's record and image are removed."""
    job_id = _target(call, "job_id")
    await jobs.drop_dead(job_id, call.audit.event("drop", job_id))
    call.job_id = job_id
    return Response(status_code=204)


@ROUTES.add(
    _row(
        "POST",
        "/dead/{job_id}/requeue",
        "Run a dead job again",
        {202: (schemas.Requeued,)},
        (errors.JobUnknown, errors.InputGone, errors.IntakeStopped, errors.QueueFull, errors.StoreFull),
    )
)
async def requeue_dead_job(call: Call, jobs: JobStore, store: ImageStore) -> Response:
    """202 once the job waits for its next run."""
    job_id = _target(call, "job_id")
    await store.check_intake()
    run = await jobs.requeue_dead(job_id, call.audit.event("requeue", job_id))
    call.job_id = job_id
    answer: schemas.Requeued = {"job_id": job_id, "status": JobStatus.PENDING.value, "run": run}
    return json_response(answer, 202, {"Location": job_path(job_id)})


@ROUTES.add(_row("GET", "/stops", "What admins have stopped", {200: (schemas.Stops,)}))
async def list_stops(call: Call, jobs: JobStore) -> Response:
    """200 with the stops in force."""
    found = await jobs.stops()
    answer: schemas.Stops = {"stops": [schemas.stop_object(name, kept) for name, kept in found.items()]}
    return json_response(answer)


@ROUTES.add(
    _row(
        "POST",
        "/stops",
        "Stop intake or work",
        {201: (schemas.KeptStop,)},
        (*_BODY, errors.ModelUnknown),
        schemas.Stop,
        {"message": "Beam line maintenance until noon.", "retry_after_s": 3600},
    )
)
async def stop(call: Call, jobs: JobStore, models: Models) -> Response:
    """201 with the stop, which is now in force."""
    try:
        given = schemas.Stop.model_validate(await read_json(call))
    except ValidationError as error:
        raise BodyInvalid("The stop cannot be read.", pointers=pointers_of(error)) from error
    name = StopName(given.what, given.model and models.card(given.model).name)
    call.target = str(name)
    context, decision = call.audit, given.model_dump(include={"message", "retry_after_s"})
    event = context.event("stop", str(name), decision)
    kept = context.with_author(decision, event)
    await jobs.add_stop(name, kept, event)
    return json_response(schemas.stop_object(str(name), kept), 201, {"Location": f"{_PATH}/stops/{name}"})


@ROUTES.add(_row("DELETE", "/stops/{stop}", "Take a stop back", {204: ()}, (errors.StopUnknown,)))
async def resume(call: Call, jobs: JobStore) -> Response:
    """204 once the stop is lifted."""
    name = _target(call, "stop")
    await jobs.remove_stop(name, call.audit.event("remove-stop", name))
    return Response(status_code=204)


async def _queues(jobs: JobStore, models: Models) -> dict[str, QueueState]:
    states = await asyncio.gather(*map(jobs.queue_state, models.names))
    return dict(zip(models.names, states, strict=True))


async def _read_decision(call: Call, kind: type[D]) -> D:
    try:
        decision = kind.model_validate(await read_json(call))
    except ValidationError as error:
        raise BodyInvalid("The decision cannot be read.", pointers=pointers_of(error)) from error
    call.target = decision.principal_id
    if kind is schemas.Block and decision.principal_id == call.caller.id:
        raise BodyInvalid("You cannot block yourself.", pointers={"/principal_id": "is your own"})
    return decision


async def _decide(call: Call, decisions: Decisions, kind: DecisionKind, decision: schemas.Decision) -> Response:
    given = decision.model_dump(exclude={"principal_id"}, exclude_none=True)
    kept = await decisions.keep(kind, decision.principal_id, given, call.audit)
    return json_response(schemas.decision(kept), 201, {"Location": f"{_PATH}/{kind}s/{decision.principal_id}"})


async def _take_back(call: Call, decisions: Decisions, kind: DecisionKind) -> Response:
    principal_id = _target(call, "principal_id")
    if not re.fullmatch(PRINCIPAL_ID, principal_id):
        raise DecisionUnknown("This is no principal id: 32 hexadecimal digits, as in the usage records.")
    await decisions.remove(kind, principal_id, call.audit)
    return Response(status_code=204)


def _target(call: Call, parameter: str) -> str:
    """The path parameter that names the object of the action."""
    call.target = call.request.path_params[parameter]
    return call.target


def _page_end(cursor: str | None) -> PageEnd | None:
    found = re.fullmatch(schemas.CURSOR, cursor) if cursor else None
    return PageEnd(int(found[1]), found[2]) if found else None
