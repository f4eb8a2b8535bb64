"""Rate limits: token buckets and a daily quota for each user and for all users together, blocks and overrides by
admins, and limits on concurrent requests.

The buckets of all gateway replicas are one script, which decides before a request costs anything else. Only for reads
whose row says `overlaps` it is sent in the same group of commands as the read and costs no round trip of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from serve_app import keyspace
from serve_app.connections import GroupingRedis, redis_errors
from serve_app.contracts import AuditEvent, Json, Principal
from serve_app.errors import DecisionsFull, DecisionUnknown, RateLimited, ServiceError, UserBlocked
from serve_app.gateway.audit import AuditContext
from serve_app.keyspace import LIMITS_BLOCKS, LIMITS_OVERRIDES, OUTBOX, RATE_READ, RATE_SUBMIT
from serve_app.lua import read_script
from serve_app.settings import Settings
from serve_app.texts import number

ALL_USERS: Final = "house"
"""The owner of the buckets that all users share, as it is in Redis keys."""
BUCKETS: Final = {"submit": RATE_SUBMIT, "read": RATE_READ}
DECISIONS_MAX: Final = 1000
"""Most blocks, and most overrides: admins make these decisions by hand, one by one."""
TABLES: Final[Mapping[str, str]] = {"block": LIMITS_BLOCKS(), "override": LIMITS_OVERRIDES()}

RateClass = Literal["submit", "read", "admin"]
"""The class in which a request counts. Requests to admin routes count as the admin's own reads, not against all users'
limit, so that admins can act during an overload."""
DecisionKind = Literal["block", "override"]

BURST_S: Final = 2
"""Seconds' worth of requests in a full bucket: the burst."""
SECOND_US: Final = 1_000_000
GRANTED, USER, GLOBAL_LIMIT, QUOTA, BLOCKED = range(5)
REFUSED_BY: Final = ("", "user", "house", "quota", "block")
"""The limit that refuses, by verdict."""

_log = logging.getLogger(__name__)


class Reply(NamedTuple):
    """The script's reply, times in microseconds."""

    verdict: int
    wait: int
    missing: int
    """How far the user's bucket is from full."""
    interval: int
    quota: int
    used: int
    day_left_s: int


class Limiter:
    """Runs the script. One per gateway replica."""

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

    def ask(self, principal: Principal, rate_class: RateClass) -> Admission:
        """Check one request of the principal's; the answer comes with Redis' next replies."""
        bucket = "submit" if rate_class == "submit" else "read"
        own, shared = self._intervals[bucket]
        keys = [*TABLES.values(), BUCKETS[bucket](owner=principal.id), keyspace.QUOTA(owner=principal.id)]
        if rate_class != "admin":
            keys.append(BUCKETS[bucket](owner=ALL_USERS))
        quota = self._quota_of(principal) if rate_class == "submit" else 0
        return Admission(self, f"{bucket}s", [len(keys), *keys, principal.id, f"{bucket}s_per_s", own, quota, shared])

    def _quota_of(self, principal: Principal) -> int:
        """A user's daily quota: the highest of the user's roles, else the general one."""
        if not self._role_quotas:
            return self._quota
        quotas = [self._role_quotas[role] for role in principal.roles if role in self._role_quotas]
        return 0 if 0 in quotas else max(quotas, default=self._quota)


class Admission:
    """The limiter's answer to one request, pending or received."""

    __slots__ = ("_arguments", "_charged", "_limiter", "_name", "_reply", "_verdict", "refused_by")

    def __init__(self, limiter: Limiter, name: str, arguments: list[Any]) -> None:
        self._limiter, self._name, self._arguments = limiter, name, arguments
        self._verdict: Reply | None = None
        self._charged = 0
        self.refused_by = ""
        """One of `REFUSED_BY`, after `granted` has raised."""
        self._reply = limiter.redis.begin("EVALSHA", limiter.hash, *arguments)

    async def granted(self) -> None:
        """Return when the request may go on. Raises `UserBlocked`, `RateLimited`, `TrackerUnavailable`."""
        if self._verdict is None:
            with redis_errors():
                reply = await self._replied()
            self.refused_by = REFUSED_BY[reply[0]]
            if reply[0] == BLOCKED:
                raise UserBlocked(_blocked(reply[1], self._arguments))
            self._verdict = Reply(*reply)
        if self._verdict.verdict != GRANTED:
            raise _refusal(self._verdict, self._name)

    async def charge(self, more: int) -> None:
        """Count that many more requests in addition to this granted one: all of them or none.

        They may exceed the bucket; then the user's next request waits longer. Raises `RateLimited` when they exceed the
        day's quota, and `TrackerUnavailable`.
        """
        count = self._arguments[0]
        keys, arguments = self._arguments[1 : 1 + count], self._arguments[1 + count :]
        with redis_errors():
            reply = Reply(*await self._limiter.charge(keys=keys, args=[*arguments, more]))
        if reply.verdict != GRANTED:
            self.refused_by = REFUSED_BY[reply.verdict]
            left = reply.quota - reply.used
            why = f"This needs {more} submits more, and {left} are left of your {reply.quota} a day."
            raise RateLimited(why, retry_after=reply.day_left_s)
        self._verdict, self._charged = reply, more

    async def refund(self) -> None:
        """Give back the charge of a submit that created nothing: its part of the day's quota, and what `charge` took
        from the bucket.

        The request itself still counts against the rate. Without quota and charge Redis is not asked. If Redis is down,
        the refund is skipped and logged.
        """
        reply, more = self._verdict, self._charged
        if reply is None or reply.verdict != GRANTED or not (reply.quota or more):
            return
        count = self._arguments[0]
        asked = (reply.interval, reply.quota, 1 + more, more, reply.day_left_s)
        try:
            with redis_errors():
                self._verdict = Reply(*await self._limiter.refund(keys=self._arguments[1 : 1 + count], args=asked))
        except ServiceError as error:
            _log.warning("the quota of a refused submit is not given back: %s", error)
        self._charged = 0

    def drop(self) -> None:
        """Ignore the answer: nobody waits for it any more."""
        if not self._reply.cancel() and not self._reply.cancelled():
            self._reply.exception()  # retrieved, so that asyncio does not report it as lost

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10); none before the answer has come."""
        reply = self._verdict
        if reply is None:
            return ()
        room = max(BURST_S * SECOND_US, reply.interval)
        policy = _policy(self._name, reply.interval)
        left = max(0, (room - reply.missing) // reply.interval)
        state = f'"{self._name}";r={left};t={_seconds(reply.missing)}'
        if reply.quota:
            policy += f', "{self._name}-per-day";q={reply.quota};w=86400'
            state += f', "{self._name}-per-day";r={max(0, reply.quota - reply.used)};t={reply.day_left_s}'
        return (("RateLimit-Policy", policy), ("RateLimit", state))

    async def _replied(self) -> Any:
        try:
            return await self._reply
        except NoScriptError:  # Redis was restarted
            return await self._limiter.redis.execute_command("EVAL", self._limiter.script, *self._arguments)


@lru_cache(maxsize=1024)
def _policy(name: str, interval: int) -> str:
    room = max(BURST_S * SECOND_US, interval)
    return f'"{name}";q={room // interval};w={_seconds(room)}'


def _refusal(reply: Reply, name: str) -> ServiceError:
    """The reason, and the seconds after which the request passes unless others come first."""
    seconds = _seconds(reply.wait)
    if reply.verdict == QUOTA:
        why = f"You may send {reply.quota} submits a day, and have. The next day begins at midnight UTC."
    elif reply.verdict == GLOBAL_LIMIT:
        why = f"All users together send more {name} than the service takes. Try again in {seconds} s."
    else:
        rate = number(SECOND_US / reply.interval)
        why = f"You may send {rate} {name} a second, and a burst at first. Try again in {seconds} s."
    return RateLimited(why, retry_after=seconds)


def _blocked(block: bytes, arguments: list[Any]) -> str:
    owner = arguments[1 + arguments[0]]
    return f"An admin has blocked you: {json.loads(block)['reason']} Ask your facility, and name the id {owner}."


def _interval(per_second: float) -> int:
    return int(SECOND_US / per_second)


def _seconds(microseconds: int) -> int:
    return -(-microseconds // SECOND_US)


class Decisions:
    """Blocks and overrides in Redis. Each change is written together with its audit event or not at all.

    Every method raises `TrackerUnavailable` when Redis is down.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._decide = redis.register_script(read_script(__package__, "decide"))

    async def keep(self, kind: DecisionKind, owner: str, decision: Json, context: AuditContext) -> Json:
        """Set a decision, in place of the last one, and return it as stored. Raises `DecisionsFull`."""
        event = context.event(kind, owner, decision)
        kept = context.with_author(decision, event)
        if await self._change(kind, owner, json.dumps(kept), event) == b"full":
            raise DecisionsFull(f"There are {DECISIONS_MAX} already. Remove some that are no longer needed.")
        return {"principal_id": owner, **kept}

    async def remove(self, kind: DecisionKind, owner: str, context: AuditContext) -> None:
        """Remove a decision. Raises `DecisionUnknown`."""
        event = context.event(f"remove-{kind}", owner)
        if await self._change(kind, owner, "", event) == b"unknown":
            raise DecisionUnknown(f"There is no {kind} of this principal id.")

    async def listed(self, kind: DecisionKind) -> list[Json]:
        """All decisions in force, the newest first."""
        with redis_errors():
            found: Any = await self._redis.hgetall(TABLES[kind])
        kept = [{"principal_id": owner.decode(), **json.loads(decision)} for owner, decision in found.items()]
        return sorted(kept, key=lambda decision: -decision["at"])

    async def _change(self, kind: DecisionKind, owner: str, decision: str, event: AuditEvent) -> bytes:
        args = (DECISIONS_MAX, owner, decision, *event.pairs())
        with redis_errors():
            done: bytes = await self._decide(keys=(TABLES[kind], OUTBOX()), args=args)
        return done


class ConcurrencyLimit:
    """Limits the concurrent requests of a kind, in total and per user, so that they leave room for others."""

    def __init__(self, limit: int, limit_per_user: int) -> None:
        self._limit, self._limit_per_user = limit, limit_per_user
        self.taken: Counter[str] = Counter()
        """By principal id."""

    @contextmanager
    def take(self, owner: str) -> Iterator[bool]:
        """Hold a place inside the block; False if none is free, in total or for this user."""
        free = self.taken.total() < self._limit and self.taken[owner] < self._limit_per_user
        self.taken[owner] += free
        try:
            yield free
        finally:
            self.taken[owner] -= free
            if not self.taken[owner]:
                del self.taken[owner]
