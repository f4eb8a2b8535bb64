"""Every key of the job Redis, whichever room it belongs to: one row each, and the only place that spells its name.

Code builds a key by calling its row: `JOB(id=job_id)`. Lua scripts get a function for each key that they name
(`job_key(id)`, from `lua.py`), the tests check the keys left in Redis against these rows, and docs/redis-keys.md is
generated from them. Do not change names, types and TTLs: during an upgrade an older release uses the same Redis.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["hash", "string", "integer", "sorted set", "stream", "list", "channel"]
Room = Literal["jobs", "images", "usage", "webhooks", "gateway"]


@dataclass(frozen=True, slots=True)
class Key:
    """A row. The braces in `template` are the parts of the name: `owner` is a principal's id, `id` that of a job or
    delivery."""

    template: str
    room: Room
    """The room that decides what the key contains. Scripts of other rooms may write it too."""
    kind: Kind
    holds: str
    bound: str
    """What limits the size or number of these keys, in words."""
    leaves: str
    """When the key is removed."""
    ends: bool = False
    """True: it has a TTL as long as it exists."""
    most: int | str = ""
    """The most members, fields or entries it may hold: a number, a constant in serve_app, or a setting in capitals."""

    def __call__(self, **parts: str) -> str:
        """The key with these parts."""
        return self.template.format(**parts)

    @property
    def name(self) -> str:
        """The key's name in scripts: the fixed words of the template, as in `wait` and `webhook_queue`."""
        return re.sub(r"\W+", "_", re.sub(r"{\w+}", "", self.template)).strip("_")

    @property
    def parts(self) -> list[str]:
        """The names in the braces of the template, in order."""
        return re.findall(r"{(\w+)}", self.template)


# A job

JOB: Final = Key(
    "job:{id}",
    "jobs",
    "hash",
    "the record of a job: small fields only",
    "jobs that have not ended: QUEUE_MAX_JOBS per model; ended ones by their TTL, dead ones by `dead`",
    "JOB_TTL after its end; dead: JOB_TTL after it left `dead`",
)
BLOB: Final = Key(
    "blob:{id}",
    "images",
    "string",
    "the input of a job",
    "QUEUE_MAX_BYTES; those of ended jobs: IMAGE_STORE_SHARE",
    "15 minutes after it was stored unless a job has it; at COMPLETED or CANCELLED unless kept; else with its job",
)
OUTPUTS: Final = Key(
    "outputs:{id}",
    "images",
    "hash",
    "the files that a model returned; its replica writes them",
    "OUTPUT_MAX_BYTES each",
    "a minute after its job",
    ends=True,
)
REMOVED: Final = Key(
    "removed:{id}",
    "jobs",
    "string",
    "mark: its owner or an admin removed this job",
    "jobs removed within a day",
    "24 h after the removal",
    ends=True,
)

# The queue of a model

WAIT: Final = Key(
    "wait:{model}:{priority}:{owner}",
    "jobs",
    "sorted set",
    "a waiting job → its place",
    "jobs that have not ended",
    "when empty",
    most="QUEUE_MAX_JOBS",
)
RING: Final = Key(
    "ring:{model}:{priority}",
    "jobs",
    "sorted set",
    "an owner with waiting jobs → their next turn",
    "one member for each `wait`",
    "when empty",
)
LEASE: Final = Key(
    "lease:{model}",
    "jobs",
    "sorted set",
    "a claimed job → its deadline, ms",
    "jobs that have not ended",
    "when empty",
    most="QUEUE_MAX_JOBS",
)
CHUNKS: Final = Key(
    "chunks:{model}",
    "jobs",
    "sorted set",
    "the token of a lease → its deadline, ms",
    "the window of claims",
    "when empty",
)
REPLICAS: Final = Key(
    "replicas:{model}",
    "jobs",
    "sorted set",
    "the card of a replica → its deadline, ms",
    "running replicas",
    "6 s after the last heartbeat",
    ends=True,
)
LEDGER: Final = Key(
    "ledger:{model}", "jobs", "hash", "counters since this Redis was new", "one for each model", "never"
)
DEAD: Final = Key(
    "dead:{model}",
    "jobs",
    "sorted set",
    "a dead job → its end, ms",
    "and an eighth of QUEUE_MAX_BYTES; the oldest leave first",
    "when empty",
    most="DEAD_MAX_JOBS",
)
DEAD_BYTES: Final = Key(
    "dead-bytes:{model}", "jobs", "integer", "bytes of the dead jobs' inputs", "one for each model", "never"
)
HELD_BYTES: Final = Key(
    "held-bytes", "jobs", "integer", "bytes of inputs and parameters of jobs that have not ended", "one", "never"
)
STOPS: Final = Key(
    "stops",
    "jobs",
    "hash",
    "what admins stopped → JSON: why, by whom, when",
    "1, and 2 for each model",
    "when an admin takes it back",
)

# Which of two clusters claims jobs

ACTIVE: Final = Key(
    "active",
    "jobs",
    "hash",
    "the cluster that claims jobs, and since when",
    "one",
    "5 s after its gateways last asked",
    ends=True,
)
SERVING: Final = Key(
    "serving:{cluster}",
    "jobs",
    "integer",
    "when this cluster first answered a user, µs",
    "clusters",
    "5 s after its gateways last asked",
    ends=True,
)
ASKING: Final = Key(
    "asking:{cluster}:{model}",
    "jobs",
    "string",
    "mark: gateways of this cluster claim jobs of this model",
    "clusters and models",
    "5 s after the last claim",
    ends=True,
)

# Of an owner

IDEM: Final = Key(
    "idem:{hash}",
    "jobs",
    "hash",
    "fingerprint, id and time of a request with this Idempotency-Key",
    "the members of `idems`",
    "24 h after the request",
    ends=True,
)
IDEMS: Final = Key(
    "idems:{owner}",
    "jobs",
    "sorted set",
    "the hash of an owner's key → time, ms",
    "the oldest leave first",
    "24 h after the last",
    ends=True,
    most="jobs.limits.IDEMPOTENCY_MAX",
)
JOBS: Final = Key(
    "jobs:{owner}",
    "jobs",
    "sorted set",
    "an owner's job → its submit, µs",
    "the oldest leave first",
    "7 days after the last submit",
    ends=True,
    most="jobs.limits.LISTED_MAX",
)
BATCHES: Final = Key(
    "batches:{owner}",
    "jobs",
    "sorted set",
    "an owner's batch → its submit, µs",
    "the oldest leave first",
    "7 days after the last submit",
    ends=True,
    most="jobs.limits.LISTED_MAX",
)

# A batch, and its URLs that are to be fetched

BATCH: Final = Key(
    "batch:{batch}",
    "jobs",
    "hash",
    "a batch, and how many of its items are open",
    "batches with open items; ended ones by their TTL",
    "JOB_TTL after its last item ended",
)
ITEMS: Final = Key(
    "items:{batch}",
    "jobs",
    "hash",
    "its items: request, job and end of each",
    "500 items of 16 kB",
    "with its batch",
    most=3 * 500,
)
FETCH: Final = Key(
    "fetch:{owner}", "jobs", "sorted set", "an item whose URL is to be fetched → since, µs", "`fetches`", "when empty"
)
FETCH_RING: Final = Key(
    "fetch-ring",
    "jobs",
    "sorted set",
    "an owner of such items → their next turn, µs",
    "one member for each `fetch`",
    "when empty",
)
FETCHING: Final = Key(
    "fetching", "jobs", "sorted set", "an item whose URL is being fetched → its deadline, ms", "`fetches`", "when empty"
)
FETCHES: Final = Key(
    "fetches", "jobs", "integer", "items whose URL is to be fetched", "QUEUE_MAX_JOBS, one number", "never"
)

# Messages between processes

WAKE: Final = Key("wake", "jobs", "channel", "the name of a model with jobs to claim", "nothing is stored", "–")
CHANGES: Final = Key(
    "changes", "jobs", "channel", "job and status, for each job that a script changed", "nothing is stored", "–"
)

# Images

SWEEP_TURN: Final = Key(
    "sweep-turn",
    "images",
    "string",
    "mark: a gateway removes orphans from the bucket of images",
    "one",
    "15 s after it began",
    ends=True,
)

# Usage

OUTBOX: Final = Key(
    "outbox",
    "usage",
    "stream",
    "events for PostgreSQL; the scripts of jobs write outcomes into it",
    "usage events: OUTBOX_MAX; one outcome for each end of a job",
    "each entry after its commit",
)
OUTBOX_DROPPED: Final = Key(
    "outbox:dropped",
    "usage",
    "hash",
    "`count`, `since`, `until` (ms) of usage events that were only counted",
    "fields",
    "when a writer has reported it",
    most=3,
)
OUTBOX_REFUSED: Final = Key(
    "outbox:refused",
    "usage",
    "list",
    "entries that PostgreSQL can never take, newest first, with the reason",
    "the oldest leave first",
    "never",
    most="usage.writer.REFUSED_KEPT",
)
OUTBOX_TOTALS: Final = Key(
    "outbox:totals",
    "usage",
    "hash",
    "`dropped` and `refused` events since this Redis was new",
    "fields",
    "never",
    most=2,
)

# Webhooks

WEBHOOKS: Final = Key(
    "webhooks:{owner}",
    "webhooks",
    "sorted set",
    "an owner's endpoint → when it was registered, ms",
    "per user",
    "with the owner's last endpoint; no TTL: endpoints are their owner's decisions",
    most="webhooks.limits.ENDPOINTS_MAX",
)
WEBHOOK: Final = Key(
    "webhook:{endpoint}",
    "webhooks",
    "hash",
    "an endpoint: owner, URL, events, secrets, why it is off",
    "the members of `webhooks`",
    "when its owner deletes it",
)
WEBHOOK_EVENTS: Final = Key(
    "webhook-events",
    "webhooks",
    "stream",
    "ended jobs of owners with endpoints; the scripts of jobs write it",
    "more are dropped and counted",
    "each entry within a second",
    most="jobs.limits.WEBHOOK_EVENTS_MAX",
)
WEBHOOK_QUEUE: Final = Key(
    "webhook-queue:{endpoint}",
    "webhooks",
    "sorted set",
    "a waiting delivery → when it is due, ms",
    "per endpoint",
    "when empty",
    most="webhooks.limits.QUEUE_MAX",
)
WEBHOOK_DUE: Final = Key(
    "webhook-due",
    "webhooks",
    "sorted set",
    "an endpoint with a queue → when it is due or its claim ends, ms",
    "endpoints",
    "when empty",
)
WEBHOOK_WAITING: Final = Key(
    "webhook-waiting",
    "webhooks",
    "sorted set",
    "a waiting delivery → when it was made, ms",
    "of all users",
    "when empty",
    most="webhooks.limits.WAITING_MAX",
)
WEBHOOK_LOG: Final = Key(
    "webhook-log:{endpoint}",
    "webhooks",
    "sorted set",
    "an ended delivery → its end, ms",
    "per endpoint, the oldest leave first",
    "7 days after the last end",
    ends=True,
    most="webhooks.limits.LOG_MAX",
)
WEBHOOK_DELIVERY: Final = Key(
    "webhook-delivery:{id}",
    "webhooks",
    "hash",
    "a delivery: its event and its attempts",
    "the members of `webhook-waiting` and `webhook-log`",
    "7 days after its end",
)
WEBHOOK_TOTALS: Final = Key(
    "webhook-totals",
    "webhooks",
    "hash",
    "delivered, failed and dropped events since this Redis was new",
    "fields",
    "never",
    most=3,
)

# The limiter. Buckets are neither in Redis' append-only file nor on its replicas: losing one fills it.

RATE_SUBMIT: Final = Key(
    "rate:submit:{owner}",
    "gateway",
    "string",
    "when this bucket of submits is full; debt, µs. `house`: of all users",
    "users of the last minute",
    "a minute after the last submit",
    ends=True,
)
RATE_READ: Final = Key(
    "rate:read:{owner}",
    "gateway",
    "string",
    "the same for all other requests",
    "users of the last minute",
    "a minute after the last request",
    ends=True,
)
QUOTA: Final = Key(
    "quota:{owner}",
    "gateway",
    "integer",
    "submits of the day",
    "users with a quota who submitted today",
    "at midnight UTC",
    ends=True,
)
URL_KEY: Final = Key(
    "url-key",
    "gateway",
    "string",
    "the random key of signed URLs, without URL_SIGNING_KEY",
    "one",
    "never; without it earlier URLs are refused",
)
LIMITS_BLOCKS: Final = Key(
    "limits:blocks",
    "gateway",
    "hash",
    "a blocked principal's id → JSON: why, by whom, when",
    "users",
    "when an admin takes it back; no TTL: they are decisions",
    most="gateway.ratelimit.DECISIONS_MAX",
)
LIMITS_OVERRIDES: Final = Key(
    "limits:overrides",
    "gateway",
    "hash",
    "a principal's id → JSON: own rates, by whom, when",
    "users",
    "when an admin takes it back; no TTL: they are decisions",
    most="gateway.ratelimit.DECISIONS_MAX",
)

KEYS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Key))
