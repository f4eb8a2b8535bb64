"""How much a user and the house may ask: token buckets and a day's quota, one script for all gateway replicas.

The script decides before a request costs anything else. Only for the reads whose row says `overlaps` it travels in the
same group of commands as what they read, so that it costs them no round trip of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from redis.exceptions import NoScriptError

from serve_app.connections import GroupingRedis, redis_errors
from serve_app.contracts import Principal
from serve_app.errors import RateLimited, ServiceError, UserBlocked
from serve_app.gateway.limits.keys import BLOCKS, HOUSE, OVERRIDES, quota_key, rate_key
from serve_app.lua import read_script
from serve_app.settings import Settings
from serve_app.texts import number

Asked = Literal["submit", "read", "admin"]
"""What is asked for. Admins' own routes count as reads of theirs, and not against the house: a flood must not keep out
who can end it."""

BURST_S: Final = 2
"""A full bucket: so many seconds' worth of requests at once."""
SECOND_US: Final = 1_000_000
GRANTED, USER, HOUSE_FULL, QUOTA, BLOCKED = range(5)
REFUSED_BY: Final = ("", "user", "house", "quota", "block")
"""What refuses, by verdict."""

_log = logging.getLogger(__name__)


class Figures(NamedTuple):
    """What the script replied, times in microseconds."""

    verdict: int
    wait: int
    missing: int
    """What the user's bucket lacks."""
    interval: int
    quota: int
    used: int
    day_left_s: int


class Limiter:
    """Asks the script. One per gateway replica."""

    def __init__(self, redis: GroupingRedis, settings: Settings) -> None:
        self.redis = redis
        self.script = read_script(__package__, "bucket") + read_script(__package__, "admit")
        self.charge = redis.register_script(read_script(__package__, "bucket") + read_script(__package__, "charge"))
        self.refund = redis.register_script(read_script(__package__, "bucket") + read_script(__package__, "refund"))
        self.hash = hashlib.sha1(self.script.encode(), usedforsecurity=False).hexdigest()
        self._intervals = {
            "submit": (_interval(settings.rate_submits_per_s), _interval(settings.rate_house_submits_per_s)),
            "read": (_interval(settings.rate_reads_per_s), _interval(settings.rate_house_reads_per_s)),
        }
        self._quota, self._role_quotas = settings.quota_submits_per_day, settings.role_quotas

    def ask(self, principal: Principal, asked: Asked) -> Admission:
        """Ask for one request of the principal's; the answer comes with the next replies of Redis."""
        bucket = "submit" if asked == "submit" else "read"
        own, house = self._intervals[bucket]
        keys = [BLOCKS, OVERRIDES, rate_key(bucket, principal.id), quota_key(principal.id)]
        if asked != "admin":
            keys.append(rate_key(bucket, HOUSE))
        quota = self._quota_of(principal) if asked == "submit" else 0
        return Admission(self, f"{bucket}s", [len(keys), *keys, principal.id, f"{bucket}s_per_s", own, quota, house])

    def _quota_of(self, principal: Principal) -> int:
        """The day's quota of a user: the most generous of those of the user's roles, else that of everybody."""
        if not self._role_quotas:
            return self._quota
        quotas = [self._role_quotas[role] for role in principal.roles if role in self._role_quotas]
        return 0 if 0 in quotas else max(quotas, default=self._quota)


class Admission:
    """The limiter's answer to one request, on its way or there."""

    __slots__ = ("_arguments", "_charged", "_figures", "_limiter", "_name", "_reply", "refused_by")

    def __init__(self, limiter: Limiter, name: str, arguments: list[Any]) -> None:
        self._limiter, self._name, self._arguments = limiter, name, arguments
        self._figures: Figures | None = None
        self._charged = 0
        self.refused_by = ""
        """One of `REFUSED_BY`, once `granted` has raised it."""
        self._reply = limiter.redis.begin("EVALSHA", limiter.hash, *arguments)

    async def granted(self) -> None:
        """Return when the request may go on. Raises `UserBlocked`, `RateLimited`, `TrackerUnavailable`."""
        if self._figures is None:
            with redis_errors():
                reply = await self._replied()
            self.refused_by = REFUSED_BY[reply[0]]
            if reply[0] == BLOCKED:
                raise UserBlocked(_blocked(reply[1], self._arguments))
            self._figures = Figures(*reply)
        if self._figures.verdict != GRANTED:
            raise _refusal(self._figures, self._name)

    async def charge(self, more: int) -> None:
        """Count so many requests beside this one, which was granted: all of them or none.

        They may be more than the bucket holds; then the user's next request waits the longer. Raises `RateLimited` when
        the day's quota does not hold them, `TrackerUnavailable`.
        """
        count = self._arguments[0]
        keys, arguments = self._arguments[1 : 1 + count], self._arguments[1 + count :]
        with redis_errors():
            figures = Figures(*await self._limiter.charge(keys=keys, args=[*arguments, more]))
        if figures.verdict != GRANTED:
            self.refused_by = REFUSED_BY[figures.verdict]
            left = figures.quota - figures.used
            why = f"This needs {more} submits more, and {left} are left of your {figures.quota} a day."
            raise RateLimited(why, retry_after=figures.day_left_s)
        self._figures, self._charged = figures, more

    async def refund(self) -> None:
        """Give back what was counted for a submit that made nothing: its places in the day's quota, and what `charge`
        took from the bucket. The request itself stays one of the rate's. Without quota and charge nothing is asked.

        It is a favour: where Redis is away, it is left out and logged.
        """
        figures, more = self._figures, self._charged
        if figures is None or figures.verdict != GRANTED or not (figures.quota or more):
            return
        count = self._arguments[0]
        asked = (figures.interval, figures.quota, 1 + more, more, figures.day_left_s)
        try:
            with redis_errors():
                self._figures = Figures(*await self._limiter.refund(keys=self._arguments[1 : 1 + count], args=asked))
        except ServiceError as error:
            _log.warning("the quota of a refused submit is not given back: %s", error)
        self._charged = 0

    def drop(self) -> None:
        """Nobody waits for the answer any more."""
        if not self._reply.cancel() and not self._reply.cancelled():
            self._reply.exception()  # looked at, so that asyncio does not report it as lost

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10); none before the answer is there."""
        figures = self._figures
        if figures is None:
            return ()
        room = max(BURST_S * SECOND_US, figures.interval)
        policy = _policy(self._name, figures.interval)
        left = max(0, (room - figures.missing) // figures.interval)
        state = f'"{self._name}";r={left};t={_seconds(figures.missing)}'
        if figures.quota:
            policy += f', "{self._name}-per-day";q={figures.quota};w=86400'
            state += f', "{self._name}-per-day";r={max(0, figures.quota - figures.used)};t={figures.day_left_s}'
        return (("RateLimit-Policy", policy), ("RateLimit", state))

    async def _replied(self) -> Any:
        try:
            return await self._reply
        except NoScriptError:  # a Redis that was restarted
            return await self._limiter.redis.execute_command("EVAL", self._limiter.script, *self._arguments)


@lru_cache(maxsize=1024)
def _policy(name: str, interval: int) -> str:
    room = max(BURST_S * SECOND_US, interval)
    return f'"{name}";q={room // interval};w={_seconds(room)}'


def _refusal(figures: Figures, name: str) -> RateLimited:
    """Why not, and after how many seconds: then the request passes unless others were faster."""
    seconds = _seconds(figures.wait)
    if figures.verdict == QUOTA:
        why = f"You may send {figures.quota} submits a day, and have. The next day begins at midnight UTC."
    elif figures.verdict == HOUSE_FULL:
        why = f"All users together send more {name} than the service takes. Try again in {seconds} s."
    else:
        rate = number(SECOND_US / figures.interval)
        why = f"You may send {rate} {name} a second, and a burst at first. Try again in {seconds} s."
    return RateLimited(why, retry_after=seconds)


def _blocked(block: bytes, arguments: list[Any]) -> str:
    owner = arguments[1 + arguments[0]]
    return f"An admin has blocked you: {json.loads(block)['reason']} Ask your facility, and name the id {owner}."


def _interval(per_second: float) -> int:
    return int(SECOND_US / per_second)


def _seconds(microseconds: int) -> int:
    return -(-microseconds // SECOND_US)
