"""Measures the statistics set `synthetic-v1`: `python -m shards.sources.earth > FILE`."""

import numpy as np
import typer

from configs.registry import modality, modality_registry
from configs.schema import SyntheticSourceConfig
from shards.sources.base import refs_of
from shards.sources.synthetic import GENERATOR_VERSION, SyntheticSource


def measure(source: SyntheticSource) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and standard deviation per band of each image modality, nodata left out."""
    names = [m for m in source.modalities if modality(m).kind == "image"]
    count = {m: np.zeros(modality(m).num_bands) for m in names}
    total = {m: np.zeros(modality(m).num_bands) for m in names}
    square = {m: np.zeros(modality(m).num_bands) for m in names}
    for ref in refs_of(source.listing()):
        parts = source.read(ref).parts
        for name in names:
            if name not in parts:
                continue
            values = np.asarray(parts[name], np.float64)
            nodata = modality(name).nodata
            valid = np.isfinite(values) if nodata is None else ~_equal(values, nodata)
            values = np.where(valid, values, 0)
            count[name] += valid.sum((1, 2))
            total[name] += values.sum((1, 2))
            square[name] += (values**2).sum((1, 2))
    result = {}
    for name in names:
        mean = total[name] / count[name]
        result[name] = mean, np.sqrt(square[name] / count[name] - mean**2)
    return result


def main(samples: int = 2000, tile_px: int = 96, seed: int = 1) -> None:
    """Prints the set as YAML."""
    config = SyntheticSourceConfig(num_samples=samples, tile_px=tile_px, seed=seed, missing=0)
    print("# Measured on the synthetic Earth: these numbers describe shards/sources/earth/ and")
    print("# nothing else. Image modalities only; nodata left out. Made by")
    command = f"--samples {samples} --tile-px {tile_px} --seed {seed}"
    print(f"#   python -m shards.sources.earth {command}")
    print(f"# at generator version {GENERATOR_VERSION}.")
    print("name: synthetic-v1")
    print("modalities:")
    for name, (mean, std) in measure(SyntheticSource(config)).items():
        digits = 4 if modality_registry()[name].unit == "1" else 2
        print(f"  {name}:")
        print(f"    mean: {np.round(mean, digits).tolist()}")
        print(f"    std: {np.round(std, digits).tolist()}")


def _equal(values: np.ndarray, nodata: float) -> np.ndarray:
    return np.isnan(values) if np.isnan(nodata) else values == nodata


if __name__ == "__main__":
    typer.run(main)
