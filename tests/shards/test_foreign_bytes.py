"""What foreign files may do that must not cost a sample: names, days, CRSs and sizes of every kind."""

import io
import os
import tarfile
from pathlib import Path

import pytest
import rasterio
from rasterio.crs import CRS

from shards.errors import DamagedError, SampleError
from shards.sources.decoders import decode_meta_json
from shards.sources.grid import centre_at
from shards.sources.tar_members import walk
from shards.tar import header


def walked(path: Path) -> list[tuple[str, bytes]]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return [(m.name, os.pread(fd, m.num_bytes, m.offset)) for m in walk(fd)]
    finally:
        os.close(fd)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_name_may_be_cut_inside_a_character(form: int, tmp_path: Path) -> None:
    # The header's own name ends after 100 bytes, in the middle of one of these letters.
    names = ["x" + "é" * 60 + ".txt", "plain.txt"]
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    assert walked(tmp_path / "a.tar") == [(name, b"abc") for name in names]


def test_a_member_of_negative_size_ends_the_walk(tmp_path: Path) -> None:
    block = bytearray(header("k.txt", 0))
    block[124:136] = b"-0000001000\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(bytes(block) + bytes(1024))
    with pytest.raises(DamagedError, match="a member of -512 bytes"):
        walked(tmp_path / "a.tar")


def test_times_in_foreign_meta_data_become_days() -> None:
    meta = decode_meta_json(b'{"times": {"S2L2A": "2021-07-23T10:00:00Z"}}', "test", "a.json")
    assert meta.times == {"S2L2A": "2021-07-23"}
    with pytest.raises(SampleError, match="'soon' is not a day"):
        decode_meta_json(b'{"times": {"S2L2A": "soon"}}', "test", "a.json")


def test_a_grid_of_its_own_has_no_place_on_earth() -> None:
    local = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    assert centre_at(local, rasterio.Affine(10, 0, 0, 0, -10, 0)[:6], 8, 8) is None
    lonlat = centre_at(CRS.from_epsg(32633), (10, 0, 500000, 0, -10, 5000000), 2, 2)
    assert lonlat is not None
    assert lonlat[0] == pytest.approx(15, abs=1e-3)
