"""Shared by the Lua scripts of all rooms: how their texts are read, and how they name Redis keys."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

from serve_app.keyspace import KEYS, Key

_FUNCTIONS: Final = {f"{key.name}_key": key for key in KEYS}
_NAMED: Final = re.compile(r"\b[a-z_]+_key(?=\()")


def read_script(package: str, name: str) -> str:
    """The text of `lua/<name>.lua` in that package."""
    return files(package).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def key_functions(script: str) -> str:
    """A Lua function `<name>_key(parts…)` for each key of `keyspace.py` that the script names, to be put in front of
    it.

    Raises KeyError for a name that is not in `keyspace.py`.
    """
    return "\n".join(_lua(name, _FUNCTIONS[name]) for name in sorted(set(_NAMED.findall(script))))


def _lua(name: str, key: Key) -> str:
    pattern = re.sub(r"{\w+}", "%s", key.template)
    arguments = ", ".join([repr(pattern), *key.parts])
    return f"local function {name}({', '.join(key.parts)}) return string.format({arguments}) end"
