"""The description of the API is whole and valid, and what it shows of problems is what clients get."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from markupsafe import escape
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel

from serve_app import errors
from serve_app.contracts import Json
from serve_app.errors import PROBLEMS, JobError
from serve_app.gateway.endpoint import RouteSpec
from serve_app.gateway.http import problem_media
from serve_app.gateway.openapi import HEADERS, PATH_PARAMETERS, make_document, parameters_of
from serve_app.gateway.routes.table import EVERY_AUTHENTICATED_ROUTE, EVERY_ROUTE, ROUTES, description

PUBLISHED = description()
DOCUMENT: Json = json.loads(PUBLISHED.document)
PAGE = PUBLISHED.page.decode()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_route_is_described(route: RouteSpec) -> None:
    for name in parameters_of(route.path):
        assert name in PATH_PARAMETERS, f"say in openapi.py what {{{name}}} of {route.path} is"
    assert route.example is not None or "application/json" not in route.bodies, "its JSON body needs an example"
    assert {*route.headers, *route.answer_headers} <= set(HEADERS), "describe its headers in openapi.py"
    assert route.handler.__doc__, "its handler's docstring is what the page tells"
    assert route.path in DOCUMENT["paths"]


def test_nothing_is_described_that_is_no_route() -> None:
    assert set(PATH_PARAMETERS) == {name for route in ROUTES for name in parameters_of(route.path)}


def test_an_answer_has_no_field_that_its_schema_does_not_name() -> None:
    shape = DOCUMENT["components"]["schemas"]["Job"]
    assert shape["additionalProperties"] is False
    assert "additionalProperties" not in DOCUMENT["components"]["schemas"]["UsageReport"] or (
        DOCUMENT["components"]["schemas"]["UsageReport"]["additionalProperties"] is True
    )


def test_the_document_is_valid_openapi() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_routes_say_what_they_need_and_which_problems_they_have() -> None:
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        assert ("security" in operation) == (route.tracked is not None)
        told = {
            slug
            for answer in operation["responses"].values()
            for slug in answer.get("content", {}).get(problem_media(route.path), {}).get("examples", {})
        }
        met = {*route.problems, *EVERY_ROUTE, *(EVERY_AUTHENTICATED_ROUTE if route.tracked else ())}
        assert told == {problem.slug for problem in met}
        assert told <= set(DOCUMENT["components"]["examples"])


def test_a_submit_links_to_the_reads_of_its_job() -> None:
    links = DOCUMENT["paths"]["/api/v1/jobs"]["post"]["responses"]["202"]["links"]
    assert links["get_jobs_job_id"]["parameters"] == {"job_id": "$response.body#/job_id"}
    assert links["post_jobs_results"]["requestBody"] == {"job_id": "$response.body#/job_id"}


class Ended(BaseModel):
    job_id: str


def test_webhooks_are_described_with_their_signature() -> None:
    document = make_document(ROUTES, EVERY_ROUTE, EVERY_AUTHENTICATED_ROUTE, {"job.ended": Ended}, "1.0.0")
    OpenAPIV31SpecValidator(document).validate()
    sent: Any = document["webhooks"]["job.ended"]["post"]
    assert {one["name"] for one in sent["parameters"]} == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    assert sent["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Ended"}


def test_the_page_loads_nothing_and_its_links_lead_somewhere() -> None:
    assert not re.search(r"<script|<link|<img|<iframe|<base|src=|@import|url\(", PAGE)
    places = re.findall(r'id="([^"]+)"', PAGE)
    assert len(set(places)) == len(places)
    targets = re.findall(r'href="([^"]+)"', PAGE)
    assert {target for target in targets if not target.startswith("#")} == {"/openapi.json"}
    assert {target[1:] for target in targets if target.startswith("#")} <= set(places)


def test_the_page_has_a_place_for_every_route_and_every_problem() -> None:
    for route in ROUTES:
        assert f"<code>{route.path}</code>" in PAGE
        assert escape(route.summary) in PAGE
    for problem in PROBLEMS.values():
        assert f'<details id="{problem.slug}">' in PAGE
        assert PUBLISHED.problems >= {problem.slug}
        if not issubclass(problem, JobError):
            assert DOCUMENT["components"]["examples"][problem.slug]["value"]["status"] == problem.status


def test_a_problem_type_is_found_by_its_class_name() -> None:
    for kind in PROBLEMS.values():
        assert getattr(errors, kind.__name__) is kind, "or an error of this type could not be pickled"
