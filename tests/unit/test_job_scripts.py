"""A call of a Lua script must fit the parameters that the script declares."""

import re
from pathlib import Path

import pytest
from redis.asyncio import Redis

from serve_app.jobs import scripts
from serve_app.settings import Settings

JOBS = Path(scripts.__file__).parent
NAMES = {path.stem for path in (JOBS / "lua").glob("*.lua")} - set(scripts.SHARED)


@pytest.mark.parametrize(
    ("name", "arguments", "declared"),
    [
        ("cancel", ("job",), "cancel.lua takes (id, owner), not 1 arguments"),
        ("cancel", ("job", "owner", "token"), "cancel.lua takes (id, owner), not 3 arguments"),
        ("release_as_lost", ("token",), "release_as_lost.lua takes (token, reason, kind, ...), not 1 arguments"),
    ],
)
async def test_a_wrong_number_of_arguments_is_refused(name: str, arguments: tuple[str, ...], declared: str) -> None:
    with pytest.raises(TypeError, match=re.escape(declared)):
        await scripts.Scripts(Redis(), Settings()).run(name, *arguments)


def test_every_script_is_called_and_declares_its_parameters() -> None:
    code = "\n".join(path.read_text() for path in JOBS.glob("*.py"))
    called = {name for name in NAMES if f'"{name}"' in code}
    texts = {name: (JOBS / "lua" / f"{name}.lua").read_text() for name in NAMES}
    assert called == NAMES
    assert {name for name, text in texts.items() if "..." not in text or "ARGV" in text} == set()
