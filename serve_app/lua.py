"""Shared by all Lua scripts: reading their texts, and functions for Redis keys made from a table of templates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files


def read_script(package: str, name: str) -> str:
    """The text of `lua/<name>.lua` in that package."""
    return files(package).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def lua_keys(templates: Mapping[str, str]) -> str:
    """One Lua function `<name>_key(parts…)` per template, with its parts in their order."""
    return "\n".join(_lua_key(name, template) for name, template in templates.items())


def _lua_key(name: str, template: str) -> str:
    parts = re.findall(r"{(\w+)}", template)
    pattern = re.sub(r"{\w+}", "%s", template)
    arguments = ", ".join([repr(pattern), *parts])
    return f"local function {name}_key({', '.join(parts)}) return string.format({arguments}) end"
