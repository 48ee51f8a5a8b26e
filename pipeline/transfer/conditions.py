"""What is given of samples: in training, in testing, and by which name a table shows it."""

from collections.abc import Mapping, Sequence

from configs import ConfigError
from configs.schema import InputSet, TransferConfig
from pipeline.transfer.bands import band_place
from pipeline.transfer.task import given_modalities

ALL = "all"
# {modality: {band: whether the data has it}}
Bands = Mapping[str, Mapping[str, bool]]


def train_sets(config: TransferConfig, have: Bands) -> dict[str, InputSet]:
    """What models are trained on, by name. Raises ConfigError for one that leaves nothing."""
    return _checked("train_on", config.train_on, have)


def test_sets(config: TransferConfig, have: Bands) -> dict[str, InputSet]:
    """What every model is tested on: as configured, or everything, without each modality, each alone."""
    if config.test_on is not None:
        return _checked("test_on", config.test_on, have)
    sets = {ALL: InputSet()}
    if len(have) > 1:
        sets |= {f"without/{name}": InputSet(without=(name,)) for name in have}
    if len(have) > 2:
        # Of two, one alone is all without the other.
        sets |= {f"alone/{name}": InputSet(modalities=(name,)) for name in have}
    return sets


def _checked(key: str, sets: Mapping[str, InputSet], have: Bands) -> dict[str, InputSet]:
    for name, given in sets.items():
        named = {*(given.modalities or ()), *given.without, *given.without_bands}
        if stray := named - set(have):
            raise ConfigError(
                f"{key}.{name} names {', '.join(sorted(stray))}; the backbone is given {', '.join(have)}"
            )
        if not given_modalities(given, list(have)):
            raise ConfigError(f"{key}.{name} leaves no modality of {', '.join(have)}")
        for modality, bands in given.without_bands.items():
            _check_bands(f"{key}.{name}.without_bands.{modality}", bands, have[modality])
    return dict(sets)


def _check_bands(key: str, without: Sequence[str], bands: Mapping[str, bool]) -> None:
    names = list(bands)
    try:
        hidden = {names[band_place(names, band)] for band in without}
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
    if hidden and not any(there for name, there in bands.items() if name not in hidden):
        raise ConfigError(f"{key} leaves none of its bands: write `without` with the modality")
