"""Curves as inline SVG: small, crisp, coloured by the page's own CSS."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.report.html import Markup, tag

_WIDTH, _HEIGHT = 320, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 36
_MAX_POINTS = 300
_LOG_FROM = 8.0

Points = list[tuple[float, float]]
NUM_COLOURS = 8


@dataclass(frozen=True)
class Line:
    """One curve. `train` is a line, `eval` adds dots, `level` is one dashed value over all steps.

    Any other style is that of one of several runs side by side (`arm_style`). `band` is the spread
    around the points, if there is one: step, lowest, highest.
    """

    style: str
    points: Points
    band: tuple[tuple[float, float, float], ...] = ()


def chart(
    title: str,
    note: str,
    lines: Iterable[Line],
    num_steps: int,
    *,
    log: bool = True,
    spoken: str = "",
) -> Markup:
    """One panel: a title, its last values in words, and the curves over the steps.

    With `log`, values that span a wide range are drawn on a logarithmic scale, which says so. `spoken`
    is told to who does not see the curves, in place of the note.
    """
    drawn = [line for line in lines if line.points]
    values = [y for line in drawn for _, y in line.points]
    values += [y for line in drawn for _, *ends in line.band for y in ends]
    caption = tag("figcaption", tag("strong", title), " ", tag("span", note))
    if not values:
        return tag("figure", caption, tag("p", "no values yet", class_="absent"), class_="chart")
    last_step = max(round(x) for line in drawn for x, _ in line.points)
    axes = _Axes.around(values, max(num_steps, last_step), log)
    svg = tag(
        "svg",
        tag("title", f"{title}: {spoken or note}"),
        _grid(axes),
        [_band(line, axes) for line in drawn if line.band],
        [_curve(line, axes) for line in drawn],
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{title} over steps, {spoken or note}",
    )
    return tag("figure", caption, svg, class_="chart")


def key(*styles: str) -> Markup:
    """The legend that all panels of a group share."""
    words = {
        "train": "training, averaged since the last line",
        "eval": "held-out samples",
        "level": "uniform guess, ln(vocabulary)",
    }
    entries = [
        tag("li", tag("svg", _mark(s), viewBox="0 0 34 10", aria_hidden="true"), words[s])
        for s in styles
    ]
    return tag("ul", entries, class_="key")


def arm_style(number: int) -> str:
    """The look of one of several runs side by side: a colour each, then the same colours dashed."""
    dashed = " dashed" if number // NUM_COLOURS % 2 else ""
    return f"arm arm-{number % NUM_COLOURS}{dashed}"


def arm_key(names: Iterable[str]) -> Markup:
    """The legend of runs side by side, in their order."""
    entries = [
        tag("li", tag("svg", _mark(arm_style(i)), viewBox="0 0 34 10", aria_hidden="true"), name)
        for i, name in enumerate(names)
    ]
    return tag("ul", entries, class_="key")


@dataclass(frozen=True)
class _Axes:
    """Where a value lies on the panel."""

    num_steps: int
    low: float
    high: float
    log: bool

    @classmethod
    def around(cls, values: list[float], num_steps: int, log: bool) -> "_Axes":
        low, high = min(values), max(values)
        if log and low > 0 and high / low >= _LOG_FROM:
            return cls(num_steps, low / 1.1, high * 1.1, True)
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        floor = 0.0 if 0 <= low < 0.4 * high else low - room
        return cls(num_steps, floor, high + room, False)

    def x(self, step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / max(1, self.num_steps)

    def y(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (value - low) / (high - low))


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten) between `low` and `high`, about `count` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 times them where the range is short."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    found = [f * 10.0**d for d in decades for f in factors]
    return [t for t in found if low <= t <= high]


def thin(points: Points) -> Points:
    """At most `_MAX_POINTS` of the points, the first and the last among them."""
    if len(points) <= _MAX_POINTS:
        return points
    last = len(points) - 1
    return [points[round(i * last / (_MAX_POINTS - 1))] for i in range(_MAX_POINTS)]


def _grid(axes: _Axes) -> Markup:
    parts = []
    ticks = log_ticks(axes.low, axes.high) if axes.log else linear_ticks(axes.low, axes.high)
    for tick in ticks:
        y = f"{axes.y(tick):.1f}"
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        shown = f"{tick:g}" if abs(tick) < 1e5 else f"{tick:.0e}"
        parts.append(tag("text", shown, x=_LEFT - 6, y=y, dy="0.35em", class_="y"))
    floor = _HEIGHT - _BOTTOM
    parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=floor, y2=floor, class_="axis"))
    for tick in linear_ticks(0, max(1, axes.num_steps), 4):
        x = f"{axes.x(tick):.1f}"
        parts.append(tag("text", f"{tick:,.0f}", x=x, y=floor + 14, class_="x"))
    label = "step; logarithmic scale" if axes.log else "step"
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(tag("text", label, x=middle, y=_HEIGHT - 5, class_="x label"))
    return Markup("".join(parts))


def _curve(line: Line, axes: _Axes) -> Markup:
    if line.style == "level":
        y = f"{axes.y(line.points[0][1]):.1f}"
        return tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="level")
    places = [(f"{axes.x(x):.1f}", f"{axes.y(y):.1f}") for x, y in thin(line.points)]
    path = tag("polyline", points=" ".join(f"{x},{y}" for x, y in places), class_=line.style)
    if line.style != "eval" and len(places) > 1:
        return path
    dots = [tag("circle", cx=x, cy=y, r=3, class_=line.style) for x, y in places]
    return Markup(path + "".join(dots))


def _band(line: Line, axes: _Axes) -> Markup:
    up = [(x, high) for x, _, high in line.band]
    down = [(x, low) for x, low, _ in reversed(line.band)]
    corners = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in (*up, *down))
    return tag("polygon", points=corners, class_=f"band {line.style}")


def _mark(style: str) -> Markup:
    stroke = tag("line", x1=1, x2=33, y1=5, y2=5, class_=style)
    dot = tag("circle", cx=17, cy=5, r=3, class_=style)
    return Markup(stroke + dot) if style == "eval" else stroke
