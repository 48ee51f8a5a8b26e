import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from configs.registry import modality, modality_registry
from configs.schema.modality import Codec
from shards.codec import (
    decode_meta,
    decode_npy,
    decode_part,
    encode_blosc2,
    encode_meta,
    encode_npy,
    encode_part,
    part_name,
)
from shards.errors import DamagedError
from shards.sample import SampleMeta

DTYPES = st.sampled_from(["uint8", "int16", "uint16", "float32", "float64"])
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, max_side=20))
)
CODECS = st.builds(
    Codec,
    name=st.just("blosc2"),
    level=st.integers(0, 9),
    filter=st.sampled_from(["bitshuffle", "shuffle", "none"]),
    delta=st.booleans(),
)


@given(ARRAYS, CODECS)
def test_blosc2_member_gives_back_the_same_bits(array: np.ndarray, codec: Codec) -> None:
    back = decode_part("b2", encode_blosc2(array, codec))
    assert isinstance(back, np.ndarray)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(ARRAYS)
def test_npy_member_is_what_numpy_reads(array: np.ndarray) -> None:
    import io

    data = encode_npy(array)
    assert np.load(io.BytesIO(data)).tobytes() == array.tobytes()
    assert decode_npy(data).tobytes() == array.tobytes()


@given(ARRAYS, CODECS)
def test_encoding_is_deterministic_and_ignores_memory_layout(
    array: np.ndarray, codec: Codec
) -> None:
    strided = np.asfortranarray(array)
    assert encode_blosc2(array, codec) == encode_blosc2(strided, codec)
    assert encode_npy(array) == encode_npy(strided)


@given(st.data())
def test_any_changed_or_cut_header_is_told(data: st.DataObject) -> None:
    array = np.arange(400, dtype=np.int16).reshape(1, 20, 20)
    whole = encode_blosc2(array, Codec(name="blosc2"))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(DamagedError):
        decode_part("b2", whole[:cut])


@pytest.mark.parametrize("extension", ["b2", "npy", "xyz"])
def test_foreign_bytes_are_damage_not_a_crash(extension: str) -> None:
    for junk in (b"", b"x" * 7, bytes(100), b"\xff" * 4000):
        with pytest.raises(DamagedError):
            decode_part(extension, junk)


def test_text_that_is_not_utf8_is_damage() -> None:
    with pytest.raises(DamagedError, match="UTF-8"):
        decode_part("txt", b"\xff\xfe")


def test_decoded_arrays_are_writable() -> None:
    array = np.zeros((2, 3), np.float32)
    for extension, data in [("npy", encode_npy(array)), ("b2", encode_blosc2(array, Codec()))]:
        for given_bytes in (data, bytearray(data)):
            back = decode_part(extension, given_bytes)
            assert isinstance(back, np.ndarray)
            back[0, 0] = 1


def test_delta_pays_for_smooth_heights() -> None:
    ramp = (1000 + np.add.outer(np.arange(96) * 3, np.arange(96) * 5))[None].astype(np.int16)
    plain = encode_blosc2(ramp, Codec(name="blosc2"))
    delta = encode_blosc2(ramp, Codec(name="blosc2", delta=True))
    assert len(delta) < len(plain) / 2


def test_every_modality_has_a_member_that_round_trips() -> None:
    for name, row in modality_registry().items():
        if row.is_map:
            part = np.ones((row.num_bands, 4, 5), row.dtype)
        elif row.kind == "coordinates":
            part = np.array([12.5, -3.25])
        elif row.kind == "vector":
            part = np.ones(row.num_bands, row.dtype)
        else:
            part = "2021-07-23" if row.kind == "date" else "Füße auf dem Feld"
        stem, _, extension = part_name(row).partition(".")
        assert stem == name
        back = decode_part(extension, b"".join(encode_part(part, row)))
        np.testing.assert_array_equal(back, part)
    assert part_name(modality("DEM")) == "DEM.b2"
    assert part_name(modality("captions")) == "captions.txt"


@given(
    st.builds(
        SampleMeta,
        lon=st.none() | st.floats(-180, 180),
        lat=st.none() | st.floats(-90, 90),
        crs=st.none() | st.text(),
        transform=st.none() | st.tuples(*[st.floats(-1e7, 1e7)] * 6),
        times=st.dictionaries(st.text(), st.text()),
        source=st.text(),
        cloud=st.none() | st.floats(0, 1),
        products=st.dictionaries(st.text(), st.text()),
    )
)
def test_meta_round_trips(meta: SampleMeta) -> None:
    assert decode_meta(encode_meta(meta).decode()) == meta


def test_damaged_meta_is_told() -> None:
    for junk in ("", "[]", "{}", '{"transform": null, "lan": 3}'):
        with pytest.raises(DamagedError):
            decode_meta(junk)
