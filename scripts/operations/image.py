"""The image of the service: built, named after its content, and brought to where the cluster finds it.

A cluster made with --here has no registry: images go straight into the containerd of each node, without the layers that
it holds already. Valkey and PostgreSQL are made from Debian's packages there. Their versions differ from those that the
manifests name, and are printed.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, cast

from operations import release, tools
from operations.release import Release
from operations.runner import Runner, piped
from operations.steps import Aborted, StepFailed
from operations.target import NAME, ROOT, abort_on_wrong_model

CONTAINERFILE = "k8s/image/Containerfile"
INDEX = "PIP_INDEX_URL"
BUILD_DEADLINE_S = 3600.0
MOVE_DEADLINE_S = 1800.0
"""For two gigabytes, to a registry or into kind's node."""
IMPORT_DEADLINE_S = 1800.0
"""For seven gigabytes onto a slow disk: the image with the GPU build of torch."""
LAYER_DEADLINE_S = 1800.0
DEBIAN_DEADLINE_S = 1200.0
COPY_DEADLINE_S = 600.0
SHOWN_DIGEST = f"sha256:{'0' * 64}"
"""Stands for an image's id or digest in a dry run."""
NAMESPACE = "k8s.io"
"""The namespace of containerd that the kubelet uses."""
OCI = "application/vnd.oci.image"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

SANDBOX, COREDNS = "localhost/pause:1", "localhost/coredns:1"
PAUSE = Path("/usr/bin/catatonit")
"""Podman's own pause program, which is linked statically."""
ENTRY_POINT = ROOT / "scripts" / "node" / "postgres.sh"
STORES = ("valkey-server", "postgresql-17")
STORES_SUITE = "trixie"
"""The first Debian with Valkey, and with a PostgreSQL that has its own locale C.UTF-8."""
STORES_ACCOUNT = 999
"""The user of the official images, and so of the manifests."""
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


def build(run: Runner) -> str:
    """Build the image, name it after its content, bring it to the cluster, and write the release file."""
    target = run.target
    abort_on_wrong_model(target)
    if not target.is_local and not target.registry:
        raise Aborted(f"{target.environment} needs REGISTRY, where its images are pushed and its nodes pull them")
    commit = _commit(run)
    builder = tools.BUILDERS[0] if run.dry else tools.builder()
    digest = _build(run, builder, commit)
    name = f"{target.registry or 'localhost'}/{NAME}:{digest.removeprefix('sha256:')[:12]}"
    run.change([builder, "tag", digest.removeprefix("sha256:"), name])
    image = name
    if target.registry:
        digest = _push(run, builder, name)
        image = f"{target.registry}/{NAME}@{digest}"
    elif target.is_here:
        _bring(run, name, digest)
    else:
        _load(run, builder, name)
    if run.dry:
        return ""
    model = (target.model.source, target.model.id, target.model.revision)
    made = Release(release.now(), target.environment, target.namespace, image, digest, *model, commit)
    return f"{image}, written down in {release.write(made).relative_to(ROOT)}"


def _build(run: Runner, builder: str, commit: str) -> str:
    """Build; the image's id."""
    target, identity = run.target, run.target.folder / "image-id"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    arguments = {
        "ENVIRONMENT": target.environment,
        "VERSION": project["version"],
        "COMMIT": commit,
        "MODEL_SOURCE": target.model.source,
        "MODEL_ID": target.model.id,
        "MODEL_REVISION": target.model.revision,
        **({"BASE": _base(run)} if target.is_here and "BASE" not in dict(target.build) else {}),
        **({} if target.environment == "dev" else {"TORCH": "cpu"}),
        **dict(target.build),
    }
    index = arguments.pop(INDEX, "")
    command = [builder, "build", "--file", CONTAINERFILE, "--iidfile", str(identity.relative_to(ROOT))]
    command += [part for name, value in arguments.items() if value for part in ("--build-arg", f"{name}={value}")]
    command += ["--secret", f"id=hf_token,src={target.hf_token_file}"] if target.hf_token_file else []
    if not run.dry:
        identity.unlink(missing_ok=True)
    with run.passing(target.folder / "pip-index-url") as file:
        if index:  # it may hold a password: an argument would be visible in the layers and in every `ps`
            command += ["--secret", f"id={INDEX.lower()},src={file.relative_to(ROOT)}"]
        if index and not run.dry:
            file.touch(mode=0o600)
            file.write_text(index)
        run.long([*command, "."], deadline_s=BUILD_DEADLINE_S)
    return SHOWN_DIGEST if run.dry else "sha256:" + identity.read_text().strip().removeprefix("sha256:")


def _commit(run: Runner) -> str:
    """The commit that is built. For prod the checkout must be clean."""
    found, changed = "unknown", ""
    if run.dry or shutil.which("git"):
        found = run.ask(["git", "rev-parse", "HEAD"], assumed="COMMIT").output.strip() or "unknown"
        changed = run.ask(["git", "status", "--porcelain"]).output.strip()
    if run.target.environment == "prod" and not run.dry and (found == "unknown" or changed):
        raise Aborted("prod is built from a clean checkout: commit or stash what changed")
    return f"{found}-dirty" if changed else found


def _load(run: Runner, builder: str, name: str) -> None:
    """Into the node of kind, as an archive, which works the same with podman and docker."""
    images = [image for node in run.objects("nodes") for image in node["status"].get("images", [])]
    if name in [one for image in images for one in image["names"]]:
        run.say("its node holds it already")
        return
    with run.passing(run.target.folder / "image.tar") as archive:  # podman would add to an existing archive
        shown = str(archive.relative_to(ROOT))
        run.long([builder, "save", "--output", shown, name], deadline_s=MOVE_DEADLINE_S)
        command = ["kind", "load", "image-archive", shown, "--name", run.target.cluster]
        run.long(command, deadline_s=MOVE_DEADLINE_S)


def _push(run: Runner, builder: str, name: str) -> str:
    """To the registry; the digest under which it is pulled from there."""
    if builder == "podman":
        file = run.target.folder / "digest"
        command = ["podman", "push", "--digestfile", str(file.relative_to(ROOT)), name]
        run.long(command, deadline_s=MOVE_DEADLINE_S)
        return SHOWN_DIGEST if run.dry else file.read_text().strip()
    run.long([builder, "push", name], deadline_s=MOVE_DEADLINE_S)
    answer = run.read([builder, "image", "inspect", "--format", "{{json .RepoDigests}}", name], assumed="[]")
    repository = name.rpartition(":")[0] + "@"
    digests = [one.removeprefix(repository) for one in json.loads(answer) if one.startswith(repository)]
    if run.dry:
        return SHOWN_DIGEST
    if not digests:
        raise StepFailed(f"{name} was pushed, and {builder} does not know its digest")
    return str(digests[0])


def _bring(run: Runner, name: str, digest: str) -> None:
    """Into each node of a cluster without a registry, with the stores' images. Images that nothing uses are removed."""
    if run.dry:
        return
    to = nodes(run)
    run.say(bring_stores(run, tools.CACHE, to))
    image = built(run, name, digest.removeprefix("sha256:"))
    used = json.dumps([run.objects("pods"), [entry.image for _, _, entry in release.entered(run)]])
    for node in to:
        began = time.monotonic()
        sent = node.bring(image)
        run.say(f"{sent / 1e6:.0f} MB of new layers, {time.monotonic() - began:.0f} s")
        ours = [one for one in node.images() if one.startswith(f"localhost/{NAME}:") and one != name]
        node.remove([one for one in ours if f'"{one}"' not in used])


@dataclass(frozen=True)
class Layer:
    """One layer of an image: an uncompressed tar archive."""

    digest: str
    size: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    """Opens the archive for reading."""


@dataclass(frozen=True)
class Image:
    """An image under the name that pods ask for. `config` is its configuration in OCI's format."""

    name: str
    config: bytes
    layers: Sequence[Layer]

    @property
    def manifest(self) -> bytes:
        """Names the configuration and the layers; its digest is the image's."""
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": f"{OCI}.manifest.v1+json",
                "config": _descriptor("config.v1+json", digest(self.config), len(self.config)),
                "layers": [_descriptor("layer.v1.tar", layer.digest, layer.size) for layer in self.layers],
            }
        )

    def write(self, layers: Sequence[Layer], pipe: IO[bytes]) -> None:
        """Write the image as an archive in OCI's layout, with only these of its layers."""
        named = _descriptor("manifest.v1+json", digest(self.manifest), len(self.manifest))
        named["annotations"] = {"io.containerd.image.name": self.name}
        files = {
            "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
            "index.json": _json({"schemaVersion": 2, "manifests": [named]}),
            **{_blob(digest(content)): content for content in (self.config, self.manifest)},
        }
        with tarfile.open(fileobj=pipe, mode="w|") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
            for layer in layers:
                entry = tarfile.TarInfo(_blob(layer.digest))
                entry.size = layer.size
                with layer.open() as opened:
                    archive.addfile(entry, opened)


def configured(name: str, layers: Sequence[Layer], config: dict[str, Any]) -> Image:
    """An image of these layers. `config` says what it runs (Entrypoint, Env, User)."""
    rootfs = {"type": "layers", "diff_ids": [layer.digest for layer in layers]}
    described = {"architecture": ARCHITECTURE, "os": "linux", "config": config, "rootfs": rootfs}
    return Image(name, _json(described), layers)


class Containerd:
    """The containerd of one node, driven through its client `ctr`."""

    def __init__(self, run: Runner, ctr: Path, socket: Path) -> None:
        self._run, self._socket = run, socket
        self._command = [str(ctr), "--address", str(socket), "--namespace", NAMESPACE]

    def images(self) -> dict[str, str]:
        """The digest of each image, by its name."""
        rows = self._run.read([*self._command, "images", "list"]).splitlines()[1:]
        return {row.split()[0]: row.split()[2] for row in rows}

    def bring(self, image: Image) -> int:
        """Import the image unless the node has it; the bytes of the layers that were sent."""
        if self.images().get(image.name) == digest(image.manifest):
            return 0
        held = set(self._run.read([*self._command, "content", "list", "--quiet"]).split())
        missing = [layer for layer in image.layers if layer.digest not in held]
        self._send(image, missing)
        return sum(layer.size for layer in missing)

    def _send(self, image: Image, layers: Sequence[Layer]) -> None:
        command, fault = [*self._command, "images", "import", "-"], ""
        with tempfile.TemporaryFile("w+", errors="replace") as errors:  # a full pipe would block it
            streams = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": errors.fileno()}
            try:
                with piped(command, IMPORT_DEADLINE_S, **streams) as process, _binary(process.stdin) as pipe:
                    image.write(layers, pipe)
            except OSError as error:  # a layer is too short, or ctr has ended
                fault = str(error)
            if process.returncode != 0 or fault:
                errors.seek(0)
                lines = [line for line in errors.read().splitlines() if "level=warning" not in line]
                reason = lines[-1] if lines else fault or f"it ended with {process.returncode}"
                raise StepFailed(f"containerd at {self._socket} did not take {image.name}: {reason}")

    def remove(self, names: Sequence[str]) -> None:
        """Remove images, with the layers that no other image needs."""
        if names:
            self._run.change([*self._command, "images", "remove", *names])


def nodes(run: Runner) -> list[Containerd]:
    """The containerd of each node of a cluster made with --here."""
    ctr = tools.programs() / "ctr"
    return [Containerd(run, ctr, folder / "containerd.sock") for folder in sorted(run.target.state.glob("node[0-9]"))]


def bring_system(run: Runner) -> None:
    """Bring what a node needs before its first pod: the program that holds a pod's network, and CoreDNS."""
    if run.dry:  # the programs may not be built
        return
    system = [
        program(SANDBOX, PAUSE, Entrypoint=["/catatonit", "-P"]),
        program(COREDNS, tools.programs() / "coredns"),
    ]
    for node in nodes(run):
        for image in system:
            node.bring(image)


def program(name: str, file: Path, *, place: str = "", **config: Any) -> Image:
    """An image that holds and starts one static program, at `/place` or under its own name."""
    content, archive = file.read_bytes(), io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as packed:
        entry = tarfile.TarInfo(place or file.name)
        entry.size, entry.mode = len(content), 0o755
        packed.addfile(entry, io.BytesIO(content))
    layer = Layer(digest(archive.getvalue()), len(archive.getvalue()), lambda: io.BytesIO(archive.getvalue()))
    return configured(name, [layer], {"Entrypoint": [f"/{entry.name}"], **config})


def built(run: Runner, name: str, identity: str) -> Image:
    """The image that podman stores as `identity`, layer by layer."""
    storage = "containers-storage"
    config = run.read([storage, "get-image-data", identity, f"sha256:{identity}"]).encode()
    layers = {layer["id"]: layer for layer in json.loads(run.read([storage, "layers", "--json"]))}
    top = json.loads(run.read([storage, "image", "--json", identity]))[0].get("layer", "")
    found: list[Layer] = []
    while top:
        found.insert(0, _stored(layers[top]))
        top = layers[top].get("parent", "")
    digests = [one.digest for one in found]
    if digest(config) != f"sha256:{identity}" or digests != json.loads(config)["rootfs"]["diff_ids"]:
        raise StepFailed(f"{storage} has something else as {name} than podman")
    return Image(name, config, found)


def _stored(layer: dict[str, Any]) -> Layer:
    @contextmanager
    def output() -> Iterator[IO[bytes]]:
        command = ["containers-storage", "diff", layer["id"]]
        with (
            piped(command, LAYER_DEADLINE_S, stdout=subprocess.PIPE) as process,
            _binary(process.stdout) as pipe,
        ):
            yield pipe

    return Layer(layer["diff-digest"], layer["diff-size"], output)


def _base(run: Runner) -> str:
    """The name of a base for our image, made of Debian's packages unless podman has it."""
    name = f"localhost/{NAME}-base:{_recipe(BASE_SUITE, *BASE_PACKAGES)}"
    if not run.dry and run.ask(["podman", "image", "exists", name]).status == 0:
        return name
    with _debian(run, BASE_SUITE, BASE_PACKAGES, run.target.folder / "base") as root:
        run.change(["chroot", str(root), "useradd", "--uid", "1000", "--gid", "100", "--create-home", "ray"])
        if not run.dry:  # this machine trusts the certificate authorities of its own network
            shutil.copyfile(f"/{AUTHORITIES}", root / AUTHORITIES)
        with run.passing(run.target.folder / "base.tar") as archive:
            _pack(run, root, archive)
            command = ["podman", "import", "--change", f"ENV PATH={PATH}", str(archive), name]
            run.long(command, deadline_s=COPY_DEADLINE_S)
    return name


def bring_stores(run: Runner, cache: Path, to: Sequence[Containerd]) -> str:
    """Bring Valkey and PostgreSQL under the names that the manifests have for them. Says which versions they are."""
    layer, versions = _stores(run, cache)
    major = STORES[1].rpartition("-")[2]
    account = {"Env": [f"PATH=/usr/lib/postgresql/{major}/bin:{PATH}"], "User": str(STORES_ACCOUNT)}
    postgres = {**account, "Entrypoint": [f"/{ENTRY_POINT.name}"], "StopSignal": "SIGINT"}
    shown = []
    for store, version, config in (("redis", versions[0], account), ("postgres", versions[1], postgres)):
        name = _image_of(store)
        full = f"docker.io/{name}" if "/" in name else f"docker.io/library/{name}"  # as a node completes it
        image = configured(full, [layer], config)
        for node in to:
            node.bring(image)
        shown.append(f"{name} is {version}")
    return f"{' and '.join(shown)} here, the packages of Debian {STORES_SUITE}"


def _image_of(store: str) -> str:
    """The image that the manifests name for a store."""
    manifest = (ROOT / "k8s" / "base" / store / f"{store}.yaml").read_text("utf-8")
    found = re.search(r"^ +image: (\S+)$", manifest, re.MULTILINE)
    if not found:
        raise StepFailed(f"k8s/base/{store}/{store}.yaml names no image")
    return found[1]


def _stores(run: Runner, cache: Path) -> tuple[Layer, list[str]]:
    """One root file system with both servers, and their versions; made once. Its description is written last."""
    recipe = _recipe(STORES_SUITE, *STORES, *NEEDLESS, ENTRY_POINT.read_text())
    archive, description = cache / f"stores-{recipe}.tar", cache / f"stores-{recipe}.json"
    busy = "another scripts/cluster makes the image of Valkey and PostgreSQL right now"
    with run.alone(cache / "stores.lock", busy):
        if not description.exists():
            for old in cache.glob("stores-*"):
                old.unlink()
            with _debian(run, STORES_SUITE, STORES, cache / "stores") as root:
                _adapt(root)
                query = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\\n", *STORES]
                versions = sorted(run.read(["chroot", str(root), *query]).splitlines(), reverse=True)
                _pack(run, root, archive)
            with archive.open("rb") as content:
                name = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
            description.write_text(json.dumps({"digest": name, "size": archive.stat().st_size, "versions": versions}))
        kept = json.loads(description.read_text())
    return Layer(kept["digest"], kept["size"], lambda: archive.open("rb")), kept["versions"]


def _adapt(root: Path) -> None:
    """One account for both servers, and the entry point."""
    for name, line in (("passwd", "postgres:x:{0}:{0}::/var/lib/postgresql:/bin/sh"), ("group", "postgres:x:{0}:")):
        file = root / "etc" / name
        others = [row for row in file.read_text().splitlines() if not row.startswith(("postgres:", "valkey:"))]
        file.write_text("\n".join([*others, line.format(STORES_ACCOUNT)]) + "\n")
    shutil.copy(ENTRY_POINT, root / ENTRY_POINT.name)


@contextmanager
def _debian(run: Runner, suite: str, packages: Sequence[str], root: Path) -> Iterator[Path]:
    """A folder with Debian and these packages, which exists within the block."""
    with run.passing(root):
        # What debootstrap mounts goes away with its mount namespace, even if it is killed.
        command = ["unshare", "--mount", "debootstrap", "--variant=minbase", f"--include={','.join(packages)}"]
        run.long([*command, suite, str(root)], deadline_s=DEBIAN_DEADLINE_S)
        yield root


def _pack(run: Runner, root: Path, archive: Path) -> None:
    """Make an archive of the folder, without files that no server reads."""
    left_out = [f"--exclude=./{name}/*" for name in (*NEEDLESS, "dev", "proc", "sys")]
    command = ["tar", "--create", "--file", str(archive), "--directory", str(root), *left_out, "."]
    run.change(command, deadline_s=COPY_DEADLINE_S)


def _recipe(*parts: str) -> str:
    """A name for one way of making something; another way has another name."""
    return digest(json.dumps(parts).encode()).removeprefix("sha256:")[:12]


def digest(content: bytes) -> str:
    """The digest of a blob."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _blob(name: str) -> str:
    return "blobs/" + name.replace(":", "/")


def _descriptor(kind: str, name: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"{OCI}.{kind}", "digest": name, "size": size}


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _binary(pipe: IO[str] | None) -> IO[bytes]:
    """The binary stream below the text stream of a process."""
    return cast("IO[bytes]", cast("TextIOWrapper", pipe).buffer)
