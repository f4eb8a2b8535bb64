"""The most memory that this process really held, as the kernel counts it: tracemalloc sees nothing of C libraries."""

from __future__ import annotations

from pathlib import Path


def forget() -> None:
    """Count from what is held now (Linux, proc(5))."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def mib(name: str = "VmHWM") -> float:
    """The peak since the process began or `forget`; with `VmRSS` what is held now."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))
