"""What is measured: the contenders of each section, what they read, and the bars for ours."""

from dataclasses import dataclass
from typing import Literal

from benchmarks._measure import Contender
from benchmarks._workload import NAMES

TWO = ("S1GRD", "LULC")

# What must import for a host's contenders to run; hosts that are not named need nothing.
PACKAGES = {
    "webdataset": ("webdataset",),
    "MDS": ("streaming",),
    "litdata": ("litdata",),
    "energon": ("megatron.energon", "webdataset"),
    "TerraMesh": ("zarr", "webdataset"),
    "MPI": ("mpi4py",),
}


@dataclass(frozen=True)
class Section:
    """Contenders that do the same work."""

    name: str
    title: str
    kind: Literal["write", "read", "build"]
    contenders: tuple[Contender, ...]
    names: tuple[str, ...] = NAMES
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """`ours` must be at least so many times the fastest of `against`; of all peers when empty."""

    section: str
    ours: str
    against: tuple[str, ...]
    words: str
    at_least: float


_OURS = "ours"
_OWN = "webdataset, own encoder"
_BYTES = "webdataset, npy bytes"
_BUFFER = "webdataset, frombuffer"
_DECODE = "webdataset, .decode()"
_SAME = "webdataset, same codec"
_ANEW = "TerraMesh zarr.zip, anew"
_TEMPLATE = "TerraMesh zarr.zip, template"
_GROUP = "TerraMesh zarr.zip, group"
_ARRAY = "TerraMesh zarr.zip, array"
_SELECT = "webdataset, select_files"

SECTIONS = (
    Section(
        "write-raw",
        "writing raw arrays",
        "write",
        (
            Contender("disk, buffered", "limits", "limit", "_limits.write_disk", (False,)),
            Contender("disk, O_DIRECT", "limits", "limit", "_limits.write_disk", (True,)),
            Contender(_OURS, "ours", "ours", "_ours.write", ("npy", 0)),
            Contender("ours, whole build", "ours", "info", "_ours.write_dataset", ("npy",)),
            Contender(_OWN, "webdataset", "peer", "_webdataset.write_own_encoder"),
            Contender(_BYTES, "webdataset", "peer", "_webdataset.write_npy_bytes"),
            Contender("MDS", "MDS", "peer", "_peers.write_mds", (None,)),
            Contender("litdata", "litdata", "peer", "_peers.write_litdata"),
        ),
        note="energon has no writer: it uses webdataset's",
    ),
    Section(
        "write-compressed",
        "writing compressed arrays",
        "write",
        (
            Contender(
                *("codec alone, all cores", "limits", "limit"),
                *("_limits.encode_only", (0,), "", 0.5),
            ),
            Contender(
                *("codec alone, one thread", "limits", "info"),
                *("_limits.encode_only", (1,), "", 0.5),
            ),
            Contender(_OURS, "ours", "ours", "_ours.write", ("registry", 0)),
            Contender("ours, one thread", "ours", "ours", "_ours.write", ("registry", 1)),
            Contender("ours, whole build", "ours", "info", "_ours.write_dataset", ("registry",)),
            Contender(_SAME, "webdataset", "peer", "_webdataset.write_same_codec"),
            Contender(_ANEW, "TerraMesh", "peer", "_terramesh.write_anew", (), "", 0.25),
            Contender(
                _TEMPLATE, "TerraMesh", "peer", "_terramesh.write_from_template", (), "", 0.25
            ),
            Contender("MDS zstd:3", "MDS", "peer", "_peers.write_mds", ("zstd:3",), "", 0.25),
        ),
    ),
    Section(
        "read-raw",
        "reading raw arrays",
        "read",
        (
            Contender("page cache", "limits", "limit", "_limits.read_page_cache", (), "raw"),
            Contender("memcpy", "limits", "info", "_limits.copy_memory", (), "raw"),
            Contender(_OURS, "ours", "ours", "_ours.read_in_order", (0,), "npy"),
            Contender("ours, one thread", "ours", "ours", "_ours.read_in_order", (1,), "npy"),
            Contender("ours, random order", "ours", "ours", "_ours.read_shuffled", (0,), "npy"),
            Contender(_BUFFER, "webdataset", "peer", "_webdataset.read_frombuffer", (), "tars"),
            Contender(_DECODE, "webdataset", "peer", "_webdataset.read_decode", (), "tars"),
            Contender("MDS, dataset[i]", "MDS", "peer", "_peers.read_mds_by_number", (), "mds"),
            Contender("MDS, iterated", "MDS", "peer", "_peers.read_mds_iterated", (), "mds"),
            Contender("litdata", "litdata", "peer", "_peers.read_litdata", (), "litdata"),
            Contender("energon", "energon", "peer", "_peers.read_energon", (), "tars"),
        ),
    ),
    Section(
        "read-compressed",
        "reading compressed arrays",
        "read",
        (
            Contender("codec alone", "limits", "limit", "_limits.decode_only", (), "raw"),
            Contender(_OURS, "ours", "ours", "_ours.read_in_order", (0,), "registry"),
            Contender("ours, one thread", "ours", "ours", "_ours.read_in_order", (1,), "registry"),
            Contender(
                "ours, random order", "ours", "ours", "_ours.read_shuffled", (0,), "registry"
            ),
            Contender(_SAME, "webdataset", "peer", "_webdataset.read_same_codec", (), "registry"),
            Contender(_GROUP, "TerraMesh", "peer", "_terramesh.read_group", (), "zarr", 0.25),
            Contender(_ARRAY, "TerraMesh", "peer", "_terramesh.read_array", (), "zarr", 0.25),
        ),
    ),
    Section(
        "two-of-eight",
        f"reading two of eight modalities, {' and '.join(TWO)}, raw",
        "read",
        (
            Contender("page cache", "limits", "limit", "_limits.read_page_cache", (), "raw"),
            Contender(_OURS, "ours", "ours", "_ours.read_in_order", (1,), "npy"),
            Contender("ours, random order", "ours", "ours", "_ours.read_shuffled", (1,), "npy"),
            Contender(_SELECT, "webdataset", "peer", "_webdataset.read_selected", (), "npy"),
            Contender(
                *("webdataset, tars by modality", "webdataset", "info"),
                *("_webdataset.read_by_modality", (), "modality"),
            ),
        ),
        TWO,
    ),
    Section(
        "build",
        "building 48 px samples of the synthetic Earth",
        "build",
        (
            Contender("two processes, two folders", "MPI", "limit", "_build.build_two_at_once"),
            Contender("two MPI ranks", "MPI", "ours", "_build.build", (2,)),
            Contender("one process", "MPI", "peer", "_build.build", (1,)),
            Contender("one process, all cores", "MPI", "info", "_build.build_alone"),
        ),
        note="by the command's own clock, start-up of Python and MPI left out; see `_build.py`",
    ),
)

# Who writes what the readers read.
DATASETS = {
    "raw": Contender("", "limits", "info", "_limits.make_raw"),
    "npy": Contender("", "ours", "info", "_ours.write_dataset", ("npy",)),
    "registry": Contender("", "ours", "info", "_ours.write_dataset", ("registry",)),
    "tars": Contender("", "webdataset", "info", "_webdataset.write_npy_bytes"),
    "mds": Contender("", "MDS", "info", "_peers.write_mds", (None,)),
    "litdata": Contender("", "litdata", "info", "_peers.write_litdata"),
    "zarr": Contender("", "TerraMesh", "info", "_terramesh.write_from_template"),
    "modality": Contender("", "webdataset", "info", "_webdataset.write_by_modality", (TWO,)),
}

BARS = (
    Bar("write-raw", _OURS, (_OWN, _BYTES), "webdataset's ShardWriter", 1.8),
    Bar("write-compressed", _OURS, (_ANEW,), "a TerraMesh-style zarr.zip writer", 5.0),
    Bar("read-raw", _OURS, (_BUFFER, _DECODE), "webdataset", 2.0),
    Bar("read-raw", _OURS, (), "the fastest peer", 1.0),
    Bar("read-compressed", _OURS, (_SAME,), "webdataset with the same codec", 1.3),
    Bar("read-compressed", _OURS, (_GROUP, _ARRAY), "TerraMesh's zarr.zip", 2.5),
    Bar("two-of-eight", _OURS, (_SELECT,), "webdataset's select_files", 10.0),
    Bar("build", "two MPI ranks", ("one process",), "one process", 1.8),
)
