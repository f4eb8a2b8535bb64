"""Check rayservice.yaml and the overlays in k8s/ without a cluster: `python scripts/check_manifests.py`.

One line for each finding: file, resource, path, and what to do. The exit status is 1 when there is one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Check what the arguments name, print, and say by the exit status whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: this one)")
    options = parser.parse_args()
    try:
        from manifests.check import check_repository  # this takes seconds; --help does not need it
        from manifests.documents import report
    except ModuleNotFoundError as error:
        parser.exit(2, f"{error.name} is not installed: make setup\n")

    return report(check_repository(options.root))


if __name__ == "__main__":
    sys.exit(main())
