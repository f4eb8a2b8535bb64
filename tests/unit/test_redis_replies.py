"""Which error replies of Redis mean "not now" (503, try again), and which are defects of ours."""

from __future__ import annotations

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import RedisError, ResponseError

from serve_app.connections import redis_errors
from serve_app.errors import StoreFull, TrackerUnavailable

NOT_NOW = (
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "READONLY You can't write against a read only replica.",
    "READONLY You can't write against a read only replica. script: 3a0f, on @user_script:1.",
    "LOADING Redis is loading the dataset in memory",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "MOVED 3999 127.0.0.1:6381",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOPERM User default has no permissions to run the 'evalsha' command",
    "ERR ACL failure in script: User limited has no permissions to run the 'hget' command script: 3a0f",
    "ERR unknown command 'INFO', with args beginning with: 'memory' ",
    "ERR max number of clients reached",
    "EXECABORT Transaction discarded because of previous errors.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "MISCONF Errors writing to the AOF file: No space left on device",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "NOREPLICAS Not enough good replicas to write.",
    "UNKILLABLE Sorry the script already executed write commands against the dataset.",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "DENIED Redis is running in protected mode",
    "IOERR error or timeout reading from target instance",
    "ERR max daily request limit exceeded. Limit: 10000, Usage: 10000.",
    "ERR Connection refused",
    "ERR Connection timed out",
    "ERR Proxy error",
    "ERR command not allowed",
    "ERR wrong number of arguments for 'auth' command",
)
OURS = (
    "ERR This Redis command is not allowed from script script: 3a0f, on @user_script:1.",
    "ERR timeout is not an integer or out of range",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "ERR wrong number of arguments for 'incrby' command",
    "ERR value is not an integer or out of range",
    "ERR user_script:12: attempt to index a nil value script: 3a0f, on @user_script:12.",
    "CROSSSLOT Keys in request don't hash to the same slot",
)


def raised(reply: str, *, in_pipeline: bool = False) -> RedisError:
    error = BaseParser.parse_error(reply)
    if in_pipeline:  # as redis-py annotates it
        error.args = (f"Command # 2 (SET a 1) of pipeline caused error: {error.args}", *error.args[1:])
    return error


@pytest.mark.parametrize("in_pipeline", [False, True])
@pytest.mark.parametrize("reply", NOT_NOW)
def test_a_refusal_of_the_moment_is_503_with_a_time_to_come_back(reply: str, in_pipeline: bool) -> None:
    with pytest.raises(TrackerUnavailable) as refused, redis_errors():
        raise raised(reply, in_pipeline=in_pipeline)
    assert refused.value.retry_after


@pytest.mark.parametrize("reply", OURS)
def test_a_wrong_command_or_script_is_a_defect_and_seen_as_one(reply: str) -> None:
    with pytest.raises(ResponseError), redis_errors():
        raise raised(reply)


@pytest.mark.parametrize("in_pipeline", [False, True])
def test_a_full_redis_is_a_full_store(in_pipeline: bool) -> None:
    with pytest.raises(StoreFull), redis_errors():
        raise raised("OOM command not allowed when used memory > 'maxmemory'.", in_pipeline=in_pipeline)
