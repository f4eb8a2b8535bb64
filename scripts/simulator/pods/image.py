"""What a container image would hold, taken from this machine: the interpreter, its packages, this checkout, the system.

An image is a list of (source, target) to be seen read-only, and an environment.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[3]
USER, GROUP = 1000, 100
ACCOUNTS = {
    "passwd": f"root:x:0:0::/:/bin/bash\nray:x:{USER}:{GROUP}::/tmp:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n",
    "group": f"root:x:0:\nusers:x:{GROUP}:\nnogroup:x:65534:\n",
    "resolv.conf": "",
    "nsswitch.conf": "hosts: files\n",
}
"""Files below /etc: as the images for Ray have them, and names from the hosts file alone."""


@dataclass(frozen=True)
class Image:
    """One image; what stands later in `parts` lies over what stands before."""

    parts: tuple[tuple[str, str], ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def with_part(self, source: Path, target: Path) -> Self:
        """The same with something else at `target`."""
        return replace(self, parts=(*self.parts, (str(source), str(target))))


def this_checkout(folder: Path) -> Image:
    """The service as it lies here, run by this interpreter. `folder` is for the files that are made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ACCOUNTS.items():
        (folder / name).write_text(text)
    python = sorted({Path(sys.base_prefix).resolve(), Path(sys.prefix).absolute(), Path(sys.prefix).resolve()})
    places = [Path("/usr"), Path("/etc"), *(place for place in python if not place.is_relative_to("/usr")), ROOT]
    parts = [(str(place), str(place)) for place in places]
    parts += [(str(folder / name), f"/etc/{name}") for name in ACCOUNTS]
    return Image(
        tuple(parts),
        {
            "PATH": f"{Path(sys.prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/tmp",  # noqa: S108  the only place that such a pod can write to
            "LANG": "C.UTF-8",
        },
    )
