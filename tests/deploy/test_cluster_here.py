"""A cluster on this machine without Docker, as far as it goes without one: its names, what is refused, and the images
that it is sent."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import tarfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest
from cluster_world import Tools
from operations import command_line, here, target, tools
from operations import image as images
from operations.image import Containerd, Image, Layer, configured, digest
from operations.runner import Runner
from operations.steps import Aborted, StepFailed
from operations.target import NAME, Model, Target, read_target

OTHER = Target("dev", Model("demo"), context="here-other")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where clusters have their folders; there is none yet."""
    folder = tmp_path / "state"
    monkeypatch.setattr(target, "STATE", folder)
    monkeypatch.setattr(tools, "CACHE", tmp_path / "cache")
    return folder


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all programs of a machine that has none."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(tools, "GO_FOLDER", str(folder))
    monkeypatch.setattr(tools, "PACKAGES", {name: Path(shows).name for name, shows in tools.PACKAGES.items()})
    return folder


def test_the_cluster_without_docker_is_meant_while_it_is_there(state: Path) -> None:
    assert read_target("dev", {}).context == f"kind-{NAME}"
    (state / NAME).mkdir(parents=True)
    assert read_target("dev", {}).context == f"here-{NAME}"
    assert read_target("dev", {"context": "lab"}).context == "lab"


@pytest.mark.parametrize("command", ["up", "all"])
def test_two_nodes_are_made_without_docker_alone(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert command_line.main([command, "--nodes", "2"]) == 2
    assert signal.getsignal(signal.SIGTERM) is before
    assert "kind makes a single node" in capsys.readouterr().err


@pytest.mark.parametrize("command", [name for name in command_line.COMMANDS if name not in {"logs", "restart"}])
def test_without_root_every_command_is_refused_with_the_same_under_sudo(
    bare: Path, state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (state / NAME).mkdir(parents=True)
    assert command_line.main([command, "--timeout", "5"]) == 2
    assert f"needs root, for its namespaces: sudo scripts/cluster {command} --timeout 5\n" in capsys.readouterr().err


def test_what_the_machine_lacks_is_said_at_once(
    bare: Path, state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare / "go.mod").write_text("module node\n\ngo 1.26.8\n")
    monkeypatch.setattr(tools, "MODULE", bare)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert command_line.main(["up", "--here"]) == 2
    said = capsys.readouterr().err
    assert "Go 1.26.8 or newer is not installed: https://go.dev/doc/install" in said
    assert f"apt-get install --no-install-recommends {' '.join(tools.PACKAGES)}" in said
    assert not state.exists()
    for version, fault in (
        ("go1.26.7", ["Go is 1.26.7, 1.26.8 is needed: https://go.dev/doc/install"]),
        ("go1.26", ["Go is 1.26, 1.26.8 is needed: https://go.dev/doc/install"]),
        ("go1.26.10", []),
        ("go1.27rc1", []),
    ):
        for name in ("env", "go"):
            (bare / name).write_text(f"#!/bin/sh\necho {version}\n")
            (bare / name).chmod(0o755)
        assert [line for line in tools.missing_for_node() if line.startswith("Go")] == fault
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert tools.missing_for_node() == ["a cluster without Docker needs Linux, and this is Darwin: take kind"]


@pytest.mark.usefixtures("bare")
def test_a_missing_podman_is_named_once() -> None:
    with pytest.raises(StepFailed) as error:
        tools.check(Runner(OTHER))
    [line] = [line.strip() for line in str(error.value).splitlines() if "podman" in line]
    assert line.startswith("podman is not installed")


def test_another_version_of_a_program_has_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "MODULE", tmp_path)
    monkeypatch.setattr(tools, "OPERATOR", tmp_path / "operator")
    (tmp_path / "go.mod").write_text("require a v1\n")
    first = tools.programs()
    (tmp_path / "node.sh").write_text("no program is built from it\n")
    assert tools.programs() == first
    (tmp_path / "go.mod").write_text("require a v2\n")
    assert tools.programs() != first


def test_a_node_is_no_process_of_another_that_took_its_number(state: Path) -> None:
    one = here.Node(OTHER, 1)
    assert one.first_process() is None
    one.folder.mkdir(parents=True)
    (one.folder / "network").symlink_to("/proc/self/ns/net")
    assert one.first_process() is None
    (one.folder / "network").unlink()
    (one.folder / "network").symlink_to("/proc/1/ns/net")
    assert one.first_process() is None


def test_two_nodes_are_joined_whole_after_a_call_that_ended_half_way(tools: Tools) -> None:
    tools.have("nsenter")  # which says of everything that it is there
    here.join(tools.work(), here.Node(OTHER, 1), here.Node(OTHER, 2))
    assert [one["line"].partition("/network ")[2] for one in tools.asked][1:] == [
        "ip route replace 10.244.2.0/24 via 172.30.0.3",
        "ip link set node2 master nodes up",
        "ip route replace 10.244.1.0/24 via 172.30.0.2",
        "ip link set node1 master nodes up",
    ]


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the machine's cgroups."""
    folder = tmp_path / "cgroup"
    monkeypatch.setattr(here, "hierarchies", lambda: [folder])
    return folder


def test_a_cgroup_that_is_busy_for_a_moment_is_removed(hierarchy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hierarchy / OTHER.context / "node1" / "system").mkdir(parents=True)
    (hierarchy / "of-others").mkdir()
    remove, refused = os.rmdir, []

    def busy_at_first(path: Path, **options: int | None) -> None:
        if path not in refused:
            refused.append(path)
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        remove(path, **options)

    monkeypatch.setattr("os.rmdir", busy_at_first)
    here.Node(OTHER, 1).stop()
    assert [path.name for path in refused] == ["system", "node1"]
    assert sorted(path.name for path in hierarchy.iterdir()) == [OTHER.context, "of-others"]
    monkeypatch.setattr(here, "KILL_DEADLINE_S", 0)
    refused.clear()
    with pytest.raises(StepFailed, match=f"cgroups cannot be removed: {hierarchy / OTHER.context}"):
        here.remove_cgroup(OTHER.context)


def test_cgroups_that_cannot_be_written_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "hierarchies", lambda: [Path("/sys")])  # where the kernel lets nobody make a folder
    with pytest.raises(Aborted, match=f"the cgroup /sys/{OTHER.context} cannot be made: .* that root can write"):
        here.Node(OTHER, 1).make_room()


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
    return Containerd(Runner(OTHER), ctr, tmp_path / "containerd.sock")


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
    image_of_podman = images.built(Runner(OTHER), made.name, digest(made.config).removeprefix("sha256:"))
    with pytest.raises(StepFailed, match="containers-storage diff top gave no answer within"):
        node.bring(image_of_podman)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_image_of_the_stores_is_not_made_twice_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        Runner(OTHER).alone(tmp_path / "stores.lock", ""),
        pytest.raises(StepFailed, match="another scripts/cluster makes"),
    ):
        images.bring_stores(Runner(OTHER), tmp_path, [])
