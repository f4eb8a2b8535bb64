"""Becomes one container: builds its root file system, gives up every privilege, and goes over into its command.

Run as a file, as root, as the first process of new mount, process and host-name namespaces, in the network namespace of
the pod: `python -I container.py SPECIFICATION`. Standard library alone, since it runs before the image is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Debian keeps these below /usr and links to them."""


def main() -> None:
    """Read the specification, build, and never return."""
    specification = json.loads(Path(sys.argv[1]).read_text())
    root = Path(specification["root"])
    build(root, specification)
    os.chroot(root)
    os.chdir("/")
    os.execve(specification["command"][0], specification["command"], specification["environment"])


def build(root: Path, specification: dict[str, Any]) -> None:
    """The file system of the container: read-only where its security context says so, volumes apart."""
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "-o", "mode=755,size=16m", "root", str(root))
    for name in LINKS:
        found = Path("/", name)
        if found.is_symlink():
            (root / name).symlink_to(found.readlink())
        elif found.is_dir():
            _bind(found, root / name, read_only=True)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "proc").mkdir()
    _mount("-t", "proc", "proc", str(root / "proc"))
    (root / "sys").mkdir()
    _mount("-t", "sysfs", "-o", "ro", "sys", str(root / "sys"))
    _make_devices(root / "dev")
    for source, target, read_only in sorted(specification["mounts"], key=lambda mount: len(Path(mount[1]).parts)):
        _bind(Path(source), root / target.lstrip("/"), read_only=read_only)
    if specification["read_only"]:
        _mount("-o", "remount,ro", str(root))


def _make_devices(folder: Path) -> None:
    folder.mkdir()
    for name in DEVICES:
        _bind(Path("/dev", name), folder / name, read_only=False)
    (folder / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (folder / name).symlink_to(f"/proc/self/fd/{number}")


def _bind(source: Path, target: Path, *, read_only: bool) -> None:
    """Mount `source` at `target`, which is made: a folder for a folder, a file for a file."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.touch()
    _mount("--bind", str(source), str(target))
    if read_only:
        _mount("-o", "remount,bind,ro", str(target))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main()
