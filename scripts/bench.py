"""`make bench`: what the service costs beside bare parts, as ratios taken in one run.

Starts an instance of its own (HAProxy mode on Linux), measures each figure in alternating repetitions, writes every
repetition to build/bench.json and prints one line per figure: `name value target ok|short`. Ends with 1 when one is
short.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from benchmark import corpus, figures, measure  # noqa: E402  the folder is no package of the project
from benchmark.instance import MODE, Instance  # noqa: E402
from benchmark.origin import origin  # noqa: E402

from serve_app.local.guard import guarded  # noqa: E402
from serve_app.local.server import free_port  # noqa: E402

BUILD = ROOT / "build"


def main() -> int:
    """Measure, write, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--images", type=int, default=200, help="jobs of one burst")
    parser.add_argument("--requests", type=int, default=2000, help="requests of one run of the load client")
    options = parser.parse_args()
    raw: dict[str, list[float]] = defaultdict(list)
    details: dict[str, list[object]] = defaultdict(list)
    started = time.time()
    pictures = corpus.pictures(BUILD / "bench" / "pictures", options.images)
    corpus.snapshot(BUILD / "bench" / "models")
    with tempfile.TemporaryDirectory(prefix="semapi-bench-") as folder, _bare_routes() as bare_port:
        Path(folder).chmod(0o711)
        with Instance(Path(folder), BUILD / "bench" / "models") as instance:
            print(f"# mode: {MODE}, {platform.machine()}, {measure.processors()} processors", flush=True)
            for repetition in range(options.repetitions):
                print(f"# repetition {repetition + 1} of {options.repetitions}", flush=True)
                run = measure.Run(instance, bare_port, pictures, options.requests, raw, details)
                asyncio.run(run.all())
    document = {
        **origin("make bench"),
        "mode": MODE,
        "started_at": started,
        "seconds": time.time() - started,
        "options": vars(options),
        "units": "ratios, unless the name ends in a unit",
        "figures": raw,
        "details": details,
    }
    (BUILD / "bench.json").write_text(json.dumps(document, indent=1))
    return _report(json.loads((BUILD / "bench.json").read_text())["figures"])


def _report(raw: dict[str, list[float]]) -> int:
    found = figures.figures(raw)
    for figure in found:
        print(figure.spread)
    for figure in found:
        print(figure.line)
    return int(any(figure.is_short for figure in found))


@contextmanager
def _bare_routes() -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "benchmark.bare", "routes", str(port)]
    family = guarded(command, measure.script_environment(), None, cwd=ROOT / "scripts")
    try:
        asyncio.run(measure.wait_for_port(port))
        yield port
    finally:
        family.terminate()
        family.communicate(timeout=30)


if __name__ == "__main__":
    sys.exit(main())
