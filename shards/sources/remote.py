"""Files behind an http(s) URL, fetched whole into a folder that several processes may share.

    CACHE/val/S2L2A/majortom_shard_000001.tar       there when it is complete
    CACHE/val/S2L2A/.NAME.<identity>.part           what has arrived; a later try goes on from there
    CACHE/.locks/                                   who fetches which file, who makes room

- One process fetches a file, the others wait for it. A broken connection is taken up again where it
  broke (Range); the file appears when it has the size the server told.
- Files are handed out open: one that is thrown out to make room stays readable for whoever has it.
- The files used last stay, up to a number of bytes; use is noted in the time of modification.
"""

import contextlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from shards.errors import SourceError
from shards.files import disk_errors, fsync_folder, hold_lock

_TIMEOUT_S = 60
_NUM_TRIES = 6
_BACKOFF_S = 1.0
_PIECE_BYTES = 1 << 20
# A part that nobody has added to for so long was left by a process that was killed.
_ABANDONED_S = 3600
_LOCKS = ".locks"
_NOT_FOUND = (404, 410)
_PASSING = (408, 425, 429, 500, 502, 503, 504)


class RemoteFolder:
    """Files below `url`, at most `cache_bytes` of them kept in the folder `cache`."""

    def __init__(self, url: str, cache: Path, cache_bytes: int) -> None:
        self._url = url.rstrip("/")
        self._cache = cache
        self._cache_bytes = cache_bytes

    def __str__(self) -> str:
        return self._url

    def open(self, name: str) -> BinaryIO | None:
        """The file `name` below the URL, fetched if need be; None where the server has no such file.

        Raises SourceError when it cannot be fetched, ShardError when the cache's disk refuses.
        """
        path = self._cache / name
        with disk_errors(self._cache):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(name):
            with contextlib.suppress(FileNotFoundError):
                file = path.open("rb")
                # By descriptor: thrown out in this moment, it is still ours to read.
                os.utime(file.fileno())
                return file
            return self._fetch(f"{self._url}/{urllib.parse.quote(name)}", path)

    def _fetch(self, url: str, path: Path) -> BinaryIO | None:
        """Try until it is there; only tries that bring nothing new are counted."""
        failures, had = 0, 0
        while True:
            try:
                return self._try(url, path)
            except urllib.error.HTTPError as error:
                error.close()
                if error.code in _NOT_FOUND:
                    return None
                if error.code not in _PASSING:
                    raise SourceError(_refusal(url, error)) from error
                reason: Exception = error
            except (OSError, http.client.HTTPException) as error:
                reason = error
            have = sum(part.stat().st_size for part in _parts(path))
            failures = 0 if have > had else failures + 1
            had = max(had, have)
            if failures == _NUM_TRIES:
                raise SourceError(
                    f"{url}: {reason}; given up after {failures} tries. Check the network and run "
                    "the same command again: what has arrived is kept"
                ) from reason
            time.sleep(_BACKOFF_S * 2**failures)

    def _try(self, url: str, path: Path) -> BinaryIO:
        """One connection, or two when there is a part to go on from."""
        with _request(url) as response:
            size = _size(response, url)
            etag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
            identity = xxhash.xxh3_64_hexdigest(f"{size} {etag}".encode())
            part = path.with_name(f".{path.name}.{identity}.part")
            start = part.stat().st_size if part.exists() else 0
            if not start:
                self._make_room(size)
                _save(response, part, "wb")
        if 0 < start < size:
            with _request(url, start, etag) as response:
                # Without "partial content" the server begins anew.
                partial = response.status == http.HTTPStatus.PARTIAL_CONTENT
                _save(response, part, "ab" if partial else "wb")
        have = part.stat().st_size
        if have != size:
            if have > size:
                part.unlink()
            raise ConnectionError(f"the connection ended after {have} of {size} bytes")
        with disk_errors(path.parent):
            file = part.open("rb")
            os.fsync(file.fileno())
            part.rename(path)
            fsync_folder(path.parent)
        return file

    def _make_room(self, num_bytes: int) -> None:
        """Throw out what was used longest ago until `num_bytes` fit, or nothing is left."""
        with self._locked("room"):
            files = []
            for path in self._cache.rglob("*"):
                with contextlib.suppress(FileNotFoundError):
                    if path.is_file() and path.parent.name != _LOCKS:
                        files.append((path.stat().st_mtime, path.stat().st_size, path))
            excess = sum(size for _, size, _ in files) + num_bytes - self._cache_bytes
            for used, size, path in sorted(files):
                if path.suffix == ".part" and time.time() - used < _ABANDONED_S:
                    continue
                if excess <= 0:
                    break
                path.unlink(missing_ok=True)
                excess -= size

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold the lock of a file, across processes; it dies with its holder."""
        locks = self._cache / _LOCKS
        with disk_errors(self._cache):
            locks.mkdir(parents=True, exist_ok=True)
        with hold_lock(locks / urllib.parse.quote(name, safe="")):
            yield


def _request(url: str, start: int = 0, etag: str = "") -> Any:
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and etag and not etag.startswith("W/"):
        # The rest of another version would complete this one to nonsense.
        headers["If-Range"] = etag
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S)


def _size(response: Any, url: str) -> int:
    length = response.headers.get("Content-Length")
    if length is None:
        raise SourceError(
            f"{url}: the server does not say how long the file is, so a broken connection would "
            "not be noticed; download the data set and give its folder"
        )
    return int(length)


def _save(response: Any, part: Path, mode: str) -> None:
    with disk_errors(part.parent):
        file = part.open(mode)
    with file:
        while piece := response.read(_PIECE_BYTES):
            with disk_errors(part.parent):
                file.write(piece)


def _parts(path: Path) -> Iterator[Path]:
    return path.parent.glob(f".{path.name}.*.part")


def _refusal(url: str, error: urllib.error.HTTPError) -> str:
    told = f"{url}: the server answers {error.code} {error.reason}"
    if error.code in (401, 403):
        return f"{told}; download the data set with your account and give its folder"
    return f"{told}; correct source.path"
