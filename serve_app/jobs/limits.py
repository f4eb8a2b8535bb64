"""Limits in the life of a job that need no setting, each with its reason."""

from __future__ import annotations

RECORD_VERSION = 2
"""The newest version of a record. A release reads every version up to its own, so a field that is new needs a default
where it is read. It leaves a newer record alone. A field that older releases may overlook needs no new version."""
PLAIN_VERSION = 1
"""Written where nothing newer is in the record. Version 2 marks items of batches, whose end must be
reported to the batch, and jobs that keep their input, which must not be deleted at their end."""

SUSPECT_AFTER = 2
"""Losses after which a job runs alone: one may be an accident, a second makes the job suspect."""
MAX_STRIKES = 3
"""Losses while it ran alone that make a job dead: only then is the job itself the likely cause."""
MAX_DELIVERIES = 20
"""Deliveries that make a job dead whatever the cause, so that no job is tried for ever."""

PARAMS_MAX_BYTES = 16 * 1024
"""Of one job, as JSON: they are part of its record, and in a batch of each item's. Anything larger is an input, which
has a store."""
RESULT_MAX_BYTES = 64 * 1024
"""A result is a small record; larger outputs belong in the output store."""
REASON_MAX_CHARACTERS = 500
"""How much is kept of the reason for a loss or a failure."""

IDEMPOTENCY_TTL_S = 24 * 3600
"""A submit repeated within this time is recognised by its key."""
IDEMPOTENCY_MAX = 100_000
"""Keys stored for one owner; beyond it the oldest are removed. 41 MB of Redis for an owner with that many in a day."""
IDEMPOTENCY_SWEEP = 100
"""Expired keys removed from an owner's list with each new one: more than are added, and few enough for one step."""

LISTED_MAX = 10_000
"""Jobs of one owner that can be listed, the latest."""
LISTED_TTL_S = 7 * 24 * 3600
"""A list is kept for this long after the owner's last submit: longer than a record, unless JOB_TTL is very long."""
PAGE_LOOKS = 500
"""Records read for one page of a list, so that a filter without matches blocks Redis for a moment only."""

REMOVED_TTL_S = 24 * 3600
"""A removed job is marked as such for this long. PostgreSQL normally deletes its outcome within seconds."""

HEARTBEAT_S = 6.0
"""A replica is counted as running for this long after its last beat: three beats of two seconds."""

ACTIVE_S = 5.0
"""A cluster counts as running for this long after the last call of its gateways: five calls of a second each."""

FETCH_LEASE_S = 30.0
"""How long a claim of an item's URL lasts: ten seconds to fetch, plus waiting for a turn and storing the image."""
FETCH_FAULTS_MAX = 5
"""Faults of the service itself after which an item is refused, so that none is fetched for ever."""

MAX_CHUNK_BYTES = 64 * 1024 * 1024
"""Stored inputs of one chunk, which are in one replica's memory at the same time. Above the largest single input."""
MAX_CHUNK_PIXELS = 200_000_000
"""Decoded size of one chunk: a few seconds of work on one core, so that huge images delay others only briefly."""

DEAD_BYTES_SHARE = 8
"""The inputs of a model's dead jobs may take one eighth of QUEUE_MAX_BYTES."""

WEBHOOK_EVENTS_MAX = 10_000
"""Events for webhooks. A gateway reads them within a second, so a longer stream means that no gateway runs."""

RETRY_AFTER_S = 5
"""Retry-After of a refused submit: the queue moves by whole chunks, a few seconds each."""
