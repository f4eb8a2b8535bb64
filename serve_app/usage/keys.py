"""The outbox's keys in the job Redis, on one screen. None has a TTL: they hold what is not in PostgreSQL yet.

| key | kind | what it is | bound |
|---|---|---|---|
| `outbox` | stream | usage, outcome and gap events; they leave after the commit to PostgreSQL | usage: OUTBOX_MAX |
| `outbox:dropped` | hash | `count`, `since`, `until` (ms) of usage events counted, not stored | 3 fields |
| `outbox:refused` | list | entries that PostgreSQL can never take, newest first, with the reason | 1000 entries |
| `outbox:totals` | hash | `dropped` and `refused` events since this Redis was new | 2 fields |
"""

from __future__ import annotations

OUTBOX = "outbox"
DROPPED = "outbox:dropped"
REFUSED = "outbox:refused"
TOTALS = "outbox:totals"

GROUP = "writers"
"""The consumer group of the outbox; every writer is one consumer of it."""
