"""GET /api/v1/usage: the report of `semapi usage`, to users of themselves, to admins of everyone."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from serve_app.errors import AdminRequired, DeadlineExceeded, QueryInvalid, UsageUnavailable
from serve_app.gateway.admin.people import PRINCIPAL_ID
from serve_app.gateway.query import lower_case, read_query, value_invalid, with_plus, zone_with_plus
from serve_app.gateway.service import Call
from serve_app.gateway.usage.reports import Format
from serve_app.texts import BOM_HELP, BOM_WITHOUT_CSV
from serve_app.usage.report.source import DatabaseAway, TooSlow
from serve_app.usage.report.window import ReportError, name_window

_log = logging.getLogger(__name__)

Word = Annotated[str, Field(min_length=1, max_length=100)]
When = Annotated[Word, BeforeValidator(with_plus)]
Zone = Annotated[Word, BeforeValidator(zone_with_plus)]


class UsageQuery(BaseModel):
    """The words of `semapi usage`, and whose usage it is about."""

    model_config = ConfigDict(frozen=True)

    since: Annotated[When | None, Field(description="From when on: `7d`, or a date.", examples=["7d"])] = None
    until: Annotated[When | None, Field(description="Until when.", examples=["1d"])] = None
    month: Annotated[Word | None, Field(description="A calendar month instead.", examples=["2026-11"])] = None
    timezone: Annotated[
        Word, BeforeValidator(zone_with_plus), Field(description="IANA name.", examples=["Europe/Rome"])
    ] = "UTC"
    bucket: Annotated[Word, Field(description="`minute`, `hour`, `day` or `auto`.", examples=["hour"])] = "auto"
    principal_id: Annotated[
        str | None,
        BeforeValidator(lower_case),
        Field(pattern=f"^{PRINCIPAL_ID}$", description="Whose usage; admins alone may name others."),
    ] = None
    format: Annotated[Format, Field(description="As what it is answered.")] = "json"
    bom: Annotated[bool, Field(description=BOM_HELP)] = False


async def read_usage(call: Call) -> Response:
    """200 with the report: of the caller; for admins of everyone, or of the principal they name."""
    asked = read_query(call, UsageQuery)
    if asked.bom and asked.format != "csv":
        raise QueryInvalid(BOM_WITHOUT_CSV)
    principal_id = _whose(call, asked.principal_id)
    try:
        window = name_window(
            "json", asked.since, asked.until, asked.month, asked.timezone, asked.bucket, datetime.now(UTC)
        )
        return await call.service.reports.answer(call.caller.id, window, principal_id, asked.format, bom=asked.bom)
    except TooSlow as error:
        within_s = call.service.reports.within_s
        raise DeadlineExceeded(f"There was no report after {within_s:g} seconds; ask for a shorter time.") from error
    except DatabaseAway as error:
        _log.warning("no usage report: %s", error)
        raise UsageUnavailable("The usage records cannot be read now. Usage is counted all the same.") from error
    except ReportError as error:
        raise value_invalid(call, f"{error}.") from error


def _whose(call: Call, asked: str | None) -> str | None:
    """The principal whose usage the caller gets; None: everyone's. Raises `AdminRequired`."""
    caller = call.caller
    own = asked == caller.id or (asked is None and not caller.is_admin)
    if own:
        return caller.id
    call.target = asked or ""
    if not caller.is_admin:
        raise AdminRequired("You may read your own usage only, that is without principal_id.")
    call.acts_as_admin = True
    return asked
