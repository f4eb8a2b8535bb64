"""The job Redis as the manifests start it: their script, their configuration, the Valkey of the wheel."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from serve_app.local.state import give_to_service, password
from serve_app.local.valkey import Valkey

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "k8s" / "base" / "redis"


class ManifestRedis(Valkey):
    """`configuration` of k8s/base/redis, on a port of its own instead of 6379; the data folder is where it stands."""

    def __init__(self, folder: Path, configuration: str = "redis.conf", maxmemory: str = "256mb") -> None:
        super().__init__(folder, maxmemory=maxmemory)
        self._configuration = configuration

    def _command(self) -> list[str]:
        script = Path(shutil.copy(FOLDER / "start.sh", self.folder))  # the account may be unable to read the checkout
        written = self.folder / "redis.conf"
        text = (FOLDER / self._configuration).read_text()
        written.write_text(text.replace("port 6379", f"port {self.port}"))
        password(self.folder / "password")
        for path in (script, written, self.folder / "password"):
            give_to_service(path)
        return ["sh", str(script), str(written)]

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.pathsep.join([str(self._program.path.parent), os.defpath]),
            "PASSWORD_FILE": str(self.folder / "password"),
            "MAXMEMORY": self._maxmemory,
        }
