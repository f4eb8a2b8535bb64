"""Every key of the job Redis that the tracker touches, on one screen. The scripts get their names from here.

`id`: job id. `model`, `priority`, `owner`: as in the record. Jobs not ended are at most QUEUE_MAX_JOBS per model.

| key | what it is | bound | leaves |
|---|---|---|---|
| job:{id} | hash: the record, small fields only | jobs not ended, ended, dead | JOB_TTL after its end; dead: below |
| blob:{id} | string: the input | QUEUE_MAX_BYTES; ended: IMAGE_STORE_SHARE | COMPLETED, CANCELLED if unkept; its job |
| outputs:{id} | hash: files a model gave; its replica writes it | OUTPUT_MAX_BYTES | a minute after its job |
| wait:{model}:{priority}:{owner} | sorted set: waiting job → its place | jobs not ended | when empty |
| ring:{model}:{priority} | sorted set: owner that waits → next turn | owners that wait | when empty |
| lease:{model} | sorted set: claimed job → deadline, ms | jobs not ended | when empty |
| chunks:{model} | sorted set: lease token → deadline, ms | the window | when empty |
| replicas:{model} | sorted set: a replica's card → deadline, ms | running replicas | HEARTBEAT_S after the last beat |
| dead:{model} | sorted set: dead job → its end, ms | DEAD_MAX_JOBS and bytes | oldest first: blob too, job in JOB_TTL |
| dead-bytes:{model} | integer: bytes of their inputs | one per model | never |
| ledger:{model} | hash: counters since the beginning | one per model | never |
| serving:{cluster} | integer: when this cluster first answered a user, µs | clusters | 5 s after its last look |
| asking:{cluster}:{model} | string: its gateways claim jobs of this model | one per both | 5 s after the last claim |
| active | hash: the latest of them, which alone claims jobs, and since when | one | 5 s after its last look |
| stops | hash: what admins stopped → JSON: why, by whom, when | 1 + 2 per model | when an admin takes it back |
| held-bytes | integer: bytes of inputs and params, not ended | one | never |
| removed:{id} | string: its owner or an admin removed this job | jobs removed within a day | 24 h after it |
| idem:{hash} | hash: fingerprint, job and time of a submit with this Idempotency-Key | idems:{owner} | 24 h after it |
| idems:{owner} | sorted set: an owner's hashes → time, ms | 100,000, the oldest leave | 24 h after the last |
| jobs:{owner} | sorted set: an owner's job → its submit, µs | 10,000, the oldest leave | 7 days after the last submit |
| batch:{batch} | hash: a batch, with how many of its items are open | items not ended, ended | JOB_TTL after its end |
| items:{batch} | hash: its items: what they ask for, their jobs, how they ended | 500 items of 16 kB | with it |
| batches:{owner} | sorted set: an owner's batch → its submit, µs | 10,000, the oldest leave | 7 days after the last |
| fetch:{owner} | sorted set: item whose URL waits to be fetched → since, µs | fetches | when empty |
| fetch-ring | sorted set: owner of such items → next turn, µs | owners that wait | when empty |
| fetching | sorted set: item whose URL is being fetched → deadline, ms | fetches | when empty |
| fetches | integer: items whose URL is to be fetched | QUEUE_MAX_JOBS | never |
| outbox | stream: events for PostgreSQL; `usage` reads it | one outcome per job that ends | after the commit |
| sweep-turn | string: a gateway sweeps the bucket of images | one | 15 s after it began |
| webhooks:{owner} | sorted set: only whether it is there; `webhooks` keeps it | there | there |
| webhook-events | stream: ended jobs of owners with webhooks; `webhooks` reads it | WEBHOOK_EVENTS_MAX | in a second |
| webhook-totals | hash: `dropped` counts events beyond that bound | 3 fields | never |
| wake | channel: name of a model that has something to claim | - | - |
| changes | channel: job id, status, job id, status, …: what one script changed | a script's jobs | - |
"""

from __future__ import annotations

from typing import Final

KEYS: Final = {
    "job": "job:{id}",
    "outputs": "outputs:{id}",
    "wait": "wait:{model}:{priority}:{owner}",
    "ring": "ring:{model}:{priority}",
    "lease": "lease:{model}",
    "chunks": "chunks:{model}",
    "replicas": "replicas:{model}",
    "dead": "dead:{model}",
    "dead_bytes": "dead-bytes:{model}",
    "ledger": "ledger:{model}",
    "serving": "serving:{cluster}",
    "asking": "asking:{cluster}:{model}",
    "active": "active",
    "stops": "stops",
    "held_bytes": "held-bytes",
    "removed": "removed:{id}",
    "jobs": "jobs:{owner}",
    "idem": "idem:{hash}",
    "idems": "idems:{owner}",
    "batch": "batch:{batch}",
    "items": "items:{batch}",
    "batches": "batches:{owner}",
    "fetch": "fetch:{owner}",
    "fetch_ring": "fetch-ring",
    "fetching": "fetching",
    "fetches": "fetches",
    "outbox": "outbox",
    "webhooks": "webhooks:{owner}",
    "webhook_events": "webhook-events",
    "webhook_totals": "webhook-totals",
    "wake": "wake",
    "changes": "changes",
}


def key(name: str, **parts: str) -> str:
    """The key of that row of the table."""
    return KEYS[name].format(**parts)
