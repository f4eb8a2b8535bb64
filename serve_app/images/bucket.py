"""Objects in one bucket of an S3-compatible server. boto3 blocks, so every call runs in a thread of its own pool.

Imported only where IMAGE_STORE_URL is set: boto3 is an extra.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from serve_app.errors import StoreUnavailable
from serve_app.images.store import store_unreachable
from serve_app.settings import MIB, Settings

PART_BYTES: Final = 8 * MIB
"""Larger objects are sent in parts of this size; a part that fails is sent again alone."""
THREADS: Final = 16
CALL_TIMEOUT_S: Final = 60.0
"""Longest call, including the wait for a thread; far below the life of an unclaimed image."""
CONNECT_TIMEOUT_S: Final = 2.0
READ_TIMEOUT_S: Final = 10.0
ATTEMPTS: Final = 2
GONE: Final = frozenset({"NoSuchKey", "NoSuchUpload", "404"})

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Bucket:
    """The objects below the prefix of `IMAGE_STORE_URL`, by keys without the prefix.

    Every call has a deadline and raises `StoreUnavailable` if the server is down, refuses or does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        address = urlsplit(settings.image_store_url)
        self._bucket = address.netloc
        self._prefix = f"{path}/" if (path := address.path.strip("/")) else ""
        self._client = _connect(settings, settings.s3_endpoint_url)
        self._signer = _connect(settings, settings.s3_public_url or settings.s3_endpoint_url)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="bucket")
        self._watch = ThreadPoolExecutor(1, thread_name_prefix="bucket-watch")  # stays free when all others hang
        # Parts go one by one in the caller's thread, so that only one part is in memory besides the upload's bytes.
        self._transfer = TransferConfig(
            multipart_threshold=PART_BYTES,
            multipart_chunksize=PART_BYTES,
            use_threads=False,
            preferred_transfer_client="classic",
        )

    async def put(self, key: str, data: bytes, media_type: str) -> None:
        """Store an object, all or nothing; in parts from PART_BYTES on."""
        await self._call(
            self._client.upload_fileobj,
            io.BytesIO(data),
            self._bucket,
            self._prefix + key,
            ExtraArgs={"ContentType": media_type},
            Config=self._transfer,
        )

    async def get(self, key: str) -> bytes | None:
        """The object's bytes, or None if there is none."""
        return await self._call(self._read, key)

    async def delete(self, key: str) -> None:
        """Remove the object if it exists."""
        await self._call(self._client.delete_object, Bucket=self._bucket, Key=self._prefix + key)

    async def keys(self, after: str, limit: int) -> dict[str, datetime]:
        """The first keys after `after` in order, each with its time of writing. Fewer than `limit`: there are no
        more."""
        answer = await self._call(
            self._client.list_objects_v2,
            Bucket=self._bucket,
            Prefix=self._prefix,
            StartAfter=self._prefix + after,
            MaxKeys=limit,
        )
        return {found["Key"].removeprefix(self._prefix): found["LastModified"] for found in answer.get("Contents", ())}

    async def unfinished(self) -> list[tuple[str, str]]:
        """Key and upload id of the first thousand unfinished multipart uploads."""
        answer = await self._call(self._client.list_multipart_uploads, Bucket=self._bucket, Prefix=self._prefix)
        return [(found["Key"].removeprefix(self._prefix), found["UploadId"]) for found in answer.get("Uploads", ())]

    async def abort(self, key: str, upload_id: str) -> None:
        """Remove the parts of an unfinished upload."""
        where = {"Bucket": self._bucket, "Key": self._prefix + key, "UploadId": upload_id}
        await self._call(self._client.abort_multipart_upload, **where)

    async def check(self) -> None:
        """Return if the bucket exists and may be used. Logs nothing: the caller checks often, and logs changes."""
        await self._run(self._watch, self._client.head_bucket, Bucket=self._bucket)

    async def presign(self, key: str, file_name: str, expires_s: int, media_type: str) -> str:
        """A URL that lets its holder download the object under that name and type until the URL expires."""
        where = {
            "Bucket": self._bucket,
            "Key": self._prefix + key,
            "ResponseContentDisposition": f'attachment; filename="{file_name}"',
            "ResponseContentType": media_type,
        }
        return await self._call(self._signer.generate_presigned_url, "get_object", Params=where, ExpiresIn=expires_s)

    def close(self) -> None:
        """Take no more calls. Running ones end by their own deadlines."""
        for threads in (self._threads, self._watch):
            threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, key: str) -> bytes | None:
        try:
            with self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"] as body:
                return bytes(body.read())
        except ClientError as error:
            if _code(error) in GONE:
                return None
            raise

    async def _call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        try:
            return await self._run(self._threads, function, *args, **options)
        except StoreUnavailable as error:
            # The server's answer may name buckets and accounts, so it goes to the log and not to the caller.
            _log.warning("the image store failed: %s", error.__cause__)
            raise

    async def _run(self, threads: Executor, function: Callable[..., T], *args: Any, **options: Any) -> T:
        work = threads.submit(function, *args, **options)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await asyncio.wrap_future(work)
        except (BotoCoreError, ClientError, Boto3Error, TimeoutError) as error:
            raise store_unreachable() from error


def _connect(settings: Settings, endpoint: str) -> Any:
    """A thread-safe client. Without keys in the settings boto3 finds them itself: environment, pod or instance role."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id.get_secret_value() or None,
        aws_secret_access_key=settings.s3_secret_access_key.get_secret_value() or None,
        config=Config(
            signature_version="s3v4",
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            max_pool_connections=THREADS,
            s3={"addressing_style": "path" if endpoint else "virtual"},
            # Not every server knows the newer checksums; the signature or TLS covers the body.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
