"""The head of a data set behind a URL: manifest, index and samples table, fetched once into a folder.

    CACHE/<digest of the URL>/{manifest.json,index.bin,samples.parquet}

Tars stay where they are and are read by ranges. Extras and splittings of a remote data set are not
looked for: a web server has no listing.
"""

import tempfile
from pathlib import Path

import xxhash

from shards.errors import ShardError
from shards.files import write_atomic
from shards.manifest import INDEX, MANIFEST, SAMPLES
from shards.storage import driver_errors, url_to_fs


def fetch_heads(url: str, cache: Path | None) -> Path:
    """The folder with the data set's own files. Raises ShardError when they cannot be had.

    The manifest is asked for every time; index and table only when it is another one than before.
    """
    base = cache or Path(tempfile.gettempdir()) / "eo-pretrain-heads"
    folder = base / xxhash.xxh3_64_hexdigest(url.encode())
    manifest = _get(url, MANIFEST)
    path = folder / MANIFEST
    if path.is_file() and path.read_bytes() == manifest:
        return folder
    # The manifest comes last, as in a build: without it the folder is no data set.
    path.unlink(missing_ok=True)
    for name in (INDEX, SAMPLES):
        write_atomic(folder / name, _get(url, name))
    write_atomic(path, manifest)
    return folder


def _get(url: str, name: str) -> bytes:
    fs, path = url_to_fs(f"{url.rstrip('/')}/{name}")
    try:
        with driver_errors(url):
            return fs.cat_file(path)
    except FileNotFoundError as error:
        raise ShardError(f"{url} holds no {name}, so it is not a finished data set") from error
    except OSError as error:
        raise ShardError(f"{url}: {name} cannot be fetched: {error}") from error
