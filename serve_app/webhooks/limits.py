"""The numbers of webhooks, each with its reason. Those that are whole numbers the Lua scripts see too."""

from __future__ import annotations

from typing import Final

ENDPOINTS_MAX: Final = 10
"""WebhookStore of one user: one for each program of theirs."""
QUEUE_MAX: Final = 10_000
"""Deliveries that wait for one endpoint: a full queue of one user's jobs may end faster than a receiver takes them.
A dead receiver of a busy user holds so many, and no more."""
HOUSE_MAX: Final = 50_000
"""Deliveries that wait for all endpoints together: 27 MB of the job Redis, 90 MB where each has failed nine times."""
HOUSE_SHARE: Final = 4
"""One endpoint may hold as much as this part (a quarter) of what is left of the house: there is always room for those
that hold little, however many are down."""
LOG_MAX: Final = 100
"""Ended deliveries of one endpoint that its log keeps."""
LOG_TTL_S: Final = 7 * 24 * 3600
ATTEMPTS_SHOWN: Final = 20
"""Attempts of one delivery that the log keeps: two rounds of the schedule."""

SCHEDULE_S: Final = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Pauses before the first, the second … attempt, as the Standard Webhooks rules publish them: three days in all."""
JITTER: Final = 0.2
"""Each pause is longer by up to this part, so that what failed together does not come back together."""
RETRY_AFTER_MAX_S: Final = 24 * 3600
"""So long a receiver may ask us to wait."""

TIMEOUT_S: Final = 15.0
"""One attempt: name, connection, TLS, request, and the head of the answer."""
CLAIM_MS: Final = 30_000
"""An endpoint whose sender went silent is another's after this: longer than an attempt and its settling."""
AT_ONCE: Final = 32
"""Attempts of one gateway replica at once; of one endpoint one at a time."""
SLOW_AT_ONCE: Final = 16
"""How many of those may be attempts to receivers that were slow the last time."""
OWNER_UNPROVEN_AT_ONCE: Final = 2
"""How many of one owner's endpoints that were slow the last time, or have taken nothing yet, are served at once: their
names or receivers may hang, and no user is to hold every place or look-up with them."""
SLOW_MS: Final = 1000
STEP_BACK_MS: Final = 500
"""A slow receiver that finds no place is looked at again after this, behind those that are due by then."""
SECRET_BYTES: Final = 32
OLDER_SECRET_MS: Final = 24 * 3600 * 1000
"""After a rotation the older secret signs along for this long."""
