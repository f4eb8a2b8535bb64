"""Where the local servers keep data and logs, who may read them, and the lock that one run holds on the folder."""

from __future__ import annotations

import fcntl
import os
import pwd
import secrets
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

from serve_app.contracts import SERVICE_NAME

SERVICE_ACCOUNT = "nobody"
RUNS_KEPT: Final = 5
KEPT_MAX_BYTES: Final = 200 * 1024 * 1024
"""Ray's newest log files of one run are kept up to this size."""


class LocalError(Exception):
    """A local server cannot run; the message tells the user what to do."""


def state_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """SEMAPI_STATE_DIR, else /var/lib/<service> for root, else ~/.local/state/<service>. Created if missing."""
    if named := environ.get("SEMAPI_STATE_DIR"):
        folder = Path(named).absolute()
    elif os.geteuid() == 0:
        folder = Path("/var/lib") / SERVICE_NAME
    else:
        folder = Path.home() / ".local" / "state" / SERVICE_NAME
    make_folder(folder)
    return folder


def make_folder(folder: Path) -> None:
    """Create `folder` for us only: 0700, or 0711 as root, because the servers then run as `nobody` and must traverse
    it.

    An existing folder is never changed, but refused if others could write to it.
    """
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
        found = folder.stat()
    except OSError as error:
        raise LocalError(f"{folder} cannot be made: {error.strerror}; choose another SEMAPI_STATE_DIR.") from error
    if not stat.S_ISDIR(found.st_mode):
        raise LocalError(f"{folder} is not a folder; choose another SEMAPI_STATE_DIR.")
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise LocalError(f"{folder} must belong to you and be writable by you alone; choose another SEMAPI_STATE_DIR.")


def lock_folder(folder: Path) -> TextIO:
    """Lock `folder` until the returned file is closed or this process ends. Raises LocalError if another run holds
    it."""
    path = folder / "lock"
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = file.read().strip() or "unknown"
        file.close()
        raise LocalError(f"{folder} is in use by process {holder}; stop it first or set SEMAPI_STATE_DIR.") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def service_account() -> pwd.struct_passwd | None:
    """The account that servers run as: `nobody` if we are root (PostgreSQL refuses root), else None for our own."""
    return pwd.getpwnam(SERVICE_ACCOUNT) if os.geteuid() == 0 else None


def give_to_service(path: Path) -> None:
    """Make the service account the owner of `path`."""
    if account := service_account():
        os.chown(path, account.pw_uid, account.pw_gid)


def refuse_unreachable(folder: Path) -> None:
    """As root, refuse a folder that the service account cannot reach; PostgreSQL would only say 'permission denied'."""
    account = service_account()
    if account is None:
        return
    for step in (folder.resolve(), *folder.resolve().parents):
        found = step.stat()
        if not found.st_mode & 0o001 and found.st_uid != account.pw_uid:
            raise LocalError(
                f"{folder} cannot be reached by {SERVICE_ACCOUNT}: run `chmod o+x {step}` or choose another."
            )


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, atomically."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


def password(path: Path) -> str:
    """The random password in the file `path` (0600), created by the first call."""
    if not path.exists():
        write_private(path, secrets.token_hex(24) + "\n")
    return path.read_text().strip()


def new_run(state: Path) -> Path:
    """Create a folder below `state` for the logs of a new run; `RUNS_KEPT` folders are kept, including it."""
    runs = state / "logs"
    runs.mkdir(mode=0o700, exist_ok=True)
    for old in sorted(runs.iterdir(), reverse=True)[RUNS_KEPT - 1 :]:
        shutil.rmtree(old, ignore_errors=True)
    folder = runs / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    folder.mkdir(mode=0o700)
    return folder


def keep(source: Path, target: Path) -> None:
    """Copy the files below `source` to `target`, newest first, up to `KEPT_MAX_BYTES`. Errors are ignored: the end of a
    run must not fail because of its logs."""
    left = KEPT_MAX_BYTES
    with suppress(OSError):
        files = [(file.stat(), file) for file in source.rglob("*") if file.is_file() and not file.is_symlink()]
        for found, file in sorted(files, key=lambda pair: pair[0].st_mtime, reverse=True):
            left -= found.st_size
            if left < 0:
                return
            copy = target / file.relative_to(source)
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copy2(file, copy)
