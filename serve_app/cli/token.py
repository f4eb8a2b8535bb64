"""`semapi token USER`: a token of the development issuer. `semapi token check TOKEN`: why a token is accepted or
refused."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from typer.core import TyperGroup

from serve_app.cli.access import ADMIN_ROLE, DEFAULT_ISSUER, development_token
from serve_app.cli.config import settings_or_give_up
from serve_app.cli.console import give_up, output
from serve_app.contracts import Json

READ_MAX = 1024 * 1024
SHOWN_MAX = 300
"""Most characters of a token's claims on one line."""


_SCHEME: Final = re.compile(r"(authorization:\s*)?bearer\s+", re.IGNORECASE)
"""Prefix of a token that was copied from a header."""


class _UserOrCommand(TyperGroup):
    """`semapi token ada` means `semapi token for ada`: anything that is not a command is a user's name or an option."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in (*self.commands, "--help"):
            args = ["for", *args]
        return super().parse_args(ctx, args)


commands = typer.Typer(
    cls=_UserOrCommand,
    help="`semapi token USER`: print a token of the local development issuer. `semapi token check`: examine any token.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@commands.command("for", context_settings={"allow_extra_args": True})
def print_token(
    context: typer.Context,
    user: Annotated[str, typer.Argument(help="The user's name; it becomes the token's subject.")],
    issuer: Annotated[str, typer.Option(help="The development issuer of `semapi up`.")] = DEFAULT_ISSUER,
    admin: Annotated[bool, typer.Option("--admin", help="An admin's token: this issuer makes one of anybody.")] = False,
) -> None:
    """Print an access token of the local development issuer (a stand-in: it signs for any name).

    `for` may be left out, unless the user's name is `check` or `for`.
    """
    if context.args:  # the words are not repeated: one may be a token
        give_up("a user's name is one word; tokens are examined by `semapi token check`")
    typer.echo(development_token(user, issuer, scope=f"openid {ADMIN_ROLE}" if admin else "openid"))


@commands.command()
def check(
    words: Annotated[
        list[str], typer.Argument(metavar="TOKEN", help="The token, or - to read it from standard input.")
    ],
) -> None:
    """Show which rule accepts or refuses a token, as the service with these settings would: status 0 or 1.

    The issuer's keys are fetched. Neither the token nor its signature is printed.
    """
    from serve_app.errors import KeysUnavailable, TokenInvalid
    from serve_app.gateway.auth import TokenVerifier, read_unproven
    from serve_app.gateway.jwks import KeyRing  # the extra [serve]

    settings = settings_or_give_up()
    text = sys.stdin.read(READ_MAX) if words == ["-"] else " ".join(words)
    token = _SCHEME.sub("", text.strip(), count=1).strip()
    _show_what_keys_say()

    async def examine() -> None:
        header, claims, _ = read_unproven(token)
        _show("it says", _values(header, ("alg", "kid", "typ")))
        _show("", _values(claims, ("iss", "aud", "azp", "client_id", "typ", "token_use", "scope", "sub", "exp")))
        _show("", f"claims {', '.join(claims)}")
        rule = settings.issuer_rule(str(claims.get("iss")))
        _show("issuers", ", ".join(settings.oidc_issuers))
        audience = f"with one of {', '.join(rule.audience)}" if rule.audience else "of any value"
        _show("wanted", f"{rule.audience_claim} {audience}; {rule.accept}")
        keys = KeyRing(settings)
        try:
            principal = await TokenVerifier(settings, keys).examine(token, _show)
        finally:
            await keys.close()
        _show("principal", f"{principal.id}, shown as {principal.name}, group {principal.group or 'none'}")
        roles = ", ".join(sorted(principal.roles)) or "none"
        _show("roles", f"{roles} ({'an admin' if principal.is_admin else 'no admin'}; scopes count as roles)")

    try:
        asyncio.run(examine())
    except TokenInvalid as refusal:
        _show("refused", refusal.detail)
        raise typer.Exit(1) from None
    except KeysUnavailable as refusal:
        _show("unknown", f"{refusal.detail} The service would answer 503.")
        raise typer.Exit(1) from None
    _show("accepted", "the service takes this token")


def _values(members: Json, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {json.dumps(members[name], ensure_ascii=False)}" for name in names if name in members)


def _show(name: str, found: str) -> None:
    """One line of an examination. Claims are untrusted: non-printable characters must not reach the terminal."""
    plain = "".join(character if character.isprintable() else "?" for character in found)
    output.print(f"{name and name + ':':<11}{plain[:SHOWN_MAX]}{'…' if len(plain) > SHOWN_MAX else ''}", markup=False)


def _show_what_keys_say() -> None:
    """Print to stderr what the service logs: why an issuer cannot be read and which of its keys are ignored."""
    log = logging.getLogger("serve_app.gateway.jwks")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler())
    log.propagate = False
