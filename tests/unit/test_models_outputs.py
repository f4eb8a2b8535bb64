"""What files a model may give, and that the route gives no others."""

from __future__ import annotations

import pytest

from serve_app.contracts import Job, JobStatus, Output
from serve_app.errors import ModelRejected
from serve_app.gateway.routes.jobs import _output_names
from serve_app.models.contract import OUTPUTS_MAX, Answer, ResultWithOutputs
from tests.toy_files import Bright

FILE = Output("image/png", b"12345")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", 'a"b', "a\n", "ä.png", "x" * 101])
def test_a_name_that_is_no_plain_file_name_is_refused(name: str) -> None:
    with pytest.raises(ModelRejected, match="not allowed"):
        Answer(Bright(share=0.5), {name: FILE}).check(100)


@pytest.mark.parametrize("media_type", ["", "png", "text/html\r\nX: y", "text/html; charset=utf-8"])
def test_a_media_type_that_is_none_is_refused(media_type: str) -> None:
    with pytest.raises(ModelRejected, match="not allowed"):
        Answer(Bright(share=0.5), {"a": Output(media_type, b"")}).check(100)


def test_too_many_and_too_large_files_are_refused() -> None:
    many = {f"file-{number}": FILE for number in range(OUTPUTS_MAX + 1)}
    with pytest.raises(ModelRejected, match="more than 16"):
        Answer(Bright(share=0.5), many).check(1000)
    with pytest.raises(ModelRejected, match="larger than 9"):
        Answer(Bright(share=0.5), {"a": FILE, "b": FILE}).check(9)


def test_what_fits_is_listed_in_the_result() -> None:
    answer = Answer(Bright(share=0.5), {"mask-1.png": FILE, "b": Output("text/plain", b"")})
    answer.check(5)
    assert answer.listed().model_dump(mode="json") == {
        "share": 0.5,
        "outputs": [
            {"name": "mask-1.png", "media_type": "image/png", "bytes": 5},
            {"name": "b", "media_type": "text/plain", "bytes": 0},
        ],
    }


def test_the_list_is_part_of_the_schema() -> None:
    assert set(Bright.model_json_schema()["properties"]) == {"outputs", "share"}
    assert ResultWithOutputs().outputs == ()


@pytest.mark.parametrize(
    ("status", "result", "names"),
    [
        (JobStatus.COMPLETED, {"outputs": [{"name": "a"}, {"name": "b"}]}, {"a", "b"}),
        (JobStatus.COMPLETED, {"outputs": 3}, set()),
        (JobStatus.COMPLETED, {"outputs": ["a"]}, set()),
        (JobStatus.COMPLETED, {}, set()),
        (JobStatus.FAILED, None, set()),
        (JobStatus.PROCESSING, {"outputs": [{"name": "a"}]}, set()),
    ],
)
def test_only_listed_files_of_a_completed_job_are_given(
    status: JobStatus, result: dict[str, object] | None, names: set[str]
) -> None:
    assert _output_names(Job("id", "o", "m", status, {}, None, 0, result=result)) == names
