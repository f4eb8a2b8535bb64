#!/usr/bin/env python3
"""`semapi usage` under the name of the source system's report, with its flags: `[summary|report|json]` and options."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serve_app.cli.usage import commands

if __name__ == "__main__":
    commands(prog_name="usage_report.py")
