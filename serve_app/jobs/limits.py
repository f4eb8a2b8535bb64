"""The numbers of a job's life that no one needs to set, each with its reason."""

from __future__ import annotations

RECORD_VERSION = 2
"""The newest version of a record. A release reads every version up to its own, so a field that is new needs a default
where it is read. It leaves a newer record alone. A field that older releases may overlook needs no new version."""
PLAIN_VERSION = 1
"""Written where nothing newer is in the record. Items of batches are newer (2): who ends one has to tell its
batch; and jobs that keep their input: who ends one must not delete it."""

SUSPECT_AFTER = 2
"""Losses after which a job runs alone: one is an accident, the second asks for a look."""
MAX_STRIKES = 3
"""Losses while it ran alone that make a job dead: only then is the job itself the likely cause."""
MAX_DELIVERIES = 20
"""Deliveries that make a job dead whatever the cause, so that no job is tried for ever."""

PARAMS_MAX_BYTES = 16 * 1024
"""Of one job, as JSON; they lie in its record, and a batch gives each item its own. What is larger is an
input, which has a store."""
RESULT_MAX_BYTES = 64 * 1024
"""A result is a small record; outputs larger than this belong into a store."""
REASON_MAX_CHARACTERS = 500
"""What is kept of the sentence that says why a job was lost or failed."""

IDEMPOTENCY_TTL_S = 24 * 3600
"""A submit repeated within this time is recognised by its key."""
IDEMPOTENCY_MAX = 100_000
"""Keys remembered of one owner; beyond it the oldest are forgotten. 41 MB of Redis for who sends that many in a day."""
IDEMPOTENCY_SWEEP = 100
"""Forgotten keys that leave an owner's list with each new one: more than come, and few enough for one step."""

LISTED_MAX = 10_000
"""Jobs of one owner that can be listed, the latest."""
LISTED_TTL_S = 7 * 24 * 3600
"""A list is kept for this long after the owner's last submit: more than any record stays unless JOB_TTL is unusual."""
PAGE_LOOKS = 500
"""Records looked at for one page of a list: so that a filter that fits nothing holds Redis up for a moment only."""

REMOVED_TTL_S = 24 * 3600
"""A removed job is known as such for this long: PostgreSQL hears of it within seconds, unless it is away."""

HEARTBEAT_S = 6.0
"""A replica is counted as running for this long after its last beat: three beats of two seconds."""

ACTIVE_S = 5.0
"""A cluster is known to run for this long after the last look of its gateways: five looks of a second."""

FETCH_LEASE_S = 30.0
"""Who fetches an item's URL has this long: the fetch's own ten seconds, its turn waited for, and to store what came."""
FETCH_FAULTS_MAX = 5
"""Faults of the service itself after which an item is refused: one may pass, but none is fetched for ever."""

MAX_CHUNK_BYTES = 64 * 1024 * 1024
"""Stored inputs of one chunk: they are in one replica's memory at once. Above the largest single input."""
MAX_CHUNK_PIXELS = 200_000_000
"""Decoded size of one chunk: a few seconds of work on one core, so that a chunk of giants holds nobody up for long."""

DEAD_BYTES_SHARE = 8
"""Dead jobs' inputs may take this part (one eighth, per model) of what the inputs of living jobs may."""

WEBHOOK_EVENTS_MAX = 10_000
"""Ended jobs whose owners are to be told; a gateway takes them within a second, so that more means that none runs."""

RETRY_AFTER_S = 5
"""What a refused submit is told to wait: the queue moves by whole chunks, a few seconds each."""
