"""Say what production refuses of rendered manifests: `kubectl kustomize … | python scripts/check_production.py`.

One line for each finding; the exit status is 1 when there is one. Whatever the manifests call themselves, they are held
to what production demands.
"""

from __future__ import annotations

import sys

from manifests.documents import read, report
from manifests.production import refusals


def main() -> int:
    """Check what comes in at standard input."""
    documents, findings = read(sys.stdin.read(), "standard input")
    findings += refusals(documents)
    return report(findings)


if __name__ == "__main__":
    sys.exit(main())
