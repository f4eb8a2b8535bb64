"""Back up the job Redis: ask it for a snapshot, copy the file beside its checksum, drop the oldest copies.

Runs as a Job on the node where the server runs, with the server's volume mounted to read; the snapshot is one moment
of the whole queue, and nothing waits for it. The file `redis-TIME.rdb` is what restore.sh takes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry

WAIT_S = 60.0
"""A new pod may run before the network knows it, and its first connections are refused."""
SNAPSHOT_DEADLINE_S = 1800.0
LEFT_S = 3 * 3600.0
"""Age of an unfinished copy that nobody writes any more."""
CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 30.0
POLL_S = 0.2


def main() -> None:
    """Make one backup. Ends with a message and status 1 when there is none."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("interrupted: no backup was made"))
    target = backup(os.environ["REDIS_URL"], Path(os.environ["DATA"]), Path(os.environ["BACKUPS"]))
    prune(target.parent, int(os.environ["KEEP"]))
    print(f"{target.name}: {target.stat().st_size} bytes")


def backup(url: str, data: Path, backups: Path) -> Path:
    """A snapshot of the server at `url`, which writes into `data`: a file in `backups`, its checksum beside it."""
    for left in backups.glob("redis-*.part"):  # by a run that was killed, not by one that was begun by hand just now
        if time.time() - left.stat().st_mtime > LEFT_S:
            left.unlink()
    wait_for(url, float(os.environ.get("WAIT_S", WAIT_S)))
    with Redis.from_url(url, socket_timeout=COMMAND_TIMEOUT_S, socket_connect_timeout=COMMAND_TIMEOUT_S) as server:
        snapshot(server)
    target = backups / f"redis-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.rdb"
    unfinished = target.with_suffix(".part")
    try:
        shutil.copyfile(data / "dump.rdb", unfinished)
        target.with_suffix(".sha256").write_text(f"{digest(unfinished)}  {target.name}\n")
        unfinished.rename(target)  # last: a backup that has its name is whole
    except BaseException:
        unfinished.unlink(missing_ok=True)
        target.with_suffix(".sha256").unlink(missing_ok=True)
        raise
    return target


def wait_for(url: str, wait_s: float) -> None:
    """Return when the server answers. Ends the program where it refuses the password, or says nothing for `wait_s`."""
    deadline, waits = time.monotonic() + wait_s, False
    limits = {"socket_timeout": CONNECT_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S}
    with Redis.from_url(url, retry=Retry(NoBackoff(), 0), **limits) as server:
        while True:
            try:
                server.ping()
                return
            except AuthenticationError as error:
                sys.exit(f"Redis refuses: {error}")
            except RedisError as error:
                if time.monotonic() >= deadline:
                    sys.exit(
                        f"Redis has not answered within {wait_s:g} s: {error}\n"
                        "Does its pod run, and does a NetworkPolicy let this one connect?"
                    )
                if not waits:
                    print(f"waiting for Redis: {error}", file=sys.stderr, flush=True)
                waits = True
            time.sleep(POLL_S)


def snapshot(server: Redis) -> None:
    """Have the server write `dump.rdb`, and return when it has. A rewrite of its log that is under way goes first."""
    deadline = time.monotonic() + SNAPSHOT_DEADLINE_S
    before = last_save(server)
    while server.time()[0] <= before:  # seconds: two saves within one could not be told apart
        time.sleep(POLL_S)
    server.execute_command("BGSAVE", "SCHEDULE")
    while last_save(server) <= before:
        if time.monotonic() > deadline:
            sys.exit("the server made no snapshot in time")
        if server.info("persistence")["rdb_last_bgsave_status"] != "ok":
            sys.exit("the server could not write its snapshot: see its log, memory and volume")
        time.sleep(POLL_S)


def last_save(server: Redis) -> int:
    """When it last wrote `dump.rdb`, in seconds of its clock."""
    return int(server.info("persistence")["rdb_last_save_time"])


def digest(path: Path) -> str:
    """The file's SHA-256, as sha256sum writes it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prune(backups: Path, keep: int) -> None:
    """Leave the newest `keep`; their names sort by time."""
    for old in sorted(backups.glob("redis-*.rdb"))[:-keep]:
        old.with_suffix(".sha256").unlink(missing_ok=True)
        old.unlink()


if __name__ == "__main__":
    main()
