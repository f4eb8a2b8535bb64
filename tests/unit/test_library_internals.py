"""What we use of libraries beyond their promise is there, is looked for at the start, and stands in one module."""

from __future__ import annotations

import re
from collections.abc import Callable
from multiprocessing import spawn
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray._private import worker
from ray.serve._private import constants, replica
from ray.serve.handle import DeploymentResponse
from redis.asyncio import Connection
from starlette import formparsers
from starlette.formparsers import MultiPartParser

from serve_app import library_internals
from serve_app.app import Gateway, Model
from serve_app.library_internals import SEAMS, check_internals, replica_is_shutting_down

ROOT = Path(__file__).parents[2]


def other_code(*_: Any, **__: Any) -> None:
    """Code of a release that names things otherwise."""


def without(owner: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.delattr(owner, name)


def rewritten(owner: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """For what only instances have: the code that makes it is another."""
    return lambda patch: patch.setattr(owner, name, other_code)


RENAMES = [
    (without(worker.global_worker, "actors"), "global_worker.actors"),
    (rewritten(replica.ReplicaActor, "__init__"), "ReplicaActor._replica_impl"),
    (rewritten(replica.Replica, "__init__"), "Replica._shutting_down"),
    (without(replica.Replica, "_perform_graceful_shutdown"), "Replica._shutting_down"),
    (rewritten(DeploymentResponse.__mro__[1], "__init__"), "_replica_result_future"),
    (without(replica, "add_port_to_grpc_server"), "add_port_to_grpc_server"),
    (rewritten(replica.Replica, "_on_initialized"), "add_port_to_grpc_server"),
    (without(replica, "SERVE_BUILD_ASGI_APP_METHOD"), "__serve_build_asgi_app__"),
    (lambda patch: patch.setattr(replica, "SERVE_BUILD_ASGI_APP_METHOD", "other"), "__serve_build_asgi_app__"),
    (rewritten(MultiPartParser, "on_part_end"), "MultiPartParser._charset"),
    (rewritten(MultiPartParser, "on_headers_finished"), "MultiPartParser._files_to_close_on_error"),
    (rewritten(MultiPartParser, "on_part_begin"), "MultiPartParser._current_part"),
    (without(MultiPartParser, "on_end"), "MultiPartParser.on_part_begin"),
    (without(MultiPartParser, "spool_max_size"), "MultiPartParser.on_part_begin"),
    (rewritten(formparsers, "MultipartPart"), "MultiPartParser.on_part_begin"),
    (without(constants, "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"), "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"),
    (rewritten(Connection.__mro__[1], "send_packed_command"), "AbstractConnection"),
    (rewritten(Connection.__mro__[1], "read_response"), "AbstractConnection"),
    (without(Connection.__mro__[1], "disconnect"), "AbstractConnection"),
    (without(SpawnProcess, "_Popen"), "SpawnProcess._Popen"),
    (rewritten(spawn, "get_preparation_data"), "SpawnProcess._Popen"),
]


def test_the_installed_libraries_have_all_of_it() -> None:
    check_internals()


@pytest.mark.parametrize(("rename", "named"), RENAMES)
def test_what_was_renamed_is_named_with_the_promise_that_breaks(
    rename: Callable[[pytest.MonkeyPatch], None], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [seam] = [seam for seam in SEAMS if named in seam.name]
    rename(monkeypatch)
    with pytest.raises(RuntimeError, match="internals of libraries") as raised:
        check_internals()
    assert f"{seam.name} is gone: {seam.promise}." in str(raised.value)


def test_every_seam_is_renamed_above() -> None:
    assert {seam.name for seam in SEAMS for _, named in RENAMES if named in seam.name} == {seam.name for seam in SEAMS}


@pytest.mark.parametrize("kind", [Gateway, Model])
async def test_a_replica_does_not_start_without_one(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_internals, "SEAMS", ())
    monkeypatch.delattr(replica, "add_port_to_grpc_server")
    seam = next(seam for seam in SEAMS if "add_port" in seam.name)
    monkeypatch.setattr(library_internals, "SEAMS", (seam,))
    replica_class = cast(Any, getattr(kind, "func_or_class", kind))
    with pytest.raises(RuntimeError, match="add_port_to_grpc_server is gone: on a Ray node"):
        await replica_class.__init__(SimpleNamespace(), *[None] * (3 if kind is Gateway else 2))


def test_a_process_that_is_no_replica_is_not_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not replica_is_shutting_down()
    for leaving in (False, True):
        actor = SimpleNamespace(_replica_impl=SimpleNamespace(_shutting_down=leaving))
        monkeypatch.setattr(worker.global_worker, "actors", {"id": actor})
        assert replica_is_shutting_down() is leaving


def test_no_other_module_uses_what_is_private() -> None:
    """Ruff's SLF001 finds attributes; this finds modules, and names in texts for getattr."""
    private = re.compile(r"(ray|serve|starlette|redis)\._\w+|getattr\(\w+, \"_[a-z]")
    ours = re.compile(r"getattr\(self,")
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "serve_app").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if private.search(line) and not ours.search(line)
    }
    assert found == {"serve_app/library_internals.py"}
