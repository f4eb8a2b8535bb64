"""Limits of a job's life that are not settings, each with its reason."""

from __future__ import annotations

RECORD_VERSION = 2
"""The newest version of a record. A release reads every version up to its own, so code that reads a new field needs a
default for it. A release does not touch newer records. A field that older releases may ignore needs no new version."""
PLAIN_VERSION = 1
"""Written where a record has no newer features. Version 2 marks items of batches, whose end must be reported to the
batch, and jobs that keep their input, which must not be deleted when they end."""

SUSPECT_AFTER = 2
"""Losses after which a job runs alone: one may be an accident, the second makes the job a suspect."""
MAX_STRIKES = 3
"""Losses of a job that ran alone after which it is dead: only then is the job itself the likely cause."""
MAX_DELIVERIES = 20
"""Deliveries after which a job is dead whatever the cause, so that no job is retried forever."""
TRANSIENT_TRIES = 3
"""Deliveries of a job whose model fails for a reason that may pass, after which it is dead."""
TRANSIENT_PAUSE_S = 1.0
"""Pause before such a job waits again."""

PARAMS_MAX_BYTES = 16 * 1024
"""Limit for one job's parameters as JSON: they are part of its record. Anything larger is an input, which has a
store."""
RESULT_MAX_BYTES = 64 * 1024
"""A result is a small record; larger outputs belong in the output store."""
REASON_MAX_CHARACTERS = 500
"""Characters kept of the reason for a loss or a failure."""

IDEMPOTENCY_TTL_S = 24 * 3600
"""A submit repeated within this time is recognised by its key."""
IDEMPOTENCY_MAX = 100_000
"""Keys stored for one owner; beyond it the oldest are removed. 41 MB of Redis for an owner with that many in a day."""
IDEMPOTENCY_SWEEP = 100
"""Expired keys removed from an owner's list with each new one: more than are added, and few enough for one step."""

LISTED_MAX = 10_000
"""The latest jobs of one owner that can be listed."""
LISTED_TTL_S = 7 * 24 * 3600
"""How long a list is kept after the owner's last submit: longer than a record, unless JOB_TTL is very long."""
PAGE_LOOKS = 500
"""Records read for one page of a list, so that a filter without matches blocks Redis only briefly."""

REMOVED_TTL_S = 24 * 3600
"""A removed job is marked as such for this long. PostgreSQL normally deletes its outcome within seconds."""

HEARTBEAT_S = 6.0
"""A replica is counted as running for this long after its last beat: three beats of two seconds."""

ACTIVE_S = 5.0
"""A cluster counts as running for this long after the last call of its gateways: five calls of a second each."""

FETCH_LEASE_S = 30.0
"""How long a claim of an item's URL lasts: ten seconds to fetch, plus waiting for a turn and storing the image."""
FETCH_FAULTS_MAX = 5
"""Faults of the service itself after which an item is refused, so that none is fetched forever."""

MAX_CHUNK_BYTES = 64 * 1024 * 1024
"""Most bytes of stored inputs in one chunk, which one replica holds in memory at the same time. Above the largest
single input."""
MAX_CHUNK_PIXELS = 200_000_000
"""Decoded size of one chunk: a few seconds of work on one core, so that huge images delay others only briefly."""

DEAD_BYTES_SHARE = 8
"""The inputs of a model's dead jobs may take one eighth of QUEUE_MAX_BYTES."""

WEBHOOK_EVENTS_MAX = 10_000
"""Events for webhooks. A gateway reads them within a second, so a longer stream means that no gateway runs."""

RETRY_AFTER_S = 5
"""Retry-After of a refused submit: the queue moves by whole chunks, a few seconds each."""
