"""`make pictures`: the usage report of an invented facility, drawn by headless Chromium at three widths.

Writes build/pictures/usage-report-WIDTH.png, the last width also in dark mode. Needs Chromium or Chrome on the PATH, or
its path in CHROMIUM.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psycopg  # noqa: E402  the checkout's own modules come first

from serve_app.local.postgres import Postgres  # noqa: E402
from serve_app.usage.migrations import migrate  # noqa: E402
from serve_app.usage.report.compute import make_report  # noqa: E402
from serve_app.usage.report.page import write_page  # noqa: E402
from serve_app.usage.report.source import UrlSource  # noqa: E402
from serve_app.usage.report.window import Window  # noqa: E402

PICTURES = ROOT / "build" / "pictures"
COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HEIGHTS = {390: 4600, 820: 3600, 1440: 3000}
DEADLINE_S = 120
BEGIN, DAYS = datetime(2026, 10, 1, tzinfo=UTC), 21
USERS = [
    "ada",
    "bob",
    "chiara",
    "dmitri",
    "eve",
    "farid",
    "giulia",
    "hana",
    "igor",
    "jun",
    "كريم",
    "lee",
    "mia",
    "nils",
]
GROUPS = ("microscopy", "materials", "biology", "")
REQUESTS = """
    INSERT INTO api_usage (timestamp, username, principal_id, group_name, endpoint_type, url_path, status_code,
        latency_ms, request_bytes, model)
    VALUES (%s, %s, %s, NULLIF(%s, ''), %s, %s, %s, %s, %s, %s)
"""
OUTCOMES = """
    INSERT INTO job_outcomes (job_id, run, owner, model, status, dead, deliveries, submitted_at, started_at,
        completed_at)
    VALUES (%s, 1, %s, %s, %s, %s, 1, %s, %s, %s)
"""


def main() -> int:
    """Make the page, then draw it."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    browser = find_browser()
    if browser is None:
        print(f"make pictures: no Chromium: install one of {', '.join(COMMANDS)}, or set CHROMIUM", file=sys.stderr)
        return 1
    PICTURES.mkdir(parents=True, exist_ok=True)
    page = PICTURES / "usage-report.html"
    page.write_text(write_page(_report()), encoding="utf-8")
    for width, height in HEIGHTS.items():
        _draw(browser, page, PICTURES / f"usage-report-{width}.png", width, height, dark=False)
    _draw(browser, page, PICTURES / "usage-report-1440-dark.png", 1440, HEIGHTS[1440], dark=True)
    return 0


def find_browser() -> str | None:
    """The browser that CHROMIUM names, else the first on the PATH."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, COMMANDS)), None)


def _draw(browser: str, page: Path, picture: Path, width: int, height: int, *, dark: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="semapi-chromium-") as profile:
        command = [browser, "--headless", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses its sandbox to root
        command += ["--blink-settings=preferredColorScheme=0"] if dark else []
        command += [f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={picture}"]
        picture.unlink(missing_ok=True)
        done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=DEADLINE_S)
    if not picture.exists():
        sys.exit(f"make pictures: {browser} wrote no picture:\n{done.stderr[-2000:]}")
    print(picture)


def _report() -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="semapi-pictures-") as folder:
        Path(folder).chmod(0o711)
        server = Postgres(Path(folder) / "postgres")
        server.start()
        try:
            migrate(server.url)
            _fill(server.url, random.Random(7))
            window = Window(BEGIN, BEGIN + timedelta(days=DAYS), "UTC", "hour")
            return make_report(UrlSource(server.url), window, recent_limit=10)
        finally:
            server.stop()


def _fill(url: str, chance: random.Random) -> None:
    """Insert requests in working hours, by frequent and rare users, with many failures on one afternoon."""
    requests: list[tuple[object, ...]] = []
    outcomes: list[tuple[object, ...]] = []
    for number in range(9000):
        day, hour = chance.randrange(DAYS), min(23, max(0, int(chance.gauss(13, 3.2))))
        at = BEGIN + timedelta(days=day, hours=hour, seconds=chance.randrange(3600))
        if at.isoweekday() > 5 and chance.random() < 0.85:
            continue
        user = min(int(chance.expovariate(0.28)), len(USERS) - 1)
        name, owner, group = USERS[user], f"{user:02d}7c3a9e51b2d4f6", GROUPS[user % len(GROUPS)]
        model = "circles" if chance.random() < 0.2 else "sem-classifier"
        bad = day == 13 and 14 <= hour <= 16
        kind, path, answer, size = chance.choice(
            (("inference", "/api/v1/jobs", 202, 400_000), ("job_status", "/api/v1/jobs/{job_id}", 200, 0))
        )
        status = chance.choice((503, answer)) if bad else chance.choices((answer, 404, 429), (97, 2, 1))[0]
        latency = chance.lognormvariate(2.9 if size else 1.6, 0.5)
        requests.append((at, name, owner, group, kind, path, status, latency, size, model))
        if kind == "inference" and status == 202:
            ended = chance.choices(
                (("COMPLETED", False), ("FAILED", False), ("CANCELLED", False), ("FAILED", True)), (94, 3, 2, 1)
            )
            started = at + timedelta(milliseconds=30)
            outcomes.append(
                (f"job-{number}", owner, model, *ended[0], at, started, started + timedelta(milliseconds=160))
            )
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.executemany(REQUESTS, requests)
        cursor.executemany(OUTCOMES, outcomes)


if __name__ == "__main__":
    sys.exit(main())
