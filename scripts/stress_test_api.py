"""Stress test of a running service: many requests by several users at once, and what became of them.

Without --image and --image-url the sample pictures of this repository are uploaded. Ends with 0 when every request
succeeded, with 1 when one failed: no answer in time, HTTP 400 or above, or, with --poll, a job that did not complete.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from load.stress import PATHS, Plan, Stress, StressError

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "serve_app" / "samples"
REQUESTS_MAX = 1_000_000
CONCURRENCY_MAX = 1000
TIMEOUT_MAX_S = 600.0
IMAGES_MAX_BYTES = 256 * 1024 * 1024
"""All pictures together: they are read once and kept."""
INTERRUPTED = 130

Number = TypeVar("Number", int, float)


def read_plan(arguments: Sequence[str] | None = None) -> Plan:
    """The plan that a command line asks for; ends with 2 and a reason for one that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Help)
    parser.add_argument("--base-url", default="http://localhost:8080", help="where the service answers")
    parser.add_argument("--mock-token-url", default="http://localhost:18080/default/token", help="development issuer")
    parser.add_argument("--users", default="alice,bob,charlie", help="who asks, in turns")
    parser.add_argument("--requests", type=_within(int, 1, REQUESTS_MAX), default=30, help="how many in all")
    parser.add_argument("--concurrency", type=_within(int, 1, CONCURRENCY_MAX), default=5, help="how many at once")
    parser.add_argument("--mode", choices=[*PATHS, "mixed"], default="mixed", help="mixed: by chance one of the others")
    parser.add_argument("--poll", action="store_true", help="wait for the end of every submitted job")
    parser.add_argument("--timeout", type=_within(float, 0.001, TIMEOUT_MAX_S), default=30.0, help="s, of one request")
    parser.add_argument("--image", action="append", default=[], type=Path, help="file to upload; may be repeated")
    parser.add_argument("--image-url", action="append", default=[], help="picture the service fetches; may be repeated")
    given = parser.parse_args(arguments)
    users = [user.strip() for user in given.users.split(",") if user.strip()]
    if not users:
        parser.error("--users names nobody")
    pictures = [*given.image, *given.image_url] or sorted(SAMPLES.glob("*.jpg"))
    if missing := [str(path) for path in given.image if not path.is_file()]:
        parser.error(f"no such file: {', '.join(missing)}")
    if sum(path.stat().st_size for path in given.image) > IMAGES_MAX_BYTES:
        parser.error(f"the images have more than {IMAGES_MAX_BYTES} bytes together")
    return Plan(
        base_url=given.base_url,
        token_url=given.mock_token_url,
        users=users,
        requests=given.requests,
        concurrency=min(given.concurrency, given.requests),
        mode=given.mode,
        poll=given.poll,
        timeout_s=given.timeout,
        pictures=pictures,
    )


def main() -> int:
    """Run, report, and say by the status whether all went well."""
    plan = read_plan()
    try:
        tally = asyncio.run(Stress(plan).run())
    except StressError as error:
        print(f"stress_test_api: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stress_test_api: interrupted", file=sys.stderr)
        return INTERRUPTED
    print(tally.report())
    return 1 if tally.failed else 0


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind every option, and the text above as it is written."""


def _within(kind: Callable[[str], Number], least: Number, most: Number) -> Callable[[str], Number]:
    def read(text: str) -> Number:
        number = kind(text)
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be {least} to {most}")
        return number

    read.__name__ = "number"  # what argparse calls it when it is none
    return read


if __name__ == "__main__":
    sys.exit(main())
