"""A bucket that could not work is refused when the settings are read, in words that name the setting."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serve_app.images.bucket_store import mark_of
from serve_app.settings import MIB, Settings


@pytest.mark.parametrize(
    "url", ["sem-images", "http://sem-images", "s3://", "s3://A", "s3://images/a b", "s3://a/../b c"]
)
def test_what_is_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="IMAGE_STORE_URL"):
        Settings(image_store_url=url)


@pytest.mark.parametrize("url", ["s3://sem-images", "s3://sem-images/", "s3://sem-images/one/two", "s3://a.b-c/x_y/"])
def test_buckets_with_and_without_a_prefix(url: str) -> None:
    assert Settings(image_store_url=url).image_store_url == url


@pytest.mark.parametrize("name", ["s3_endpoint_url", "s3_public_url"])
@pytest.mark.parametrize("url", ["s3.example.org", "ftp://s3.example.org", "https://key:secret@s3.example.org"])
def test_what_is_no_endpoint_is_refused(name: str, url: str) -> None:
    with pytest.raises(ValidationError, match=name.upper()) as caught:
        Settings(**{name: url})
    assert "secret" not in str(caught.value)


def test_half_a_credential_and_a_budget_below_one_image_are_refused() -> None:
    with pytest.raises(ValidationError, match="S3_SECRET_ACCESS_KEY"):
        Settings(s3_access_key_id="key")
    with pytest.raises(ValidationError, match="UPLOAD_BYTES_IN_FLIGHT"):
        Settings(image_max_bytes=300 * MIB)


def test_a_decode_worker_has_memory_for_the_largest_image_there_may_be() -> None:
    """One that cannot even take it in dies before it says which input it had, and takes its pool with it."""
    with pytest.raises(ValidationError, match="DECODE_MEMORY_MIB must be at least three times IMAGE_MAX_BYTES"):
        Settings(image_max_bytes=100 * MIB, decode_memory_mib=299)
    assert Settings(image_max_bytes=100 * MIB, decode_memory_mib=300)


@pytest.mark.parametrize(
    ("key", "mark"),
    [
        ("inputs/one", "blob:one"),
        ("outputs/one/mask.png", "outputs:one"),
        ("other/one", None),
        ("inputs", None),
    ],
)
def test_what_says_that_an_object_is_needed(key: str, mark: str | None) -> None:
    assert mark_of(key) == mark
