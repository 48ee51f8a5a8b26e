"""Maps as `<img>` elements that carry their pixels with them."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from configs.schema import Modality
from pipeline.report import numbers
from pipeline.report.html import Markup, join, tag

_RAMP_PX = 128


@dataclass(frozen=True)
class Painter:
    """Draws maps at their own size, or smaller where a side is longer than `max_px`."""

    max_px: int

    def image(self, rgb: np.ndarray, alt: str, row: Modality) -> Markup:
        """RGB [H, W, 3] as an image element; class maps are thinned, never mixed."""
        picture = Image.fromarray(rgb)
        longest = max(picture.size)
        if longest > self.max_px:
            width, height = (max(1, round(n * self.max_px / longest)) for n in picture.size)
            way = Image.Resampling.NEAREST if row.kind == "classes" else Image.Resampling.BOX
            picture = picture.resize((width, height), way)
        width, height = picture.size
        source = data_uri(np.asarray(picture))
        return tag("img", src=source, alt=alt, width=width, height=height, class_="map")


def data_uri(rgb: np.ndarray) -> str:
    """A PNG as text; with a palette where 256 colours are enough, which loses nothing."""
    packed = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    colours, places = np.unique(packed, return_inverse=True)
    picture = Image.fromarray(rgb)
    if len(colours) <= 256:
        picture = Image.fromarray(places.reshape(packed.shape).astype(np.uint8), mode="P")
        palette = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1)
        picture.putpalette(palette.astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def legend_of(row: Modality, shown: Sequence[np.ndarray] = ()) -> Markup | None:
    """What the colours mean, as an entry of a definition list; None where there are none.

    Classes: those that occur in `shown`, or all. One band: a scale. Several: which band is which.
    """
    if row.kind == "classes":
        meaning = _class_legend(row, shown)
    elif row.kind == "image":
        several = len(row.display.bands) > 1
        meaning = tag("span", _bands(row)) if several else _scale(row)
    else:
        return None
    return tag("div", tag("dt", row.name), tag("dd", meaning))


def _bands(row: Modality) -> str:
    bands = row.display.bands
    order = (*bands, bands[0]) if len(bands) == 2 else bands
    stretch = "from the 2nd to the 98th percentile"
    if row.display.range:
        low, high = row.display.range
        stretch = f"{numbers.signed(low)} to {numbers.signed(high)} {numbers.unit(row.unit)}"
    return f"red, green, blue = {', '.join(order)}; {stretch}"


def _class_legend(row: Modality, shown: Sequence[np.ndarray]) -> Markup:
    from shards.render import class_colors

    colours = class_colors(row)
    used = set(np.unique(np.concatenate([a.ravel() for a in shown])).tolist()) if shown else None
    entries = []
    for entry in row.classes:
        if used is None or entry.value in used:
            colour = f"background:rgb({','.join(str(c) for c in colours[entry.value])})"
            swatch = tag("span", class_="swatch", style=colour)
            entries.append(tag("li", swatch, entry.name))
    legend = tag("ul", entries, class_="legend", aria_label=f"Classes of {row.name}")
    if row.num_bands == 1:
        return legend
    return join([legend, tag("small", f"from left to right: {', '.join(row.display.bands)}")])


def _scale(row: Modality) -> Markup:
    from shards.render import render_map

    ramp = np.tile(np.linspace(0, 1, _RAMP_PX), (row.num_bands, 1, 1))
    picture = render_map(ramp, row, value_range=(0.0, 1.0))
    low, high = "low", "high"
    if row.display.range:
        low, high = (numbers.signed(value) for value in row.display.range)
        high = f"{high} {numbers.unit(row.unit)}"
    bar = tag("img", src=data_uri(picture), alt=f"Colour scale of {row.name}", class_="ramp")
    return tag("p", tag("span", low), bar, tag("span", high), class_="scale")
