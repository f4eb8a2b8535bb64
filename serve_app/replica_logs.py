"""Logging of a replica: into Serve's log file of the replica; requests and the audit log into files beside it.

Serve adds handlers only to its own logger. Records of others reach Python's last-resort handler: it drops those below
WARNING, and Serve's replacement of stderr logs each line of the rest as INFO.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

LINES_MAX: Final = 256
"""Most request lines held before they are written."""
FLUSH_S: Final = 0.5
"""Longest time that a line is held."""

_serve = logging.getLogger("ray.serve")
_log = logging.getLogger(__name__)


def log_through_serve() -> None:
    """Pass every record of this process to Serve's logger, ours from Serve's level on. Call it once."""
    logging.getLogger("serve_app").setLevel(_serve.getEffectiveLevel())
    logging.getLogger().addHandler(_ToServe())


def log_requests_beside_serve() -> None:
    """Write the lines of `serve_app.request` to `…_requests.log` beside Serve's file, with the same rotation."""
    if file := _file_beside_serve("requests"):
        _write_alone("serve_app.request", GatheredLines(file))


def log_audit_beside_serve() -> None:
    """Write the lines of `serve_app.audit` to `…_audit.log` beside Serve's file: all of them, each at once."""
    logging.getLogger("serve_app.audit").setLevel(logging.INFO)
    if file := _file_beside_serve("audit"):
        _write_alone("serve_app.audit", file)


def _file_beside_serve(name: str) -> RotatingFileHandler | None:
    files = (getattr(handler, "target", handler) for handler in _serve.handlers)
    found = next((file for file in files if isinstance(file, RotatingFileHandler)), None)
    if found is None:
        _log.warning("Serve keeps no log file here: %s have none beside it.", name)
        return None
    path = Path(found.baseFilename)
    return RotatingFileHandler(
        path.with_name(f"{path.stem}_{name}.log"),
        maxBytes=found.maxBytes,
        backupCount=found.backupCount,
        encoding="utf-8",
    )


def _write_alone(name: str, handler: logging.Handler) -> None:
    """Write a logger's records only with this handler."""
    logger = logging.getLogger(name)
    logger.propagate = False
    logger.addHandler(handler)


class _ToServe(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            # logging would use print(), and Serve's replacement in a replica (2.60) writes a tuple for every line.
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        _serve.handle(record)
        if record.levelno >= logging.WARNING:
            for handler in _serve.handlers:  # in throughput mode Serve buffers a thousand records
                handler.flush()


class GatheredLines(logging.Handler):
    """Writes messages unformatted, many at once.

    Serve's chain of filters and formatters takes 35 µs of processor time per line, and writes each one separately.
    """

    def __init__(self, file: logging.Handler) -> None:
        super().__init__()
        self._file = file
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())
        if len(self._lines) >= LINES_MAX:
            self.flush()
        elif len(self._lines) == 1:
            try:
                asyncio.get_running_loop().call_later(FLUSH_S, self.flush)
            except RuntimeError:  # no event loop that could call it
                self.flush()

    def flush(self) -> None:
        """Write the held lines; also called when the process ends."""
        self.acquire()
        try:
            lines, self._lines = self._lines, []
            if lines:
                self._file.handle(logging.makeLogRecord({"msg": "\n".join(lines)}))
        finally:
            self.release()

    def close(self) -> None:
        """Write the held lines and close the file."""
        self.flush()
        self._file.close()
        super().close()
