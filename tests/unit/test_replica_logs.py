"""In a replica our records reach Serve's file as what they are, and request lines their own file beside it."""

from __future__ import annotations

import asyncio
import builtins
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.serve._private.logging_utils import configure_component_logger, redirected_print
from ray.serve.schema import LoggingConfig

from serve_app.contracts import Json
from serve_app.replica_logs import (
    FLUSH_S,
    LINES_MAX,
    log_audit_beside_serve,
    log_requests_beside_serve,
    log_through_serve,
)

NAMES = ("", "ray.serve", "serve_app", "serve_app.request", "serve_app.audit")


@pytest.fixture
def kept() -> Iterator[None]:
    """The loggers are the process's: afterwards they are as they were."""
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        for handler in set(logger.handlers) - set(handlers):
            file = getattr(handler, "target", handler)  # Serve's handler does not close what it writes to
            handler.close()
            file.close()
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def folder(kept: None, tmp_path: Path) -> Path:
    """Where Serve logs as in a replica in throughput mode, but leaves this process its standard streams."""
    configure_component_logger(
        component_name="replica",
        component_id="r1",
        logging_config=LoggingConfig(encoding="JSON", logs_dir=str(tmp_path), enable_access_log=False),
        max_bytes=10_000_000,
        backup_count=1,
        buffer_size=1000,
    )
    log_through_serve()
    log_requests_beside_serve()
    log_audit_beside_serve()
    return tmp_path


def written(folder: Path, pattern: str) -> list[Json]:
    return [json.loads(line) for path in folder.glob(pattern) for line in path.read_text().splitlines()]


def test_a_warning_is_a_warning_and_is_written_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "print", redirected_print)  # as in a replica
    logging.getLogger("serve_app.jobs.dispatcher").warning("No jobs go to %s", "words")
    try:
        raise ValueError("broken\ntwice")
    except ValueError:
        logging.getLogger("psycopg.pool").exception("lost")
    first, second = written(folder, "replica_*.log")
    assert (first["levelname"], first["message"]) == ("WARNING", "No jobs go to words")
    assert (second["levelname"], second["message"]) == ("ERROR", "lost")
    assert second["exc_text"].startswith("Traceback (most recent call last):\n  File ")
    assert second["exc_text"].endswith("\nValueError: broken\ntwice")
    logging.getLogger("serve_app.usage.writer").info("usage rows flow again")
    logging.getLogger("serve_app.usage.writer").debug("not asked for")
    logging.getLogger("serve_app.usage.writer").warning("again")
    assert [line["levelname"] for line in written(folder, "replica_*.log")[2:]] == ["INFO", "WARNING"]


async def test_request_lines_are_gathered_for_a_moment(folder: Path) -> None:
    log = logging.getLogger("serve_app.request")
    log.info('{"number":0}')
    log.info('{"number":1}')
    assert written(folder, "*_requests.log") == []
    due = asyncio.Event()
    asyncio.get_running_loop().call_later(FLUSH_S, due.set)
    await due.wait()
    assert len(written(folder, "*_requests.log")) == 2
    for number in range(LINES_MAX):
        log.info('{"number":%d}', number)
    assert len(written(folder, "*_requests.log")) == 2 + LINES_MAX
    assert written(folder, "replica_r1.log") == []


def test_a_line_of_the_audit_log_is_written_at_once_and_nowhere_else(folder: Path) -> None:
    logging.getLogger("serve_app.audit").info('{"event":"acted"}')
    assert written(folder, "*_audit.log") == [{"event": "acted"}]
    assert written(folder, "replica_r1.log") == []


def test_a_line_outside_an_event_loop_is_written_at_once(folder: Path) -> None:
    logging.getLogger("serve_app.request").info('{"number":0}')
    assert written(folder, "*_requests.log") == [{"number": 0}]
