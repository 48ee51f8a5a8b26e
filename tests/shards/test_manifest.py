"""What makes two data sets the same."""

from configs.registry import modality
from configs.schema import Display
from shards.manifest import content_fingerprint

SHARDS = [{"split": "train", "name": "shard-000000", "num_samples": 2, "digest": "ab"}]


def test_other_words_and_colours_are_no_other_data_set():
    row = modality("DEM")
    same = row.model_copy(update={"title": "Heights", "display": Display(colormap="gray")})
    assert content_fingerprint([row], SHARDS) == content_fingerprint([same], SHARDS)


def test_other_values_are():
    row = modality("DEM")
    for change in ({"nodata": 0.0}, {"unit": "ft"}, {"gsd_m": 20.0}):
        other = row.model_copy(update=change)
        assert content_fingerprint([row], SHARDS) != content_fingerprint([other], SHARDS)
    assert content_fingerprint([row], SHARDS) != content_fingerprint(
        [row], [{**SHARDS[0], "digest": "cd"}]
    )
