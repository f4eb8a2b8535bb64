"""The answers of a route as the document has them: the good ones, and the problems by status."""

from __future__ import annotations

from collections import defaultdict
from http import HTTPStatus

from serve_app.contracts import Json
from serve_app.errors import ServiceError
from serve_app.gateway.description.groups.operation import Content, Operation
from serve_app.gateway.description.headers import headers_of
from serve_app.gateway.description.links import Targets
from serve_app.gateway.description.schemas import Problem, Schemas
from serve_app.gateway.endpoint import Problems, RouteSpec


def answers_of(route: RouteSpec, operation: Operation, problems: Problems, schemas: Schemas, targets: Targets) -> Json:
    """By status; the problems of one status are examples of one answer."""
    limited = route.tracked is not None
    answers: dict[str, Json] = {}
    for status, contents in operation.answers.items():
        names = dict.fromkeys((*headers_of(status, limited=limited), *operation.answer_headers))
        answer: Json = {"description": HTTPStatus(status).phrase, "headers": _headers(*names)}
        if contents:
            answer["content"] = dict(_content(content, schemas) for content in contents)
        if route.method == "POST" and not isinstance(contents[0], str) and (links := targets.links(contents[0])):
            answer["links"] = links
        answers[str(status)] = answer
    by_status: dict[int, list[type[ServiceError]]] = defaultdict(list)
    for problem in problems:
        by_status[problem.status].append(problem)
    for status, met in sorted(by_status.items()):
        answer = answers.setdefault(str(status), {"description": _titles(met)})
        answer["headers"] = _headers(*headers_of(status, limited=limited))
        answer.setdefault("content", {})["application/problem+json"] = {
            "schema": schemas.sent(Problem),
            "examples": {one.slug: {"$ref": f"#/components/examples/{one.slug}"} for one in met},
        }
    return answers


def _content(content: Content, schemas: Schemas) -> tuple[str, Json]:
    if isinstance(content, str):
        # What reads descriptions takes the schema of a stream for that of each event; those are told in the text.
        return content, {} if content == "text/event-stream" else {"schema": {"type": "string"}}
    return "application/json", {"schema": schemas.sent(content)}


def _titles(problems: list[type[ServiceError]]) -> str:
    return "; ".join(one.title for one in problems)


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
