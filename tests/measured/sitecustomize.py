"""On the path of `make coverage` alone: saves what a process has measured every second.

Ray ends its workers without Python's own exit, so nothing would be left of a replica's measurement otherwise.
"""

import threading
import time

import coverage

SAVED_EVERY_S = 1.0


def _save_for_ever(measuring: coverage.Coverage) -> None:
    while True:
        time.sleep(SAVED_EVERY_S)
        measuring.save()


if measuring := getattr(coverage.process_startup, "coverage", None):
    threading.Thread(target=_save_for_ever, args=(measuring,), name="coverage", daemon=True).start()
