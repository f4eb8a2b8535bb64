"""Where a replica's log lines go: into Serve's file of the replica; requests and the audit log into files beside it.

Serve gives handlers to its own logger alone. A record of any other reaches Python's last resort, the standard error
stream, which Serve has replaced by one that writes whatever comes as INFO, line by line, and below WARNING nothing.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

LINES_MAX: Final = 256
"""Request lines held before they are written."""
FLUSH_S: Final = 0.5
"""Most time one is held."""

_serve = logging.getLogger("ray.serve")
_log = logging.getLogger(__name__)


def log_through_serve() -> None:
    """Hand every record of this process to Serve's logger, ours from Serve's own level on. Call it once."""
    logging.getLogger("serve_app").setLevel(_serve.getEffectiveLevel())
    logging.getLogger().addHandler(_ToServe())


def log_requests_beside_serve() -> None:
    """Write the lines of `serve_app.request` to `…_requests.log` beside Serve's file, rotated as that is."""
    if file := _file_beside_serve("requests"):
        _write_alone("serve_app.request", GatheredLines(file))


def log_audit_beside_serve() -> None:
    """Write the lines of `serve_app.audit` to `…_audit.log` beside Serve's file: all, and each at once."""
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
    """Write a logger's lines by this handler alone."""
    logger = logging.getLogger(name)
    logger.propagate = False
    logger.addHandler(handler)


class _ToServe(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            # logging would do it by print(), and Serve's own in a replica (2.60) writes a tuple for every line.
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        _serve.handle(record)
        if record.levelno >= logging.WARNING:
            for handler in _serve.handlers:  # in throughput mode Serve keeps a thousand records in memory
                handler.flush()


class GatheredLines(logging.Handler):
    """Writes messages as they are, many at once.

    A line takes Serve's own chain of filters and formatters 35 µs of processor time, and each is written alone.
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
            except RuntimeError:  # not in an event loop: nothing would call
                self.flush()

    def flush(self) -> None:
        """Write what is held; also called when the process ends."""
        self.acquire()
        try:
            lines, self._lines = self._lines, []
            if lines:
                self._file.handle(logging.makeLogRecord({"msg": "\n".join(lines)}))
        finally:
            self.release()

    def close(self) -> None:
        """Write what is held, and close the file."""
        self.flush()
        self._file.close()
        super().close()
