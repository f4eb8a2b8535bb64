"""Images for a cluster without a registry: what is not sent, and failures that a real node cannot be brought to."""

import io
import tarfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest
from operations.failure import Failed
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
    with pytest.raises(Failed, match="unexpected end of data"):
        node.bring(image(layer(b"half", size=len(b"half") * 2)))
    (tmp_path / "full").touch()
    with pytest.raises(Failed, match="did not take localhost/some:1: no space left on device"):
        node.bring(image(layer(b"x" * 2_000_000)))
