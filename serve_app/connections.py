"""The one way to reach the job Redis: one client per process, a deadline on every command, errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,  # noqa: A004  redis-py's own, not the builtin
    OutOfMemoryError,
    ReadOnlyError,
    TimeoutError,  # noqa: A004
)

from serve_app.errors import StoreFull, TrackerUnavailable
from serve_app.settings import Settings

COMMAND_TIMEOUT_S = 3.0
CONNECT_TIMEOUT_S = 1.0


def connect_redis(settings: Settings, *, max_connections: int = 64) -> Redis:
    """A client with bytes replies; nothing is sent before the first command.

    `protocol=2` is pinned because replies of the newer one differ in shape. No retries here: who calls decides.
    """
    pool = BlockingConnectionPool.from_url(
        settings.redis_url.get_secret_value(),
        protocol=2,
        max_connections=max_connections,
        timeout=COMMAND_TIMEOUT_S,
        socket_timeout=COMMAND_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
    return Redis.from_pool(pool)


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn what redis-py raises when Redis is away or full into `TrackerUnavailable` and `StoreFull`."""
    try:
        yield
    except OutOfMemoryError as error:
        raise StoreFull("The job Redis is full. Try again in a moment.", retry_after=5) from error
    except (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError) as error:
        raise TrackerUnavailable("The job tracker is away. Try again in a moment.", retry_after=2) from error
