"""The gateway's keys in the job Redis, on one screen. `owner`: principal id, or `house` for all users together.

| key | what it is | bound | leaves |
|---|---|---|---|
| rate:submit:{owner} | string: when the bucket of submits is full; debt, µs | users lately | a minute after the last |
| rate:read:{owner} | string: the same of all other requests | users lately | a minute after the last request |
| quota:{owner} | integer: submits of the day | users with a quota who submitted today | at midnight UTC |
| limits:blocks | hash: principal id → JSON: why, by whom, when | DECISIONS_MAX | when an admin takes it back |
| limits:overrides | hash: principal id → JSON: rates, by whom, when | DECISIONS_MAX | when an admin takes it back |

Buckets are neither in the append-only file nor on a replica of Redis: losing one fills it.
"""

from __future__ import annotations

from typing import Final

BLOCKS: Final = "limits:blocks"
OVERRIDES: Final = "limits:overrides"
ALL_USERS: Final = "house"
"""The owner of the buckets that all users share, as its keys in Redis have it."""
DECISIONS_MAX: Final = 1000
"""Blocks, and as many overrides: decisions that people make by hand, one by one."""


def rate_key(kind: str, owner: str) -> str:
    """The bucket of submits or reads of a user, or of `ALL_USERS`."""
    return f"rate:{kind}:{owner}"


def quota_key(owner: str) -> str:
    """The day's count of a user's submits."""
    return f"quota:{owner}"
