"""The status words of the source systems are mapped to ours, each of them and to nothing that does not exist."""

import re
from pathlib import Path

from serve_app.contracts import JobStatus

SCOPE = Path(__file__).resolve().parents[2] / "docs" / "scope.md"


def test_every_status_word_of_the_thumbnail_service_is_mapped() -> None:
    rows = re.findall(r"^\| `([a-z]+)` \| `([A-Z_]+)`", SCOPE.read_text("utf-8"), re.MULTILINE)
    words = {here: there for there, here in rows}
    assert words == {
        JobStatus.PENDING: "pending",
        JobStatus.PROCESSING: "processing",
        JobStatus.COMPLETED: "succeeded",
        JobStatus.FAILED: "failed",
        JobStatus.CANCELLED: "failed",
        "NOT_FOUND": "null",
    }
