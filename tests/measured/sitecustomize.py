"""On the path of `make coverage` alone: in Ray's workers, saves what coverage has measured every second.

Ray ends its workers without Python's own exit, so nothing would be left of a replica's measurement otherwise.
"""

import contextlib
import sys
import threading
import time

import coverage

SAVED_EVERY_S = 1.0


def _save_for_ever(measuring: coverage.Coverage) -> None:
    while True:
        time.sleep(SAVED_EVERY_S)
        with contextlib.suppress(coverage.CoverageException):  # the next turn saves it
            measuring.save()


measuring = getattr(coverage.process_startup, "coverage", None)
if measuring and any(argument.endswith("default_worker.py") for argument in sys.orig_argv):
    threading.Thread(target=_save_for_ever, args=(measuring,), name="coverage", daemon=True).start()
