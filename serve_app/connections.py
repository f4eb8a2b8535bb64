"""The only way to reach the job Redis: one client per process, a deadline on every command, and our own errors."""

from __future__ import annotations

import asyncio
import builtins
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import hiredis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    AuthenticationWrongNumberOfArgsError,
    ConnectionError,  # noqa: A004  redis-py's own, not the builtin
    InvalidResponse,
    NoScriptError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004
)

from serve_app.errors import CapacityError, StoreFull, TrackerUnavailable
from serve_app.settings import Settings

COMMAND_TIMEOUT_S = 3.0
CONNECT_TIMEOUT_S = 2.0
"""Deadline of a connection. TCP sends a lost SYN again after one second (RFC 6298), so a deadline of one second fails
on a single lost packet. COMMAND_TIMEOUT_S must be longer: a group of commands connects within it."""
CANCEL_AGAIN_S = 0.5
OUR_FAULTS: Final = {"ERR", "WRONGTYPE", "NOSCRIPT", "CROSSSLOT", "NOGROUP", "BUSYGROUP", "BUSYKEY", "UNKNOWN"}
"""Codes of error replies to invalid commands or faulty scripts: bugs of ours. All other codes mean that the server or
the account cannot do it at the moment: READONLY, MASTERDOWN, LOADING, CLUSTERDOWN, MISCONF, BUSY, NOREPLICAS, NOPERM,
NOAUTH, EXECABORT, and codes of later versions."""
NOT_OURS: Final = re.compile(
    r"(ERR )?(ACL failure in script|unknown command|max number of (clients|connections)|"
    r"(?!.*script).*\b"
    r"(limit exceeded|not (allowed|permitted|supported|available)|unavailable|refused|timed out|proxy))",
    re.IGNORECASE,
)
"""Replies with the code ERR that are not bugs either: commands disabled by an operator or a managed service, a full
server, an exhausted plan, a proxy that cannot reach its server."""
OTHER_PRIMARY: Final = {"READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN", "NOAUTH"}
"""Codes after which a new connection may reach another primary under the same name, or be authorised."""
_PIPELINED: Final = re.compile(r"""of pipeline caused error: \(['"](.*)""", re.DOTALL)
LOG_AGAIN_S: Final = 60.0
SILENCES = (TimeoutError, builtins.TimeoutError)
UNREACHED: Final = (ConnectionError, TimeoutError, InvalidResponse, AuthenticationWrongNumberOfArgsError)
"""No Redis that we can use, or another server in its place, for example HTTP or TLS on a wrong port."""
GROUP_MAX = 128
"""Most commands of one group: enough for all requests of a replica, few enough to be answered within one deadline."""
GROUPED_MAX_BYTES = 128 * 1024
"""Largest command in a group; a larger one would delay the rest of its group."""
GROUPS_AT_ONCE = 2
"""Concurrent groups: while one waits for Redis' disk another can go on."""
ASK_AGAIN_S = 0.25
"""Interval of pings to a Redis that stopped answering."""


_log = logging.getLogger(__name__)


class Script(AsyncScript):
    """A Lua script that is sent by its hash, and as a whole if the server does not have it.

    redis-py would use SCRIPT LOAD then, which managed servers forbid.
    """

    async def __call__(self, keys: Any = None, args: Any = None, client: Any = None) -> Any:
        """The reply."""
        keys, redis = tuple(keys or ()), client or self.registered_client
        words = (len(keys), *keys, *(args or ()))
        try:
            return await redis.evalsha(self.sha, *words)
        except NoScriptError:
            return await redis.eval(str(self.script), *words)


class JobRedis(Redis):
    """redis-py's client, with scripts that need no permission besides EVAL and EVALSHA."""

    def register_script(self, script: Any) -> Script:  # type: ignore[override]  # its signature is for both clients
        return Script(self, script)


class GroupingRedis(JobRedis):
    """A client that groups concurrent commands: those that arrive while a group is in flight form the next one.

    Redis answers in order, so one write and one read serve a whole group: a status read takes a gateway 40 % less
    processor time than with a connection for each command. Not for blocking commands. Large ones are sent alone.

    After one timeout, commands fail fast until a ping succeeds.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._waiting: list[_Command] = []
        self._senders: set[asyncio.Task[None]] = set()
        self._silence: asyncio.Task[None] | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """The reply, as redis-py returns it. A command is sent even if its caller is cancelled while waiting."""
        if any(isinstance(arg, bytes | str) and len(arg) > GROUPED_MAX_BYTES for arg in args):
            if self._silence is not None:
                raise _silent()
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        options.pop("keys", None)  # only for redis-py's client-side cache
        return await self.begin(*args, **options)

    def begin(self, *args: Any, **options: Any) -> asyncio.Future[Any]:
        """Send a small command with the next group; returns its reply as a future."""
        # Encode here: an encoding error must not fail the whole group.
        packed = hiredis.pack_command((*args[0].split(), *args[1:]))
        command = _Command(args[0], packed, options, asyncio.get_running_loop().create_future())
        if self._silence is not None:
            command.fail(_silent())
            return command.reply
        self._waiting.append(command)
        if len(self._senders) < GROUPS_AT_ONCE:
            sender = asyncio.create_task(self._send())
            self._senders.add(sender)
        return command.reply

    async def _send(self) -> None:
        try:
            while self._waiting:
                await self._send_groups()
        finally:
            # Not in a done callback, which runs later: a command that arrives before it would never be sent.
            if task := asyncio.current_task():
                self._senders.discard(task)

    async def _send_groups(self) -> None:
        """Send the waiting commands, group by group, over one connection. An error fails one group, a timeout fails all
        waiting commands."""
        group: list[_Command] = []
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S) as deadline:
                connection = await self.connection_pool.get_connection()  # type: ignore[no-untyped-call]
                # One deadline for the group: one per command would need a task and a timer each.
                connection.socket_timeout, usual = None, connection.socket_timeout
                try:
                    while self._waiting:
                        deadline.reschedule(now() + COMMAND_TIMEOUT_S)
                        group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
                        await self._exchange(connection, group)
                except BaseException:
                    await connection.disconnect(nowait=True)  # late replies must not reach another command
                    raise
                finally:
                    connection.socket_timeout = usual
                    await self.connection_pool.release(connection)
        except asyncio.CancelledError:  # nothing else would send this group
            for command in group:
                command.fail(_closed())
            raise
        except Exception as error:
            silent = isinstance(error, SILENCES)
            failed = group
            if silent or not group:  # without a group, there was no connection
                failed, self._waiting = group + self._waiting, []
            if silent and self._silence is None:
                self._silence = asyncio.create_task(self._wait_for_answer())
            for command in failed:
                command.fail(_silent() if silent else error)

    async def _wait_for_answer(self) -> None:
        """Ping until Redis answers or refuses; from then on commands get its answers."""
        with suppress(Exception):
            while not await self._answers():  # noqa: ASYNC110  Redis sets no event
                await asyncio.sleep(ASK_AGAIN_S)
        self._silence = None

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await super().execute_command("PING")  # type: ignore[no-untyped-call]
        except SILENCES:
            return False
        return True

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close; commands without a reply fail."""
        await end_tasks([*self._senders, *([self._silence] if self._silence else [])])
        unsent, self._waiting = self._waiting, []
        for command in unsent:
            command.fail(_closed())
        await super().aclose(close_connection_pool)

    async def _exchange(self, connection: AbstractConnection, group: list[_Command]) -> None:
        await connection.send_packed_command([command.packed for command in group], check_health=False)
        for command in group:
            try:
                command.answer(await connection.read_response(), self.response_callbacks)
            except ResponseError as error:
                command.fail(error)


def _closed() -> ConnectionError:
    return ConnectionError("the client was closed before the reply came")


def _silent() -> TimeoutError:
    return TimeoutError("no reply in time")


@dataclass(frozen=True, slots=True)
class _Command:
    name: str
    packed: bytes
    options: dict[str, Any]
    reply: asyncio.Future[Any]

    def answer(self, reply: Any, shapes: Mapping[Any, Callable[..., Any]]) -> None:
        """Return the reply in redis-py's form for this command."""
        if not self.reply.done():
            shape = shapes.get(self.name)
            self.reply.set_result(shape(reply, **self.options) if shape else reply)

    def fail(self, error: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


class _LeavesOldPrimaries(AbstractConnection):
    """A connection that closes when a reply says that its server is not a primary.

    redis-py keeps such a connection: after a failover that leaves the old server running as a replica, old connections
    would be refused forever.
    """

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except RedisError as error:
            if code_of(error) in OTHER_PRIMARY:
                await self.disconnect(nowait=True)
            raise


@cache
def _leaving_old_primaries(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    return type(f"LeavesOldPrimaries{kind.__name__}", (_LeavesOldPrimaries, kind), {})


def connect_redis(settings: Settings, *, client: type[Redis] = JobRedis, max_connections: int = 64) -> Redis:
    """A client with bytes replies; nothing is sent before the first command.

    `protocol=2` is pinned because replies of the newer protocol differ in form. No retries: the caller decides.
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
    pool.connection_class = _leaving_old_primaries(pool.connection_class)  # type: ignore[arg-type]  # classes have a hash
    return client.from_pool(pool)


def code_of(error: RedisError) -> str:
    """The code of an error reply, its first word; empty for other errors."""
    return error.status_code or _reply_of(error).partition(" ")[0]


def _reply_of(error: RedisError) -> str:
    """The reply's text. redis-py removes the code from known errors, and prefixes errors of a pipeline."""
    text = str(error)
    return found[1] if (found := _PIPELINED.search(text)) else text


def _is_not_now(error: ResponseError) -> bool:
    return code_of(error) not in OUR_FAULTS or bool(NOT_OURS.match(_reply_of(error)))


def tracker_unreachable() -> CapacityError:
    """The error of a Redis that does not answer."""
    return TrackerUnavailable("The job tracker cannot be reached. Try again in a moment.", retry_after=2)


class _RedisErrors:
    """A class, because a generator would cost every command three microseconds."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OutOfMemoryError):
            raise StoreFull("The job Redis is full. Try again in a moment.", retry_after=5) from error
        if isinstance(error, UNREACHED):
            if error.status_code or isinstance(error, InvalidResponse):
                _log_refusal(error)
            raise tracker_unreachable() from error
        if isinstance(error, ResponseError) and _is_not_now(error):
            _log_refusal(error)
            raise TrackerUnavailable("The job tracker takes no jobs now. Try again later.", retry_after=5) from error


_ERRORS = _RedisErrors()
_logged_at: dict[str, float] = {}


def _log_refusal(error: RedisError) -> None:
    """Log why Redis refuses, at most once a minute for each code."""
    code, now = code_of(error), time.monotonic()
    if now - _logged_at.get(code, -LOG_AGAIN_S) >= LOG_AGAIN_S:
        _logged_at[code] = now
        _log.warning("Redis refuses with %s: %s", code, error)


def redis_errors() -> AbstractContextManager[None]:
    """Turn redis-py's errors for a Redis that is down, refuses or is full into `TrackerUnavailable` and `StoreFull`.

    Other errors are bugs of ours (`OUR_FAULTS`).
    """
    return _ERRORS


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks that use a client, and return when all have ended.

    Cancels repeatedly: redis-py sends with `asyncio.wait_for`, which before Python 3.12 loses a cancellation that
    coincides with the end of the send (python/cpython#86296), and an endless task would go on.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
