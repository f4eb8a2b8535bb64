"""Where a raw record comes from: every one says it in the same words."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

from benchmark.measure import processors
from serve_app.contracts import Json

ROOT = Path(__file__).resolve().parents[2]


def origin(program: str) -> Json:
    """The command that is running, the revision of the checkout, and the machine."""
    described = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    revision = subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "command": " ".join([program, *sys.argv[1:]]),
        "revision": revision,
        "machine": f"{platform.machine()} with {processors()} processors",
    }
