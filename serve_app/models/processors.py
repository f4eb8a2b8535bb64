"""How many processors this replica really has, and at which priority it may use them."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def processors() -> int:
    """Processors this process may use: its affinity, cut to the container's quota (cgroup v2), at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP_QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return count
    if quota == "max":
        return count
    return max(1, min(count, math.ceil(int(quota) / int(period))))


def lower_thread_priority(steps: int) -> None:
    """Make the calling thread nicer by `steps`; threads it starts later inherit that (Linux keeps it per thread).

    Elsewhere niceness belongs to the whole process, which also answers health checks: nothing is done there.
    """
    if os.uname().sysname == "Linux":
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + steps
        os.setpriority(os.PRIO_PROCESS, thread, min(niceness, 19))
