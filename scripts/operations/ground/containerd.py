"""Images in the containerd of a node, brought there without a registry. Layers that it holds are not sent again."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, cast

from operations.failure import Failed
from operations.runner import Runner, piped

IMPORT_DEADLINE_S = 1800.0
"""Of some seven gigabytes onto a slow disk: the image with the GPU build of torch."""
NAMESPACE = "k8s.io"
"""Where the kubelet looks for images."""
OCI = "application/vnd.oci.image"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
"""This machine's, as images call it."""


@dataclass(frozen=True)
class Layer:
    """One layer of an image: a tar archive that is not compressed."""

    digest: str
    size: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    """Opens the archive for reading."""


@dataclass(frozen=True)
class Image:
    """An image under the name by which pods ask for it. `config` is its configuration, as OCI's image format has it."""

    name: str
    config: bytes
    layers: Sequence[Layer]

    @property
    def manifest(self) -> bytes:
        """What names the configuration and the layers; its digest is the image's."""
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": f"{OCI}.manifest.v1+json",
                "config": _descriptor("config.v1+json", digest(self.config), len(self.config)),
                "layers": [_descriptor("layer.v1.tar", layer.digest, layer.size) for layer in self.layers],
            }
        )


def configured(name: str, layers: Sequence[Layer], config: dict[str, Any]) -> Image:
    """An image with these layers, started by what `config` says (Entrypoint, Env, User)."""
    rootfs = {"type": "layers", "diff_ids": [layer.digest for layer in layers]}
    described = {"architecture": ARCHITECTURE, "os": "linux", "config": config, "rootfs": rootfs}
    return Image(name, _json(described), layers)


class Containerd:
    """The containerd of one node, asked and filled through its client `ctr`."""

    def __init__(self, run: Runner, ctr: Path, socket: Path) -> None:
        self._run, self._socket = run, socket
        self._command = [str(ctr), "--address", str(socket), "--namespace", NAMESPACE]

    def images(self) -> dict[str, str]:
        """The digest of each image, by its name."""
        rows = self._run.read([*self._command, "images", "list"]).splitlines()[1:]
        return {row.split()[0]: row.split()[2] for row in rows}

    def bring(self, image: Image) -> int:
        """Import the image unless it is there; the bytes of the layers that had to be sent."""
        if self.images().get(image.name) == digest(image.manifest):
            return 0
        held = set(self._run.read([*self._command, "content", "list", "--quiet"]).split())
        missing = [layer for layer in image.layers if layer.digest not in held]
        self._send(image, missing)
        return sum(layer.size for layer in missing)

    def _send(self, image: Image, layers: Sequence[Layer]) -> None:
        command, fault = [*self._command, "images", "import", "-"], ""
        with tempfile.TemporaryFile("w+", errors="replace") as errors:  # a pipe that nobody reads would stop it
            streams = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": errors.fileno()}
            try:
                with piped(command, IMPORT_DEADLINE_S, **streams) as process, binary(process.stdin) as pipe:
                    _write(image, layers, pipe)
            except OSError as error:  # a layer ends too early, or nobody reads
                fault = str(error)
            if process.returncode != 0 or fault:
                errors.seek(0)
                said = [line for line in errors.read().splitlines() if "level=warning" not in line]
                reason = said[-1] if said else fault or f"it ended with {process.returncode}"
                raise Failed(f"containerd at {self._socket} did not take {image.name}: {reason}")

    def remove(self, names: Sequence[str]) -> None:
        """Let go of images; what no other image needs of their layers is deleted."""
        if names:
            self._run.change([*self._command, "images", "remove", *names])


def _write(image: Image, layers: Sequence[Layer], pipe: IO[bytes]) -> None:
    """The image as an archive in OCI's layout, with these of its layers."""
    manifest = image.manifest
    named = _descriptor("manifest.v1+json", digest(manifest), len(manifest))
    named["annotations"] = {"io.containerd.image.name": image.name}
    with tarfile.open(fileobj=pipe, mode="w|") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", _json({"schemaVersion": 2, "manifests": [named]}))
        for blob in (image.config, manifest):
            _add(archive, _place(digest(blob)), blob)
        for layer in layers:
            entry = tarfile.TarInfo(_place(layer.digest))
            entry.size = layer.size
            with layer.open() as content:
                archive.addfile(entry, content)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def binary(pipe: IO[str] | None) -> IO[bytes]:
    """The pipe of a process as it is below its text."""
    return cast("IO[bytes]", cast("TextIOWrapper", pipe).buffer)


def digest(content: bytes) -> str:
    """By which blobs are named."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _place(name: str) -> str:
    return "blobs/" + name.replace(":", "/")


def _descriptor(kind: str, name: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"{OCI}.{kind}", "digest": name, "size": size}


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True).encode()
