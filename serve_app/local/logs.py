"""The logs of a run in a folder of its own, which stays when the run has ended; the oldest runs' go."""

from __future__ import annotations

import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

RUNS_KEPT: Final = 5
KEPT_MAX_BYTES: Final = 200 * 1024 * 1024
"""Of one run's Ray logs: the newest files up to this size."""


def new_run(state: Path) -> Path:
    """A new folder below `state` for the logs of the run that begins now; with it `RUNS_KEPT` stay."""
    runs = state / "logs"
    runs.mkdir(mode=0o700, exist_ok=True)
    for old in sorted(runs.iterdir(), reverse=True)[RUNS_KEPT - 1 :]:
        shutil.rmtree(old, ignore_errors=True)
    folder = runs / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    folder.mkdir(mode=0o700)
    return folder


def keep(source: Path, target: Path) -> None:
    """Copy the files below `source` to `target`, the newest first, up to `KEPT_MAX_BYTES`. What cannot be read or
    written is left out: the end of a run must not fail for its logs."""
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
