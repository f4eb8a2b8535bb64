"""Runs the tests of `image_store_outages.py` in a process of their own: a second Ray in one process does not deploy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).with_name("image_store_outages.py")


@pytest.mark.fault(reason="a Ray of its own, in a process of its own")
@pytest.mark.timeout(560)
def test_the_whole_path_with_a_bucket_and_its_outages() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--show-capture=no", str(TESTS)]
    root = TESTS.parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "5 passed" in done.stdout, done.stdout[-5000:]
