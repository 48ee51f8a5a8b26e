"""Shards behind a URL, and copies of shards on a fast disk."""

import functools
import http.server
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import DataConfig
from shards import open_data, storage
from shards.dataset import Dataset, open_dataset
from shards.errors import DamagedError, ShardError
from shards.store import Store
from tests.shards.test_dataset import flip_bit

pytest.importorskip("aiohttp", reason="needs fsspec[http]")


class Ranges(http.server.SimpleHTTPRequestHandler):
    """The standard library's server plus what object stores have: byte ranges."""

    requests: list[str]
    broken: set[str]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.name in self.broken:
            self.send_error(500)
            return
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
def broken() -> set[str]:
    """Names of files that the server has trouble with."""
    return set()


@pytest.fixture
def served(copy: Path, broken: set[str]) -> Iterator[tuple[str, list[str]]]:
    """A data set's URL and the requests the server got."""
    requests: list[str] = []
    handler = type("Handler", (Ranges,), {"requests": requests, "broken": broken})
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
    assert small._cache.refused == {"train/shard-000000"}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_server_in_trouble_damages_samples_and_stops_no_copying(
    served: tuple[str, list[str]], broken: set[str], tmp_path: Path
) -> None:
    remote = open_dataset(served[0], cache=tmp_path / "fast")
    broken.add("shard-000000.tar")
    with pytest.raises(DamagedError, match=r"ClientResponseError.*500"):
        remote.read(0, ["DEM"])
    last = remote.num_samples - 1
    split, name, _ = remote.location(last)
    broken.clear()
    remote.read(last, ["DEM"])
    assert remote._cache is not None
    remote._cache.wait()
    assert (remote._cache.folder / split / f"{name}.tar").exists()


def test_a_net_that_is_away_is_told_for_every_shard(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: str) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("shards.store.open_tar", away)
    found = Dataset(copy, root="http://nowhere/set", verify=False).damaged_shards()
    assert len(found) == len(list(copy.rglob("*.tar")))
    assert all("cannot be asked for its size: no route to host" in line for line in found)


def firsts(dataset: Dataset) -> list[int]:
    """The first sample of each shard."""
    return [dataset.shard_samples(*shard)[0] for shard in dataset.shards]


def test_two_copiers_share_the_room_there_is(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    copy_all = storage._copy_all

    def slow(*args: Any) -> None:
        begun.set()
        assert go.wait(30)
        copy_all(*args)

    monkeypatch.setattr(storage, "_copy_all", slow)
    largest = max(tar.stat().st_size for tar in copy.rglob("*.tar"))
    sets = [open_dataset(copy, cache=tmp_path / "fast", cache_gb=largest / 1e9) for _ in range(2)]
    first, second, _ = firsts(sets[0])
    sets[0].read(first, ["DEM"])
    assert begun.wait(30)
    sets[1].read(second, ["DEM"])
    go.set()
    for one in sets:
        assert one._cache is not None
        one._cache.wait()
    assert len(list((tmp_path / "fast").rglob("*.tar"))) == 1
    assert sets[1]._cache is not None
    assert len(sets[1]._cache.refused) == 1


def test_what_a_killed_copier_left_is_swept(copy: Path, tmp_path: Path) -> None:
    cached = open_dataset(copy, cache=tmp_path / "fast")
    leftover = tmp_path / "fast" / cached.fingerprint / "train" / ".x.tar.tmp-elsewhere-1"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(bytes(1000))
    cached.read(0, ["DEM"])
    assert cached._cache is not None
    cached._cache.wait()
    assert not leftover.exists()


def test_a_refused_shard_is_asked_for_once(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    part_of = Store._part_of

    def counting(store: Store, shard: int) -> Any:
        asked.append(shard)
        return part_of(store, shard)

    monkeypatch.setattr(Store, "_part_of", counting)
    small = open_dataset(copy, cache=tmp_path / "small", cache_gb=1e-9)
    assert small._cache is not None
    small.read(0, ["DEM"])
    small._cache.wait()
    small.read(0, ["DEM"])
    small.read(1, ["DEM"])
    assert asked == [0]
    assert small._own._copies == {0: str(copy / "train/shard-000000.tar")}
