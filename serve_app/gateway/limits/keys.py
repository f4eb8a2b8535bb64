"""The limiter's keys in the job Redis: `keyspace.py` describes them. `house` stands for all users together."""

from __future__ import annotations

from typing import Final

from serve_app.keyspace import LIMITS_BLOCKS, LIMITS_OVERRIDES, QUOTA, RATE_READ, RATE_SUBMIT

BLOCKS: Final = LIMITS_BLOCKS()
OVERRIDES: Final = LIMITS_OVERRIDES()
HOUSE: Final = "house"
DECISIONS_MAX: Final = 1000
"""Blocks, and as many overrides: decisions that people make by hand, one by one."""


def rate_key(kind: str, owner: str) -> str:
    """The bucket of submits or reads of a user or of all users."""
    return (RATE_SUBMIT if kind == "submit" else RATE_READ)(owner=owner)


def quota_key(owner: str) -> str:
    """The day's count of a user's submits."""
    return QUOTA(owner=owner)
