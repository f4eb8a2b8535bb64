"""What the stores hold of a user's jobs, as a program for the node's network namespace: one JSON object.

REDIS_URL and DATABASE_URL say where; the arguments are a user and a file with one job id a line.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import psycopg
from redis import Redis
from stray_keys import key_rows, strays

ROWS = """
SELECT (SELECT count(*) FROM api_usage WHERE username = %(user)s AND endpoint_type = 'inference' AND status_code = 202),
       (SELECT count(*) FROM job_outcomes WHERE job_id = ANY(%(ids)s) AND run = 1 AND status = 'COMPLETED'),
       (SELECT count(*) FROM job_outcomes WHERE job_id = ANY(%(ids)s))
"""


def main() -> None:
    user, ids = sys.argv[1], Path(sys.argv[2]).read_text().split()
    with Redis.from_url(os.environ["REDIS_URL"], socket_timeout=30) as redis:
        found = strays(redis, key_rows())
    with psycopg.connect(os.environ["DATABASE_URL"], connect_timeout=10) as connection:
        row = connection.execute(ROWS, {"user": user, "ids": ids}).fetchone()
    assert row is not None
    print(json.dumps({"strays": found, "submit_rows": row[0], "completed_rows": row[1], "outcome_rows": row[2]}))


if __name__ == "__main__":
    main()
