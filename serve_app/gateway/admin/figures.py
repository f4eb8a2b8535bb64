"""What admins read of the whole house: the queue, the ledger, the limits in force."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from starlette.responses import Response

from serve_app.contracts import Json
from serve_app.gateway.limits.limiter import BURST_S
from serve_app.gateway.problems import json_response
from serve_app.gateway.service import Call
from serve_app.jobs.records import QueueState


async def queue(call: Call) -> Response:
    """Jobs by state since the beginning, for all models and for each."""
    each = {name: _states(state) for name, state in (await _queues(call)).items()}
    total = {word: sum(states[word] for states in each.values()) for word in next(iter(each.values()))}
    return json_response({**total, "models": each})


async def counters(call: Call) -> Response:
    """Each model's counters, the jobs in flight that follow from them, and those that are counted where they stand."""
    return json_response({"models": {name: _balance(state) for name, state in (await _queues(call)).items()}})


async def limits(call: Call) -> Response:
    """The rates and quotas in force for everybody, and how many users have others."""
    settings, decisions = call.service.settings, call.service.decisions
    blocks, overrides = await asyncio.gather(decisions.listed("block"), decisions.listed("override"))
    document = {
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
    return json_response(document)


async def _queues(call: Call) -> dict[str, QueueState]:
    service = call.service
    states = await asyncio.gather(*(service.jobs.queue_state(name) for name in service.cards))
    return dict(zip(service.cards, states, strict=True))


def _balance(queue: QueueState) -> Json:
    ledger = queue.ledger
    counted = {"waiting": queue.waiting, "running": queue.leased, "difference": queue.difference}
    return {**asdict(ledger), "in_flight": ledger.in_flight, **counted}


def _states(queue: QueueState) -> Json:
    """The source system's shape, and what it had not: there no job was cancelled, and a dead one was a failed one."""
    ledger = queue.ledger
    return {
        "total": ledger.accepted,
        "total_jobs": ledger.accepted,
        "pending": queue.waiting,
        "processing": queue.leased,
        "completed": ledger.completed,
        "failed": ledger.failed + ledger.dead,
        "cancelled": ledger.cancelled,
        "queue_size": queue.waiting,
    }
