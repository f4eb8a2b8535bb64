"""The last thing a process does that was told to end (SIGTERM): what it has claimed waits again at once.

Ray answers SIGTERM by letting running calls finish and then leaving Python. The event loop is gone before exit handlers
run, and with it the dispatchers; so this is one blocking connection, with a deadline. After `kill -9` the leases do it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from redis import Redis
from redis.exceptions import RedisError

from serve_app.connections import CONNECT_TIMEOUT_S
from serve_app.jobs.dispatch.dispatcher import Dispatcher
from serve_app.jobs.scripts import script_text
from serve_app.settings import Settings

REPLY_S = 2.0

logger = logging.getLogger(__name__)


def give_back_claimed(settings: Settings, dispatchers: Sequence[Dispatcher]) -> None:
    """Give back the jobs of every chunk that is still out, and the chunks' places. Without Redis: their leases end."""
    chunks = [chunk for dispatcher in dispatchers for chunk in dispatcher.claimed]
    if not chunks:
        return
    try:
        with Redis.from_url(
            settings.redis_url.get_secret_value(),
            protocol=2,
            socket_timeout=REPLY_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
        ) as redis:
            for chunk in chunks:
                ids = [task.job_id for task in chunk.tasks]
                redis.eval(script_text(settings, "give_back"), 0, chunk.token, *ids)
                redis.eval(script_text(settings, "close_chunk"), 0, chunk.model, chunk.token)
    except RedisError as error:
        logger.warning("%d claimed chunks are left to their leases: %r", len(chunks), error)
