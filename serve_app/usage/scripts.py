"""The Lua scripts beside this file. redis-py sends the hash and loads the text again after a Redis restart."""

from __future__ import annotations

from importlib.resources import files


def read_script(name: str) -> str:
    """The text of `lua/<name>.lua`."""
    return files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
