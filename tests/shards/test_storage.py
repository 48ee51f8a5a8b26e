"""Shards behind a URL, and copies of shards on a fast disk."""

import functools
import http.server
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from configs.schema import DataConfig
from shards import open_data
from shards.dataset import Dataset, open_dataset
from shards.errors import DamagedError, ShardError
from tests.shards.test_dataset import flip_bit

pytest.importorskip("aiohttp", reason="needs fsspec[http]")


class Ranges(http.server.SimpleHTTPRequestHandler):
    """The standard library's server plus what object stores have: byte ranges."""

    requests: list[str]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, asked = path.read_bytes(), self.headers.get("Range")
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            self.send_response(206)
            total = len(data)
            data = data[int(first) : int(last) + 1]
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.write(data)
        self.requests.append(f"{path.name} {asked or 'whole'}")

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def served(copy: Path) -> Iterator[tuple[str, list[str]]]:
    """A data set's URL and the requests the server got."""
    requests: list[str] = []
    handler = type("Handler", (Ranges,), {"requests": requests})
    where = functools.partial(handler, directory=str(copy.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), where) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{copy.name}", requests
        server.shutdown()


def same(a: Dataset, b: Dataset) -> None:
    assert a.keys == b.keys
    for i in range(a.num_samples):
        ours, theirs = a.read(i, a.modalities), b.read(i, b.modalities)
        assert ours.keys() == theirs.keys()
        for name, part in ours.items():
            np.testing.assert_array_equal(part, theirs[name])


# aiohttp leaves its connections to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards_behind_a_url_are_read_by_ranges(
    copy: Path, served: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, requests = served
    remote = open_dataset(url, cache=tmp_path / "heads", cache_gb=1e-9)
    same(remote, open_dataset(copy))
    same(pickle.loads(pickle.dumps(remote)), open_dataset(copy))
    tars = [r for r in requests if ".tar " in r]
    assert tars
    assert not [r for r in tars if r.endswith("whole")]
    config = DataConfig(shards=url, cache=tmp_path / "heads")
    assert open_data(config).num_samples == 10
    num = len([r for r in requests if r.startswith("index.bin")])
    open_dataset(url, cache=tmp_path / "heads")
    assert len([r for r in requests if r.startswith("index.bin")]) == num
    with pytest.raises(ShardError, match="holds no manifest"):
        open_dataset(url + "x")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cut_remote_shard_is_told(copy: Path, served: tuple[str, list[str]]) -> None:
    tar = copy / "train/shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[:4096])
    with pytest.raises(ShardError, match="4096 bytes long"):
        open_dataset(served[0])
    remote = open_dataset(served[0], verify=False)
    with pytest.raises(DamagedError, match="behind its end"):
        remote.read(3, ["DEM"])


def test_shards_are_copied_to_a_fast_disk_and_read_from_there(copy: Path, tmp_path: Path) -> None:
    cached = open_dataset(copy, cache=tmp_path / "fast")
    plain = open_dataset(copy)
    same(cached, plain)
    assert cached._cache is not None
    cached._cache.wait()
    copies = sorted(p.name for p in (tmp_path / "fast").rglob("*.tar"))
    assert copies == sorted(p.name for p in copy.rglob("*.tar"))
    for tar in copy.rglob("*.tar"):
        tar.write_bytes(b"gone")
    again = open_dataset(copy, verify=False, cache=tmp_path / "fast")
    for i in range(again.num_samples):
        assert again.read(i, ["DEM"])["DEM"].shape == (1, 24, 24)  # type: ignore[union-attr]


def test_a_damaged_shard_is_not_copied_and_a_full_cache_stops(copy: Path, tmp_path: Path) -> None:
    tar = flip_bit(copy, "place4.S2L2A.b2")
    cached = open_dataset(copy, cache=tmp_path / "fast")
    for i in range(cached.num_samples):
        cached.read(i, ["DEM"])
    assert cached._cache is not None
    cached._cache.wait()
    folder = tmp_path / "fast" / cached.fingerprint
    copies = {p.relative_to(folder) for p in folder.rglob("*.tar")}
    assert copies == {p.relative_to(copy) for p in copy.rglob("*.tar")} - {tar.relative_to(copy)}
    small = open_dataset(copy, cache=tmp_path / "small", cache_gb=1e-9)
    small.read(0, ["DEM"])
    assert small._cache is not None
    small._cache.wait()
    assert not list((tmp_path / "small").rglob("*.tar"))
    assert small._cache.num_refused == 1
