"""The limits of webhooks, each with its reason. The Lua scripts get those that are integers."""

from __future__ import annotations

from typing import Final

ENDPOINTS_MAX: Final = 10
"""Webhooks of one user: one for each of the user's programs."""
QUEUE_MAX: Final = 10_000
"""Deliveries that wait for one webhook: a user's full queue of jobs may end faster than a receiver takes the events.
A busy user's dead receiver holds at most this many."""
WAITING_MAX: Final = 50_000
"""Deliveries that wait for all webhooks together: 27 MB of the job Redis, 90 MB if each has failed nine times."""
WAITING_SHARE: Final = 4
"""One webhook may hold at most this part (a quarter) of the room that is left in total: webhooks with few deliveries
always have room, however many receivers are down."""
LOG_MAX: Final = 100
"""Ended deliveries that the log of one webhook keeps."""
LOG_TTL_S: Final = 7 * 24 * 3600
ATTEMPTS_SHOWN: Final = 20
"""Attempts of one delivery that the log keeps: two rounds of the schedule."""

SCHEDULE_S: Final = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Pauses before the first, second … attempt, as recommended by Standard Webhooks: three days in all."""
JITTER: Final = 0.2
"""Each pause is longer by up to this part, so that deliveries that failed together are not retried together."""
RETRY_AFTER_MAX_S: Final = 24 * 3600
"""Longest wait that a receiver may request."""

TIMEOUT_S: Final = 15.0
"""Deadline of one attempt: name, connection, TLS, request, and the head of the response."""
CLAIM_MS: Final = 30_000
"""A webhook whose sender died is claimed by another after this: longer than an attempt and its bookkeeping."""
AT_ONCE: Final = 32
"""Concurrent attempts of one gateway replica; one at a time for each webhook."""
SLOW_AT_ONCE: Final = 16
"""How many of those may go to receivers that were slow last time."""
OWNER_UNPROVEN_AT_ONCE: Final = 2
"""How many of one owner's webhooks that were slow last time, or have never succeeded, are served at once: their names
or receivers may hang, and no user may take all attempts or look-ups."""
SLOW_MS: Final = 1000
STEP_BACK_MS: Final = 500
"""A slow receiver that cannot be served now is tried again after this, behind those that are due by then."""
SECRET_BYTES: Final = 32
OLDER_SECRET_MS: Final = 24 * 3600 * 1000
"""After a rotation the old secret also signs for this long."""
