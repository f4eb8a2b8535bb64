"""Images for a cluster without a registry: an archive in OCI's layout, which holds no layer that the node has."""

import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest
import yaml
from containerfile import ROOT
from operations.failure import Failed
from operations.ground import images
from operations.ground.containerd import Containerd, Image, Layer, configured, digest
from operations.runner import Runner

CTR = """#!/bin/sh
# Stands for containerd's client: it tells what {folder} says it holds, and keeps what it is sent.
case "$*" in
*"images list"*) printf 'REF TYPE DIGEST\\n'; cat {folder}/images ;;
*"content list"*) cat {folder}/blobs ;;
*"images import"*)
    if [ -e {folder}/full ]; then echo "no space left on device" >&2; exit 1; fi
    cat >{folder}/sent.tar ;;
*) exit 9 ;;
esac
"""


def layer(content: bytes, size: int | None = None) -> Layer:
    def opened() -> AbstractContextManager[IO[bytes]]:
        return io.BytesIO(content)

    return Layer(digest(content), len(content) if size is None else size, opened)


def image(*layers: Layer) -> Image:
    return configured("localhost/some:1", layers, {"Entrypoint": ["/some"]})


@pytest.fixture
def node(tmp_path: Path) -> Containerd:
    """A node that holds nothing."""
    ctr = tmp_path / "ctr"
    ctr.write_text(CTR.format(folder=tmp_path))
    ctr.chmod(0o755)
    for name in ("images", "blobs"):
        (tmp_path / name).touch()
    return Containerd(Runner(dry=False), ctr, tmp_path / "containerd.sock")


def sent(folder: Path) -> dict[str, bytes]:
    with tarfile.open(folder / "sent.tar") as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]


def blobs(contents: Iterable[bytes]) -> set[str]:
    return {f"blobs/sha256/{hashlib.sha256(content).hexdigest()}" for content in contents}


def test_an_archive_holds_the_image_and_every_layer(node: Containerd, tmp_path: Path) -> None:
    lower, upper = layer(b"lower" * 1000), layer(b"upper")
    made = image(lower, upper)
    assert node.bring(made) == lower.size + upper.size
    files = sent(tmp_path)
    assert set(files) == {"oci-layout", "index.json", *blobs([b"lower" * 1000, b"upper", made.config, made.manifest])}
    for name, content in files.items():
        if name.startswith("blobs/"):
            assert name.endswith(hashlib.sha256(content).hexdigest())
    [named] = json.loads(files["index.json"])["manifests"]
    assert named["annotations"] == {"io.containerd.image.name": "localhost/some:1"}
    manifest = json.loads(files["blobs/" + named["digest"].replace(":", "/")])
    assert [one["digest"] for one in manifest["layers"]] == [lower.digest, upper.digest]
    config = json.loads(files["blobs/" + manifest["config"]["digest"].replace(":", "/")])
    assert config["rootfs"]["diff_ids"] == [lower.digest, upper.digest]


def test_a_layer_that_the_node_holds_is_not_sent(node: Containerd, tmp_path: Path) -> None:
    lower, upper = layer(b"lower"), layer(b"upper")
    (tmp_path / "blobs").write_text(lower.digest + "\n")
    assert node.bring(image(lower, upper)) == upper.size
    assert blobs([b"upper"]) < set(sent(tmp_path))
    assert not blobs([b"lower"]) & set(sent(tmp_path))


def test_an_image_that_the_node_holds_is_not_sent_and_another_under_its_name_is(
    node: Containerd, tmp_path: Path
) -> None:
    made = image(layer(b"content"))
    (tmp_path / "images").write_text(f"{made.name} manifest {digest(made.manifest)}\n")
    assert node.bring(made) == 0
    assert not (tmp_path / "sent.tar").exists()
    assert node.bring(image(layer(b"changed"))) == len(b"changed")


def test_a_node_that_takes_no_image_gives_its_reason(node: Containerd, tmp_path: Path) -> None:
    (tmp_path / "full").touch()
    with pytest.raises(Failed, match="did not take localhost/some:1: no space left on device"):
        node.bring(image(layer(b"x" * 2_000_000)))


def test_a_layer_that_ends_early_is_no_image(node: Containerd) -> None:
    with pytest.raises(Failed, match="unexpected end of data"):
        node.bring(image(layer(b"half", size=len(b"half") * 2)))


def test_a_program_is_an_image_of_one_executable_file(tmp_path: Path) -> None:
    (tmp_path / "tool").write_bytes(b"program")
    made, again = (images.program("localhost/tool:1", tmp_path / "tool", place="manager", User="1:1") for _ in range(2))
    assert made.manifest == again.manifest
    [only] = made.layers
    with only.open() as content, tarfile.open(fileobj=content) as archive:
        [entry] = archive.getmembers()
        assert (entry.name, stat.S_IMODE(entry.mode)) == ("manager", 0o755)
    assert json.loads(made.config)["config"] == {"Entrypoint": ["/manager"], "User": "1:1"}


def test_the_stores_get_the_names_that_the_manifests_ask_for() -> None:
    for store in ("redis", "postgres"):
        documents = yaml.safe_load_all((ROOT / "k8s" / "base" / store / f"{store}.yaml").read_text("utf-8"))
        [pods] = [one["spec"]["template"]["spec"] for one in documents if one["kind"] == "StatefulSet"]
        assert images.wanted(store) == pods["containers"][0]["image"]
        assert pods["securityContext"]["runAsUser"] == images.STORES_ACCOUNT
