"""Usage: the query and the answer of its route."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from serve_app.gateway.schemas.common import PRINCIPAL_ID, Count, lower_case, with_plus, zone_with_plus
from serve_app.texts import BOM_HELP

Format = Literal["json", "csv"]
Word = Annotated[str, Field(min_length=1, max_length=100)]
When = Annotated[Word, BeforeValidator(with_plus)]
Zone = Annotated[Word, BeforeValidator(zone_with_plus)]


class UsageQuery(BaseModel):
    """The options of `semapi usage`, and whose usage to report."""

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


@with_config(ConfigDict(extra="allow"))
class UsageReport(TypedDict):
    """The usage report, as `semapi usage --format json` prints it; it has more keys than these."""

    generated_at_utc: str
    timezone: str
    bucket: Literal["minute", "hour", "day"]
    total: Count
    unique_users: Count
    error_count: Count
    endpoint_counts: list[dict[str, Any]]
    status_counts: list[dict[str, Any]]
    user_counts: list[dict[str, Any]]
    notes: list[str]
