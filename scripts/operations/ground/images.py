"""What runs on a cluster of this machine, as images: made from programs and packages that are here, without a registry.

The versions of Valkey and PostgreSQL are Debian's. They differ from those that the manifests name, and are printed.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import IO, Any

from operations.failure import Failed
from operations.ground.containerd import IMPORT_DEADLINE_S, Containerd, Image, Layer, binary, configured, digest
from operations.runner import piped
from operations.target import NAME, ROOT
from operations.work import Work

SANDBOX, COREDNS = "localhost/pause:1", "localhost/coredns:1"
PAUSE = Path("/usr/bin/catatonit")
"""Podman's own pause program, which is linked statically."""
ENTRY_POINT = ROOT / "scripts" / "node" / "postgres.sh"
STORES = ("valkey-server", "postgresql-17")
STORES_SUITE = "trixie"
"""The first Debian with Valkey, and with a PostgreSQL that has a locale C.UTF-8 of its own."""
STORES_ACCOUNT = 999
"""Under which the official images run, and so the manifests."""
BASE_SUITE = "bookworm"
"""The Debian with Python 3.11, which the Containerfile's own base has."""
BASE_PACKAGES = ("bash", "ca-certificates", "grep", "libgomp1", "procps", "python3", "python3-venv", "wget")
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
NEEDLESS = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/lib/postgresql",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEBIAN_DEADLINE_S = 1200.0
COPY_DEADLINE_S = 600.0


def nodes(work: Work, programs: Path, sockets: Sequence[Path]) -> list[Containerd]:
    """The containerd of each node. `programs` is the folder of what was built for the nodes."""
    return [Containerd(work.run, programs / "ctr", socket) for socket in sockets]


def bring_system(work: Work, programs: Path, sockets: Sequence[Path]) -> None:
    """What a node needs before its first pod: the program that holds a pod's network, and CoreDNS."""
    if work.run.dry:  # the programs may not be built
        return
    system = [program(SANDBOX, PAUSE, Entrypoint=["/catatonit", "-P"]), program(COREDNS, programs / "coredns")]
    for node in nodes(work, programs, sockets):
        for image in system:
            node.bring(image)


def program(name: str, file: Path, *, place: str = "", **config: Any) -> Image:
    """An image that holds one static program, at `/place` or under its own name, and starts it."""
    content, archive = file.read_bytes(), io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as packed:
        entry = tarfile.TarInfo(place or file.name)
        entry.size, entry.mode = len(content), 0o755
        packed.addfile(entry, io.BytesIO(content))
    packed_up = archive.getvalue()
    layer = Layer(digest(packed_up), len(packed_up), lambda: io.BytesIO(packed_up))
    return configured(name, [layer], {"Entrypoint": [f"/{entry.name}"], **config})


def bring_stores(work: Work, cache: Path, to: Sequence[Containerd]) -> str:
    """Valkey and PostgreSQL under the names that the manifests have for them. Says which versions they are."""
    layer, versions = _stores(work, cache)
    major = STORES[1].rpartition("-")[2]
    account = {"Env": [f"PATH=/usr/lib/postgresql/{major}/bin:{PATH}"], "User": str(STORES_ACCOUNT)}
    postgres = {**account, "Entrypoint": [f"/{ENTRY_POINT.name}"], "StopSignal": "SIGINT"}
    said = []
    for manifest, version, config in (("redis", versions[0], account), ("postgres", versions[1], postgres)):
        name = wanted(manifest)
        whole = f"docker.io/{name}" if "/" in name else f"docker.io/library/{name}"  # as a node completes it
        image = configured(whole, [layer], config)
        for node in to:
            node.bring(image)
        said.append(f"{name} is {version}")
    return f"{' and '.join(said)} here, the packages of Debian {STORES_SUITE}"


def base(work: Work) -> str:
    """The name of a base for our image, made of Debian's packages unless podman has it."""
    name = f"localhost/{NAME}-base:{_recipe(BASE_SUITE, *BASE_PACKAGES)}"
    if not work.run.dry and work.run.ask(["podman", "image", "exists", name]).status == 0:
        return name
    with _debian(work, BASE_SUITE, BASE_PACKAGES, work.target.folder / "base") as root:
        work.run.change(["chroot", str(root), "useradd", "--uid", "1000", "--gid", "100", "--create-home", "ray"])
        if not work.run.dry:  # a network with authorities of its own has told this machine of them
            shutil.copyfile(f"/{AUTHORITIES}", root / AUTHORITIES)
        with work.run.passing(work.target.folder / "base.tar") as archive:
            _packed(work, root, archive)
            command = ["podman", "import", "--change", f"ENV PATH={PATH}", str(archive), name]
            work.run.work(command, deadline_s=COPY_DEADLINE_S)
    return name


def built(work: Work, name: str, identity: str) -> Image:
    """The image that podman keeps as `identity`, layer by layer."""
    storage = "containers-storage"
    config = work.run.read([storage, "get-image-data", identity, f"sha256:{identity}"]).encode()
    layers = {layer["id"]: layer for layer in json.loads(work.run.read([storage, "layers", "--json"]))}
    top = json.loads(work.run.read([storage, "image", "--json", identity]))[0].get("layer", "")
    found: list[Layer] = []
    while top:
        found.insert(0, _kept(layers[top]))
        top = layers[top].get("parent", "")
    kept = [one.digest for one in found]
    if digest(config) != f"sha256:{identity}" or kept != json.loads(config)["rootfs"]["diff_ids"]:
        raise Failed(f"{storage} has something else as {name} than podman")
    return Image(name, config, found)


def _kept(layer: dict[str, Any]) -> Layer:
    @contextmanager
    def output() -> Iterator[IO[bytes]]:
        command = ["containers-storage", "diff", layer["id"]]
        with (
            piped(command, IMPORT_DEADLINE_S, stdout=subprocess.PIPE) as process,
            binary(process.stdout) as pipe,
        ):
            yield pipe

    return Layer(layer["diff-digest"], layer["diff-size"], output)


def _stores(work: Work, cache: Path) -> tuple[Layer, list[str]]:
    """One root with both servers, and their versions; made once. The description is written when the rest is whole."""
    recipe = _recipe(STORES_SUITE, *STORES, *NEEDLESS, ENTRY_POINT.read_text())
    archive, described = cache / f"stores-{recipe}.tar", cache / f"stores-{recipe}.json"
    busy = "another scripts/cluster makes the image of Valkey and PostgreSQL right now"
    with work.run.alone(cache / "stores.lock", busy):
        if not described.exists():
            for old in cache.glob("stores-*"):
                old.unlink()
            with _debian(work, STORES_SUITE, STORES, cache / "stores") as root:
                _adapt(root)
                query = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\\n", *STORES]
                versions = sorted(work.run.read(["chroot", str(root), *query]).splitlines(), reverse=True)
                _packed(work, root, archive)
            with archive.open("rb") as content:
                name = f"sha256:{file_digest(content, 'sha256').hexdigest()}"
            described.write_text(json.dumps({"digest": name, "size": archive.stat().st_size, "versions": versions}))
        kept = json.loads(described.read_text())
    return Layer(kept["digest"], kept["size"], lambda: archive.open("rb")), kept["versions"]


def _adapt(root: Path) -> None:
    """One account for both servers, and the entry point."""
    for name, line in (("passwd", "postgres:x:{0}:{0}::/var/lib/postgresql:/bin/sh"), ("group", "postgres:x:{0}:")):
        file = root / "etc" / name
        others = [row for row in file.read_text().splitlines() if not row.startswith(("postgres:", "valkey:"))]
        file.write_text("\n".join([*others, line.format(STORES_ACCOUNT)]) + "\n")
    shutil.copy(ENTRY_POINT, root / ENTRY_POINT.name)


@contextmanager
def _debian(work: Work, suite: str, packages: Sequence[str], root: Path) -> Iterator[Path]:
    """A folder with Debian and these packages, for as long as it takes to pack it."""
    with work.run.passing(root):
        # What debootstrap mounts ends with it, however it ends.
        command = ["unshare", "--mount", "debootstrap", "--variant=minbase", f"--include={','.join(packages)}"]
        work.run.work([*command, suite, str(root)], deadline_s=DEBIAN_DEADLINE_S)
        yield root


def _packed(work: Work, root: Path, archive: Path) -> None:
    """The folder as an archive, without what no server reads."""
    left_out = [f"--exclude=./{name}/*" for name in (*NEEDLESS, "dev", "proc", "sys")]
    command = ["tar", "--create", "--file", str(archive), "--directory", str(root), *left_out, "."]
    work.run.change(command, deadline_s=COPY_DEADLINE_S)


def _recipe(*parts: str) -> str:
    """Tells one way of making something from another."""
    return digest(json.dumps(parts).encode()).removeprefix("sha256:")[:12]


def wanted(store: str) -> str:
    """The image that the manifests name for a store."""
    manifest = (ROOT / "k8s" / "base" / store / f"{store}.yaml").read_text("utf-8")
    found = re.search(r"^ +image: (\S+)$", manifest, re.MULTILINE)
    if not found:
        raise Failed(f"k8s/base/{store}/{store}.yaml names no image")
    return found[1]
