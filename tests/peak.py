"""The most memory that this process really held, as the kernel counts it: tracemalloc sees nothing of C libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def forget() -> None:
    """Count from what is held now (Linux, proc(5))."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def mib(name: str = "VmHWM") -> float:
    """The peak since the process began or `forget`; with `VmRSS` what is held now."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def measured(function: Callable[..., object], *args: object) -> tuple[object, float]:
    """What the function gave or raised, and by how many MiB the peak rose above what was held before."""
    forget()
    before = mib("VmRSS")
    try:
        answer = function(*args)
    except Exception as error:
        answer = error
    return answer, mib() - before
