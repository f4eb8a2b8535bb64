"""`semapi batch` and its client against a gateway on a real socket."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import click
import pytest
from gateway_parts import PICTURE, RESULT, Running, listening
from typer.testing import CliRunner

from serve_app.cli.main import commands
from serve_app.client import ITEMS_MAX, split

pytestmark = pytest.mark.gateway(rate_submits_per_s=1000.0)


@pytest.fixture
async def url(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setenv("SEMAPI_TOKEN", gateway.issuer.mint("ada"))
    async with listening(gateway.application) as url:
        yield url


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for place in range(5):
        (tmp_path / f"{place}.png").write_bytes(PICTURE)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


async def run(*words: str, url: str) -> tuple[int, str]:
    done = await asyncio.to_thread(CliRunner().invoke, commands, ["batch", *words, "--url", url])
    return done.exit_code, click.unstyle(done.stdout)


async def test_a_folder_is_sent_waited_for_and_read(url: str, pictures: Path) -> None:
    code, told = await run("submit", str(pictures), "--wait", url=url)
    batch_id, _, counts = told.strip().partition("  ")
    assert (code, counts) == (1, "5 completed, 1 refused")  # one file is no image
    code, told = await run("results", batch_id, url=url)
    lines = [json.loads(line) for line in told.splitlines()]
    assert [line["name"] for line in lines] == [*(f"{place}.png" for place in range(5)), "notes.txt"]
    assert [line["result"] for line in lines] == [*[RESULT] * 5, None]
    code, told = await run("results", batch_id, "--csv", url=url)
    assert [row["status"] for row in csv.DictReader(io.StringIO(told))] == [*["COMPLETED"] * 5, "REFUSED"]
    sheet = pictures / "day.csv"
    assert await run("results", batch_id, "--csv", "--output", str(sheet), url=url) == (0, "")
    assert sheet.read_text("utf-8") == "\ufeff" + told
    assert await run("status", batch_id, url=url) == (0, f"{batch_id}  5 completed, 1 refused\n")


async def test_a_batch_is_taken_back(url: str, pictures: Path, gateway: Running) -> None:
    gateway.model.open.clear()
    code, told = await run("submit", str(pictures / "0.png"), str(pictures / "1.png"), url=url)
    batch_id = told.split()[0]
    assert code == 0
    assert await run("cancel", batch_id, url=url) == (0, f"{batch_id}  2 cancelled\n")


async def test_what_is_not_there_is_said_in_one_line(url: str, tmp_path: Path) -> None:
    assert (await run("status", "no-such", url=url))[0] == 1
    assert (await run("submit", str(tmp_path), url=url))[0] == 1


def test_many_files_are_as_few_batches_as_may_be(tmp_path: Path) -> None:
    files = []
    for place in range(ITEMS_MAX + 1):
        files.append(tmp_path / f"{place}")
        files[-1].touch()
    with files[3].open("wb") as large:
        large.truncate(61 * 1024 * 1024)
    parts = list(split(files))
    assert [file for part in parts for file in part] == files
    assert [len(part) for part in parts] == [3, 1, 197]
