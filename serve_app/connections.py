"""The one way to reach the job Redis: one client per process, a deadline on every command, errors in our words."""

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

from serve_app.errors import StoreFull, TrackerUnavailable
from serve_app.settings import Settings

COMMAND_TIMEOUT_S = 3.0
CONNECT_TIMEOUT_S = 1.0
CANCEL_AGAIN_S = 0.5
OUR_FAULTS: Final = {"ERR", "WRONGTYPE", "NOSCRIPT", "CROSSSLOT", "NOGROUP", "BUSYGROUP", "BUSYKEY", "UNKNOWN"}
"""Codes of error replies to a command that should not have been sent, or to a script that is wrong: defects of ours.
Every other code says that the server, or this account of it, does not do now what it does at other times: READONLY,
MASTERDOWN, LOADING, CLUSTERDOWN, MISCONF, BUSY, NOREPLICAS, NOPERM, NOAUTH, EXECABORT, and what later versions add."""
NOT_OURS: Final = re.compile(
    r"(ERR )?(ACL failure in script|unknown command|max number of (clients|connections)|"
    r"(?!.*script).*\b"
    r"(limit exceeded|not (allowed|permitted|supported|available)|unavailable|refused|timed out|proxy))",
    re.IGNORECASE,
)
"""Replies with the code ERR that are no defect either: commands that an operator or a managed service has taken away, a
full server, a used-up plan, a proxy that does not reach its server."""
OTHER_PRIMARY: Final = {"READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN", "NOAUTH"}
"""Codes after which a new connection may lead elsewhere, or be let in: behind the same name stands another primary."""
_PIPELINED: Final = re.compile(r"""of pipeline caused error: \(['"](.*)""", re.DOTALL)
SAID_AGAIN_S: Final = 60.0
SILENCES = (TimeoutError, builtins.TimeoutError)
UNREACHED: Final = (ConnectionError, TimeoutError, InvalidResponse, AuthenticationWrongNumberOfArgsError)
"""No Redis that lets us in: also what answers in its place, for example HTTP or TLS behind a wrong port."""
GROUP_MAX = 128
"""Commands of one group: enough for every request of a replica, few enough to be answered within one deadline."""
GROUPED_MAX_BYTES = 128 * 1024
"""Most uploads; larger ones would keep the others of their group waiting."""
GROUPS_AT_ONCE = 2
"""A reply may have to wait for the disk; meanwhile others go on."""
ASK_AGAIN_S = 0.25
"""How often a Redis that fell silent is asked whether it answers again."""


_log = logging.getLogger(__name__)


class Script(AsyncScript):
    """A Lua script that is sent by its hash, and whole to a server that does not have it (any more).

    redis-py asks for SCRIPT LOAD then, which managed servers forbid.
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
    """redis-py's client, with scripts that need no right beside EVAL and EVALSHA."""

    def register_script(self, script: Any) -> Script:  # type: ignore[override]  # its signature is for both clients
        return Script(self, script)


class GroupingRedis(JobRedis):
    """A client whose concurrent commands travel together: what is asked for while a group is out goes as the next one.

    Redis answers in order, so one write and one read serve a whole group: a status read takes a gateway 40 % less
    processor time than with a connection for each command. Not for commands that block. Large ones travel alone.

    After one group without a reply in time, commands fail at once until Redis answers a ping.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._waiting: list[_Command] = []
        self._senders: set[asyncio.Task[None]] = set()
        self._silence: asyncio.Task[None] | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """The reply, as redis-py gives it. Who is cancelled while waiting for it has sent the command all the same."""
        if any(isinstance(arg, bytes | str) and len(arg) > GROUPED_MAX_BYTES for arg in args):
            if self._silence is not None:
                raise _silent()
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        options.pop("keys", None)  # redis-py's note to a cache of its own
        return await self.begin(*args, **options)

    def begin(self, *args: Any, **options: Any) -> asyncio.Future[Any]:
        """Send a small command with the next group; its reply, for who has other things to do meanwhile."""
        # Packed here, so that what cannot be sent fails its caller and not the group.
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
            # Not in a callback of the task, which runs later: a command that comes in between would wait for ever.
            if task := asyncio.current_task():
                self._senders.discard(task)

    async def _send_groups(self) -> None:
        """Send what waits, group after group, over one connection. A failure is that of one group's callers, a silence
        that of all who wait."""
        group: list[_Command] = []
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S) as deadline:
                connection = await self.connection_pool.get_connection()  # type: ignore[no-untyped-call]
                # The deadline is the group's: one of each command would be a task and a timer of each.
                connection.socket_timeout, usual = None, connection.socket_timeout
                try:
                    while self._waiting:
                        deadline.reschedule(now() + COMMAND_TIMEOUT_S)
                        group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
                        await self._exchange(connection, group)
                except BaseException:
                    await connection.disconnect(nowait=True)  # replies may still come: nobody else may read them
                    raise
                finally:
                    connection.socket_timeout = usual
                    await self.connection_pool.release(connection)
        except asyncio.CancelledError:  # nobody else sends what this one took
            for command in group:
                command.fail(_closed())
            raise
        except Exception as error:
            silent = isinstance(error, SILENCES)
            failed = group
            if silent or not group:  # without a group, no connection was to be had
                failed, self._waiting = group + self._waiting, []
            if silent and self._silence is None:
                self._silence = asyncio.create_task(self._wait_for_answer())
            for command in failed:
                command.fail(_silent() if silent else error)

    async def _wait_for_answer(self) -> None:
        """Ping until Redis answers, or refuses: then commands are refused as fast."""
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
        """Whoever still waits for a reply is told that there is none."""
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
        """Give the caller the reply in redis-py's shape for this command."""
        if not self.reply.done():
            shape = shapes.get(self.name)
            self.reply.set_result(shape(reply, **self.options) if shape else reply)

    def fail(self, error: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


class _LeavesOldPrimaries(AbstractConnection):
    """A connection that is closed by replies which say that its server is no primary (any more).

    redis-py keeps such a connection: after a failover that left the old server running as a replica, what was connected
    before would be refused for ever.
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
    pool.connection_class = _leaving_old_primaries(pool.connection_class)  # type: ignore[arg-type]  # classes have a hash
    return client.from_pool(pool)


def code_of(error: RedisError) -> str:
    """The first word of an error reply, as Redis names the kind of an error; empty for what is no reply."""
    return error.status_code or _reply_of(error).partition(" ")[0]


def _reply_of(error: RedisError) -> str:
    """redis-py takes the code from replies it has a class for, and puts words before those of a pipeline."""
    text = str(error)
    return found[1] if (found := _PIPELINED.search(text)) else text


def _is_not_now(error: ResponseError) -> bool:
    return code_of(error) not in OUR_FAULTS or bool(NOT_OURS.match(_reply_of(error)))


class _RedisErrors:
    """Not a generator: those cost every command three microseconds."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OutOfMemoryError):
            raise StoreFull("The job Redis is full. Try again in a moment.", retry_after=5) from error
        if isinstance(error, UNREACHED):
            if error.status_code or isinstance(error, InvalidResponse):
                _say(error)
            raise TrackerUnavailable("The job tracker is away. Try again in a moment.", retry_after=2) from error
        if isinstance(error, ResponseError) and _is_not_now(error):
            _say(error)
            raise TrackerUnavailable("The job tracker takes no jobs now. Try again later.", retry_after=5) from error


_ERRORS = _RedisErrors()
_said: dict[str, float] = {}


def _say(error: RedisError) -> None:
    """Why Redis refuses, for operators: once a minute for each code, however many requests meet it."""
    code, now = code_of(error), time.monotonic()
    if now - _said.get(code, -SAID_AGAIN_S) >= SAID_AGAIN_S:
        _said[code] = now
        _log.warning("Redis refuses with %s: %s", code, error)


def redis_errors() -> AbstractContextManager[None]:
    """Turn what redis-py raises when Redis is away, unwilling or full into `TrackerUnavailable` and `StoreFull`.

    What is left is a defect of ours (`OUR_FAULTS`).
    """
    return _ERRORS


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks that use a client, and return when all have ended.

    Once is not enough: redis-py sends by `asyncio.wait_for`, which before Python 3.12 loses a cancellation that meets
    the end of the send (python/cpython#86296), and a task that works for ever would go on.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
