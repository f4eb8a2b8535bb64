"""Images for a cluster without a registry: what is not sent, and failures that a real node cannot be brought to."""

import io
import json
import os
import tarfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest
from operations import image as images
from operations.image import Containerd, Image, Layer, configured, digest
from operations.runner import Runner
from operations.steps import StepFailed
from operations.target import Model, Target

RUN = Runner(Target("dev", Model("demo"), context="here-other"))
CTR = """#!/bin/sh
# Stands for containerd's client: it tells what {folder} says it holds, and keeps what it is sent.
case "$*" in
*"images list"*) printf 'REF TYPE DIGEST\\n'; cat {folder}/images ;;
*"content list"*) cat {folder}/blobs ;;
*"images import"*)
    if [ -e {folder}/full ]; then echo "no space left on device" >&2; exit 1; fi
    if [ -e {folder}/warnings ]; then cat {folder}/warnings >&2; fi
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


STORAGE = """#!/bin/sh
# Stands for podman's storage with an image of one layer, which it does not give.
case "$1" in
get-image-data) cat {folder}/config ;;
layers) cat {folder}/layers ;;
image) echo '[{{"layer": "top"}}]' ;;
diff) echo $$ >{folder}/pid; exec sleep 20 ;;
esac
"""


@pytest.fixture
def node(tmp_path: Path) -> Containerd:
    """A node that holds nothing."""
    ctr = tmp_path / "ctr"
    ctr.write_text(CTR.format(folder=tmp_path))
    ctr.chmod(0o755)
    for name in ("images", "blobs"):
        (tmp_path / name).touch()
    return Containerd(RUN, ctr, tmp_path / "containerd.sock")


def test_what_the_node_holds_is_not_sent(node: Containerd, tmp_path: Path) -> None:
    lower, upper = layer(b"lower"), layer(b"upper")
    made = image(lower, upper)
    (tmp_path / "blobs").write_text(lower.digest + "\n")
    assert node.bring(made) == upper.size
    with tarfile.open(tmp_path / "sent.tar") as archive:
        names = archive.getnames()
    assert upper.digest.replace(":", "/") in names[-1]
    assert not any(lower.digest.removeprefix("sha256:") in name for name in names)
    (tmp_path / "images").write_text(f"{made.name} manifest {digest(made.manifest)}\n")
    assert node.bring(made) == 0
    assert node.bring(image(layer(b"changed"))) == len(b"changed")


def test_a_node_that_takes_no_image_gives_its_reason(node: Containerd, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="unexpected end of data"):
        node.bring(image(layer(b"half", size=len(b"half") * 2)))
    (tmp_path / "full").touch()
    with pytest.raises(StepFailed, match="did not take localhost/some:1: no space left on device"):
        node.bring(image(layer(b"x" * 2_000_000)))


def test_a_node_that_warns_a_lot_before_it_reads_takes_the_image(
    node: Containerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "IMPORT_DEADLINE_S", 10.0)
    (tmp_path / "warnings").write_text("level=warning\n" * 100_000)
    assert node.bring(image(layer(b"x" * 2_000_000))) == 2_000_000
    assert (tmp_path / "sent.tar").stat().st_size > 2_000_000


def test_an_import_that_takes_too_long_is_ended(
    node: Containerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "IMPORT_DEADLINE_S", 0.5)
    os.mkfifo(tmp_path / "warnings")  # nobody writes there
    with pytest.raises(StepFailed, match="images import - gave no answer within"):
        node.bring(image(layer(b"x" * 2_000_000)))


def test_a_layer_that_podman_does_not_give_is_not_waited_for(
    node: Containerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = layer(b"kept")
    made = image(kept)
    (tmp_path / "config").write_bytes(made.config)
    described = {"id": "top", "diff-digest": kept.digest, "diff-size": kept.size}
    (tmp_path / "layers").write_text(json.dumps([described]))
    (tmp_path / "containers-storage").write_text(STORAGE.format(folder=tmp_path))
    (tmp_path / "containers-storage").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(images, "LAYER_DEADLINE_S", 2.0)
    image_of_podman = images.built(RUN, made.name, digest(made.config).removeprefix("sha256:"))
    with pytest.raises(StepFailed, match="containers-storage diff top gave no answer within"):
        node.bring(image_of_podman)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_image_of_the_stores_is_not_made_twice_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with RUN.alone(tmp_path / "stores.lock", ""), pytest.raises(StepFailed, match="another scripts/cluster makes"):
        images.bring_stores(RUN, tmp_path, [])
