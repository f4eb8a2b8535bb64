"""What ends a command in one clear message."""

from __future__ import annotations


class Failed(Exception):
    """Something outside did not do what was asked; the text says what, and what to do about it."""

    status = 1


class Refused(Failed):
    """Asked for what this program does not do. Nothing was changed."""

    status = 2


class Interrupted(Failed):
    """Somebody pressed Ctrl-C."""

    status = 130
