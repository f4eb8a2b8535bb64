"""The state folder, its lock and the files in it."""

import os
import stat
from pathlib import Path

import pytest

from serve_app.local.state import LocalError, lock_folder, make_folder, password, refuse_unreachable, state_folder

AS_ROOT = os.geteuid() == 0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_environment_names_the_state_folder(tmp_path: Path) -> None:
    wanted = tmp_path / "some" / "where"
    assert state_folder({"SEMAPI_STATE_DIR": str(wanted)}) == wanted
    assert mode(wanted) == (0o711 if AS_ROOT else 0o700)


def test_a_folder_others_may_write_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(LocalError, match="writable by you alone"):
        make_folder(shared)
    assert mode(shared) == 0o777


def test_a_held_folder_is_refused_with_the_holder_in_one_line(tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(LocalError) as refusal:
        lock_folder(tmp_path)
    assert f"process {os.getpid()}" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    lock_folder(tmp_path).close()


def test_a_password_is_kept_and_private(tmp_path: Path) -> None:
    first = password(tmp_path / "password")
    assert len(first) == 48
    assert password(tmp_path / "password") == first
    assert password(tmp_path / "other") != first
    assert mode(tmp_path / "password") == 0o600


@pytest.mark.skipif(not AS_ROOT, reason="servers run under another account only for root")
def test_a_folder_the_service_account_cannot_reach_is_refused_with_the_remedy(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(LocalError, match=r"chmod o\+x"):
        refuse_unreachable(closed)
