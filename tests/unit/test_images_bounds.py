"""A small TIFF file that unpacks to much, or claims much, costs no more than its declared size: measured in a process."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import imagecodecs
import numpy as np

from tests import pictures
from tests.tiff_writer import Kind, write

SMALL = np.zeros((64, 64), np.uint8)
PEAK_MIB = 60
"""More than every other reading of a small picture takes; each of the bombs unpacks to 150 MB or more."""

READ = """
import sys
from pathlib import Path
from serve_app.errors import ServiceError
from serve_app.images.decode import read_pixels
from serve_app.settings import Settings
from tests import peak
from tests.pictures import encode_tiff, gradient

read_pixels(encode_tiff(gradient(), compression="zlib"), Settings())
peak.forget()  # a process begins with the peak of the one that started it
before = peak.mib()
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_pixels(file.read_bytes(), Settings())
        said = "read"
    except ServiceError as error:
        said = error.detail
    print(file.stem, int(peak.mib() - before), said, sep="\t")
much = b"1" * 150_000_000
print("150 MB", int(peak.mib() - before), "", sep="\t")
"""


def claiming(name: str) -> bytes:
    """A picture of a picture format whose header claims 20,000 x 20,000 pixels."""
    side = 20_000
    if name == "png":
        return pictures.png_claiming(side, side)
    if name == "jpeg":
        data = bytearray(pictures.encode(SMALL, "JPEG"))
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", side, side)
        return bytes(data)
    data = bytearray(imagecodecs.jpeg2k_encode(SMALL, level=0, codecformat="j2k"))
    place = data.index(b"\xff\x51") + 6
    data[place : place + 8] = struct.pack(">II", side, side)
    return bytes(data)


def bombs() -> dict[str, bytes]:
    much = bytes(150_000_000)
    deflated = zlib.compress(much, 1)
    tile = {322: (4, [40_000]), 323: (4, [40_000])}
    return {
        "deflate": write(SMALL, Kind(compression=8, pieces=(deflated,))),
        "zstandard": write(SMALL, Kind(compression=50000, pieces=(bytes(imagecodecs.zstd_encode(much)),))),
        "lzma": write(SMALL, Kind(compression=34925, pieces=(bytes(imagecodecs.lzma_encode(much, level=0)),))),
        "lzw": write(SMALL, Kind(compression=5, pieces=(bytes(imagecodecs.lzw_encode(much)),))),
        "packbits": write(SMALL, Kind(compression=32773, pieces=(b"\x81\x00" * 1_200_000,))),
        "png inside": write(SMALL, Kind(compression=34933, pieces=(claiming("png"),))),
        "jpeg inside": write(SMALL, Kind(compression=7, pieces=(claiming("jpeg"),))),
        "jpeg 2000 inside": write(SMALL, Kind(compression=34712, pieces=(claiming("jpeg 2000"),))),
        "large tiles": write(SMALL, Kind(tags=tile, tile=(64, 64), compression=8)),
        "rows without end": write(SMALL, Kind(compression=8, tags={278: (4, [2**32 - 1])}, pieces=(deflated,))),
        "65,535 samples": write(SMALL, Kind(tags={277: (3, [65535])})),
        "fax": write(SMALL, Kind(1, compression=4, pieces=(b"\xff" * 1_000_000,))),
    }


def test_a_strip_or_tile_that_holds_more_than_its_place_costs_little(tmp_path: Path) -> None:
    files = tmp_path / "bombs"
    files.mkdir()
    for name, data in bombs().items():
        assert len(data) < 5_000_000
        (files / f"{name}.tif").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(files)], capture_output=True, text=True, timeout=60, check=True
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    *peaks, (_, much, _) = lines
    assert len(peaks) == 12
    assert all(int(peak) < PEAK_MIB for _, peak, _ in peaks), done.stdout
    assert int(much) > PEAK_MIB, "the measure sees nothing"


def test_no_file_beside_the_upload_is_opened() -> None:
    """OME-TIFF and others name companion files; a TIFF of a stranger must not make us read them."""
    from serve_app.images.decode import read_pixels
    from serve_app.settings import Settings

    xml = b"""<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">
    <Pixels ID="P:0" DimensionOrder="XYZCT" Type="uint8" SizeX="64" SizeY="64" SizeZ="2" SizeC="1" SizeT="1">
    <TiffData IFD="0" FirstZ="1"><UUID FileName="/etc/passwd">urn:uuid:1</UUID></TiffData></Pixels></Image></OME>\0"""
    data = write(SMALL, Kind(tags={270: (2, xml)}))
    opened: list[object] = []
    sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" and watching else None)
    watching = True
    try:
        pixels = read_pixels(data, Settings())
    finally:
        watching = False
    assert pixels.how["frame"] == "1 of 1"
    assert not opened
