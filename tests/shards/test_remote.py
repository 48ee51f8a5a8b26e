import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.load import parse_config
from configs.schema import TerraMeshSourceConfig
from shards.errors import SourceError
from shards.sources import remote
from shards.sources.base import refs_of
from shards.sources.remote import RemoteFolder
from shards.sources.terramesh import TerraMeshSource
from tests.shards.zarr_twins import write_parquets

DATA = np.random.default_rng(0).bytes(100_000)


class Server:
    """Files of a folder over http on this machine, with the faults that networks have."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[tuple[str, str | None]] = []
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.ranges = True
        self.length = True
        self.delay_s = 0.0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/data/"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name = handler.path.removeprefix("/data/")
        span = handler.headers["Range"]
        self.requests.append((name, span))
        path = self.root / name
        if self.statuses or not path.is_file():
            handler.send_error(self.statuses.pop(0) if self.statuses else 404)
            return
        time.sleep(self.delay_s)
        data, etag = path.read_bytes(), f'"{path.stat().st_mtime_ns}"'
        fits = handler.headers["If-Range"] in (None, etag)
        start = int(span[6:-1]) if span and self.ranges and fits else 0
        handler.send_response(206 if start else 200)
        handler.send_header("ETag", etag)
        if self.length:
            handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        stop = self.cuts.pop(0) if self.cuts else len(data)
        with contextlib.suppress(ConnectionError):
            handler.wfile.write(data[start:stop])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "_BACKOFF_S", 0.001)
    (tmp_path / "root" / "val").mkdir(parents=True)
    (tmp_path / "root" / "val" / "a.tar").write_bytes(DATA)
    with contextlib.closing(Server(tmp_path / "root")) as running:
        yield running


@pytest.fixture
def folder(server: Server, tmp_path: Path) -> RemoteFolder:
    return RemoteFolder(server.url, tmp_path / "cache", 10**9)


def content(folder: RemoteFolder, name: str = "val/a.tar") -> bytes | None:
    with folder.open(name) or contextlib.nullcontext() as file:
        return file.read() if file else None


def cached(tmp_path: Path) -> list[str]:
    files = (p for p in (tmp_path / "cache").rglob("*") if p.is_file())
    return sorted(p.name for p in files if p.parent.name != ".locks")


def test_a_file_is_fetched_once(server: Server, folder: RemoteFolder, tmp_path: Path) -> None:
    assert content(folder) == DATA
    assert content(folder) == DATA
    assert server.requests == [("val/a.tar", None)]
    assert (tmp_path / "cache" / "val" / "a.tar").read_bytes() == DATA


def test_what_the_server_lacks_is_none(folder: RemoteFolder, tmp_path: Path) -> None:
    assert content(folder, "val/b.tar") is None
    assert cached(tmp_path) == []


def test_a_cut_connection_is_taken_up_where_it_broke(server: Server, folder: RemoteFolder) -> None:
    server.cuts = [30_000, 30_000, 70_000]
    assert content(folder) == DATA
    # The second connection looks at the header alone, the third brings the middle.
    spans = [span for _, span in server.requests]
    assert spans[:3] == [None, None, "bytes=30000-"]
    assert spans[-1] == "bytes=70000-"


def test_any_number_of_cuts_is_borne_while_something_arrives(
    server: Server, folder: RemoteFolder
) -> None:
    server.cuts = [10_000]
    for stop in range(20_000, 100_000, 10_000):
        # One connection looks at the header, one goes on.
        server.cuts += [0, stop]
    assert content(folder) == DATA
    assert len(server.requests) > 2 * remote._NUM_TRIES


def leave_part(server: Server, folder: RemoteFolder) -> None:
    """Bring 40,000 bytes and then nothing more, until the reader gives up."""
    server.cuts = [40_000] + [0] * 20
    with pytest.raises(
        SourceError, match="the connection ended after 40000 of 100000 bytes; given"
    ):
        folder.open("val/a.tar")
    server.cuts = []


def test_what_has_arrived_is_kept_for_the_next_process(
    server: Server, folder: RemoteFolder, tmp_path: Path
) -> None:
    leave_part(server, folder)
    (part,) = cached(tmp_path)
    assert part.startswith(".a.tar.")
    assert content(folder) == DATA
    assert server.requests[-1] == ("val/a.tar", "bytes=40000-")
    assert cached(tmp_path) == ["a.tar"]


def test_a_part_of_another_version_is_not_continued(server: Server, folder: RemoteFolder) -> None:
    leave_part(server, folder)
    path = server.root / "val" / "a.tar"
    path.write_bytes(DATA[::-1])
    os.utime(path, ns=(1, 1))
    assert content(folder) == DATA[::-1]


def test_a_server_without_ranges_begins_anew(server: Server, folder: RemoteFolder) -> None:
    server.ranges = False
    server.cuts = [30_000]
    assert content(folder) == DATA


def test_passing_faults_are_tried_again(server: Server, folder: RemoteFolder) -> None:
    server.statuses = [503, 429, 500]
    assert content(folder) == DATA


def test_a_server_that_stays_broken_is_given_up(server: Server, folder: RemoteFolder) -> None:
    server.statuses = [503] * 100
    with pytest.raises(SourceError, match=r"val/a\.tar: HTTP Error 503.*; given up after 6 tries"):
        folder.open("val/a.tar")


def test_no_server_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_BACKOFF_S", 0.001)
    with pytest.raises(SourceError, match=r"refused.*Check the network"):
        RemoteFolder("http://127.0.0.1:9/data", tmp_path, 10**9).open("a")


@pytest.mark.parametrize(
    ("status", "told"), [(403, "download the data set with your account"), (400, "correct source")]
)
def test_a_refusal_is_told_at_once(
    server: Server, folder: RemoteFolder, status: int, told: str
) -> None:
    server.statuses = [status]
    with pytest.raises(SourceError, match=f"answers {status} .*; {told}"):
        folder.open("val/a.tar")
    assert len(server.requests) == 1


def test_a_file_of_unknown_length_is_refused(server: Server, folder: RemoteFolder) -> None:
    server.length = False
    with pytest.raises(SourceError, match="does not say how long the file is"):
        folder.open("val/a.tar")


def test_what_was_used_longest_ago_makes_room(server: Server, tmp_path: Path) -> None:
    folder = RemoteFolder(server.url, tmp_path / "cache", 250_000)
    for name in "bcd":
        (server.root / "val" / f"{name}.tar").write_bytes(DATA)
    opened = folder.open("val/a.tar")
    assert opened is not None
    content(folder, "val/b.tar")
    for age_s, name in ((100, "a"), (200, "b")):
        used = time.time() - age_s
        os.utime(tmp_path / "cache" / "val" / f"{name}.tar", (used, used))
    content(folder, "val/c.tar")
    assert cached(tmp_path) == ["a.tar", "c.tar"]
    # Use counts, not age.
    used = time.time() - 50
    os.utime(tmp_path / "cache" / "val" / "c.tar", (used, used))
    content(folder, "val/a.tar")
    content(folder, "val/d.tar")
    assert cached(tmp_path) == ["a.tar", "d.tar"]
    content(folder, "val/b.tar")
    content(folder, "val/c.tar")
    assert cached(tmp_path) == ["b.tar", "c.tar"]
    with opened:
        assert opened.read() == DATA


def test_abandoned_parts_make_room_and_others_stay(server: Server, tmp_path: Path) -> None:
    parts = tmp_path / "cache" / "val"
    parts.mkdir(parents=True)
    for name in (".x.tar.1.part", ".y.tar.1.part"):
        (parts / name).write_bytes(DATA)
    used = time.time() - 7200
    os.utime(parts / ".x.tar.1.part", (used, used))
    content(RemoteFolder(server.url, tmp_path / "cache", 150_000))
    assert cached(tmp_path) == [".y.tar.1.part", "a.tar"]


def _open_elsewhere(url: str, cache: Path) -> None:
    assert content(RemoteFolder(url, cache, 10**9)) == DATA


def test_processes_share_one_download(server: Server, tmp_path: Path) -> None:
    server.delay_s = 0.3
    context = multiprocessing.get_context("fork")
    others = [
        context.Process(target=_open_elsewhere, args=(server.url, tmp_path / "cache"))
        for _ in range(3)
    ]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0, 0]
    assert server.requests == [("val/a.tar", None)]


def test_terramesh_behind_a_url_is_terramesh(
    server: Server, own_terramesh: Path, tmp_path: Path
) -> None:
    write_parquets(own_terramesh)
    root = server.root = own_terramesh
    options = {
        "splits": ("train", "val", "test"),
        "modalities": ("S2L2A", "S1GRD", "S1RTC", "date"),
    }
    local = TerraMeshSource(TerraMeshSourceConfig(path=str(root), **options))
    config = TerraMeshSourceConfig(path=server.url, cache=tmp_path / "cache", **options)
    source = TerraMeshSource(config)
    assert source.rows == local.rows
    dropped = ["num_bytes"]
    listing = source.listing()
    assert listing.drop_columns(dropped) == local.listing().drop_columns(dropped)
    # Another rank reads without listing, from what is in the cache already or fetched now.
    other = TerraMeshSource(config)
    server.cuts = [200_000]
    for ref in refs_of(listing):
        found, expected = other.read(ref), local.read(ref)
        assert found.meta == expected.meta
        assert found.faults == {}
        assert found.parts.keys() == expected.parts.keys()
        for name in found.parts.keys() - {"date"}:
            np.testing.assert_array_equal(found.parts[name], expected.parts[name])
    tars = [name for name, span in server.requests if name.endswith(".tar") and not span]
    assert sorted(tars).count("val/S1GRD/majortom_shard_000001.tar") == 1
    assert source.fingerprint() == other.fingerprint() != local.fingerprint()


def test_a_url_without_parquet_says_that_it_is_needed(server: Server, tmp_path: Path) -> None:
    source = TerraMeshSource(TerraMeshSourceConfig(path=server.url, cache=tmp_path / "cache"))
    with pytest.raises(SourceError, match=r"\{split\}_metadata\.parquet, which is needed to know"):
        source.listing()


def test_a_url_without_cache_says_what_to_write() -> None:
    source = {"type": "terramesh", "path": "https://example.org/TerraMesh"}
    with pytest.raises(ConfigError, match="write cache=FOLDER"):
        parse_config({"kind": "shards", "source": source, "out": "out"})
