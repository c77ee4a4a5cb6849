"""Pictures of maps for a person who looks at a build: points by category or region, histograms. PNG, kept small.

Drawn with matplotlib's figure objects alone, so nothing global is left behind.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DRAWN_ROWS = 20_000
_NAMED = 10
_GROUND, _INK, _FAINT, _OTHER = "#0f1420", "#e8ecf4", "#8b95a9", "#4a5468"
# told apart in hue and lightness, also with red-green blindness (after Okabe and Ito, and Tol's bright set)
_COLOURS = (
    "#56b4e9",
    "#e69f00",
    "#2fbf8f",
    "#f0e442",
    "#ff7f6b",
    "#cc79a7",
    "#7a8cff",
    "#a5e06a",
    "#f5b7d0",
    "#b08d57",
)
_LONGEST_NAME, _MOST_NAMES = 34, 36
_OTHER_FONTS = (
    *(
        "Noto Sans CJK SC",
        "Noto Sans CJK JP",
        "Source Han Sans SC",
        "WenQuanYi Zen Hei",
        "PingFang SC",
        "Microsoft YaHei",
    ),
    *("Noto Sans Thai", "Noto Sans Arabic", "Noto Sans Devanagari", "Droid Sans Fallback", "Arial Unicode MS"),
)
_TITLES = {"clip": "meaning (CLIP)", "vae": "colour and layout (VAE)", "joint": "both (joint)"}
_AZIMUTH, _ELEVATION = np.deg2rad(35.0), np.deg2rad(25.0)


def map_picture(
    maps: Mapping[str, np.ndarray],
    categories: Sequence[str | None] | None = None,
    captions: Mapping[str, str] | None = None,
    title: str = "",
    dpi: int = 92,
    marks: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    """One panel per space, seen from obliquely above, coloured by category: a PNG of at most about 150 KB.

    `maps`: coordinates float32 [n, 3] per space, all in one order, which is also that of `categories` [n]. The ten
    commonest categories have a colour of their own. `captions`: a line below a panel (its quality, say). At most
    20,000 rows are drawn, evenly chosen. `marks`: further places float32 [m, 3] per space, ringed and in front.
    """
    from matplotlib.figure import Figure

    rows = len(next(iter(maps.values()), ()))
    drawn = np.unique(np.linspace(0, max(0, rows - 1), min(rows, _DRAWN_ROWS)).astype(int))
    names, labels = _named(categories, rows)
    figure = Figure(figsize=(4.0 * max(1, len(maps)), 4.9), facecolor=_GROUND)
    panels = figure.subplots(1, max(1, len(maps)), squeeze=False)[0]
    for panel, (space, coords) in zip(panels, maps.items(), strict=False):
        _panel(
            panel, np.asarray(coords)[drawn], labels[drawn], _TITLES.get(space, space), (captions or {}).get(space, "")
        )
        if marks is not None:
            _mark(panel, np.asarray(coords)[drawn], np.asarray(marks[space]))
    if not maps:
        panels[0].set_axis_off()
    heading = title or "The map"
    figure.text(0.012, 0.965, heading, color=_INK, fontsize=12, fontweight="bold", va="center")
    shown = f"{rows:,} rows" if len(drawn) == rows else f"{len(drawn):,} of {rows:,} rows"
    figure.text(0.988, 0.965, shown, color=_FAINT, fontsize=9, ha="right", va="center")
    _legend(figure, names, labels, len(maps))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.88, bottom=0.17, wspace=0.03)
    return _png(figure, dpi)


def moves_picture(
    states: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str = "", dpi: int = 92, largest: int = 60
) -> bytes:
    """Two states of each map below each other, before and after, seen as in `map_picture`: a PNG.

    states: by space the places float32 [n, 3] of the same rows before and after. The `largest` moves are drawn into the
    later one, from where those rows were to where they are.
    """
    from matplotlib.figure import Figure

    columns = max(1, len(states))
    figure = Figure(figsize=(4.0 * columns, 8.2), facecolor=_GROUND)
    panels = figure.subplots(2, columns, squeeze=False)
    for column, (space, (before, after)) in enumerate(states.items()):
        drawn = np.unique(np.linspace(0, max(0, len(before) - 1), min(len(before), _DRAWN_ROWS)).astype(int))
        moved = np.linalg.norm(after.astype(np.float64) - before, axis=1)
        farthest = np.argsort(-moved, kind="stable")[:largest]
        farthest = farthest[moved[farthest] > 0]
        labels = np.full(len(before), -1)
        labels[farthest] = 1
        caption = f"median {np.median(moved):.2f}, most {moved.max(initial=0.0):.2f} map units" if len(moved) else ""
        shown = np.union1d(drawn, farthest)
        name = _TITLES.get(space, space)
        _panel(panels[0, column], before[shown], labels[shown], f"{name}, before", "")
        _panel(panels[1, column], after[shown], labels[shown], f"{name}, after", caption)
        from_x, from_y, _ = oblique(before[farthest])
        to_x, to_y, _ = oblique(after[farthest])
        panels[1, column].plot(
            np.stack([from_x, to_x]), np.stack([from_y, to_y]), color=_COLOURS[1], linewidth=0.7, alpha=0.8
        )
        x, y, _ = oblique(np.concatenate([before[shown], after[shown]]))
        for panel in panels[:, column]:  # the same frame, so that a row is found again
            panel.set_aspect("equal", adjustable="box")
            panel.set_xlim(x.min(initial=0.0), x.max(initial=0.0))
            panel.set_ylim(y.min(initial=0.0), y.max(initial=0.0))
    if not states:
        for panel in panels.reshape(-1):
            panel.set_axis_off()
    figure.text(0.012, 0.98, title, color=_INK, fontsize=12, fontweight="bold", va="center")
    figure.subplots_adjust(left=0.01, right=0.99, top=0.93, bottom=0.04, wspace=0.03, hspace=0.1)
    return _png(figure, dpi)


def _named(categories: Sequence[str | None] | None, rows: int) -> tuple[list[str], np.ndarray]:
    """The commonest categories, and for each row the position of its category among them (-1: another, none)."""
    if categories is None:
        return [], np.full(rows, -1)
    counted = Counter(category for category in categories if category)
    names = [name for name, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:_NAMED]]
    position = {name: i for i, name in enumerate(names)}
    return names, np.array([position.get(category or "", -1) for category in categories], dtype=int)


def category_colours(categories: Sequence[str | None]) -> np.ndarray:
    """A colour for each row by its category, as on the maps' pictures: uint8 [n, 3], sRGB."""
    palette = np.array([tuple(bytes.fromhex(colour[1:])) for colour in (*_COLOURS, _OTHER)], np.uint8)
    colours: np.ndarray = palette[_named(categories, len(categories))[1]]
    return colours


def oblique(coords: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Screen x, y and depth (0 far, 1 near) of coordinates [n, 3], turned 35 degrees and seen from 25 above.

    Depth is relative to the extent of all of them; x and y are the same in any company.
    """
    x, y, z = coords.astype(np.float64).T
    across = np.cos(_AZIMUTH) * x + np.sin(_AZIMUTH) * y
    away = -np.sin(_AZIMUTH) * x + np.cos(_AZIMUTH) * y
    up = np.cos(_ELEVATION) * z + np.sin(_ELEVATION) * away
    depth = np.sin(_ELEVATION) * z - np.cos(_ELEVATION) * away
    extent = np.ptp(depth) if len(depth) else 0.0
    return across, up, (depth - depth.min()) / extent if extent > 0 else np.ones_like(depth)


def _panel(panel: Axes, coords: np.ndarray, labels: np.ndarray, title: str, caption: str) -> None:
    from matplotlib.colors import to_rgb

    palette = np.array([to_rgb(colour) for colour in (*_COLOURS, _OTHER)])
    panel.set_facecolor(_GROUND)
    panel.set_title(title, color=_INK, fontsize=10, pad=4)
    if len(coords):
        x, y, near = oblique(coords)
        order = np.argsort(near, kind="stable")
        # far points fade into the ground
        shade = (0.65 + 0.35 * near)[:, None]
        colours = shade * palette[labels] + (1.0 - shade) * np.array(to_rgb(_GROUND))
        size = float(np.clip(14_000 / len(coords), 0.8, 26.0))
        panel.scatter(x[order], y[order], s=size * (0.5 + near[order]), c=colours[order], linewidths=0, rasterized=True)
    panel.set_aspect("equal", adjustable="datalim")
    panel.margins(0.03)
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.set_xlabel(caption, color=_FAINT, fontsize=8, labelpad=2)


def _mark(panel: Axes, coords: np.ndarray, marks: np.ndarray) -> None:
    # turned together: a place's depth is relative to the extent of all
    x, y, _ = (values[len(coords) :] for values in oblique(np.concatenate([coords, marks])))
    panel.scatter(x, y, s=46, c=_INK, edgecolors=_GROUND, linewidths=1.4, zorder=5)


def _legend(figure: Figure, names: Sequence[str], labels: np.ndarray, panels: int) -> None:
    from matplotlib.lines import Line2D

    entries = [(f"{name} ({int((labels == i).sum()):,})", _COLOURS[i]) for i, name in enumerate(names)]
    if names and (labels == -1).any():
        entries.append((f"other ({int((labels == -1).sum()):,})", _OTHER))
    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=6, markeredgewidth=0, color=colour, label=text[:34])
        for text, colour in entries
    ]
    if handles:
        figure.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, 0.005),
            ncols=min(len(handles), 2 * max(1, panels)),
            fontsize=8,
            labelcolor=_INK,
            frameon=False,
            handletextpad=0.2,
            columnspacing=1.2,
        )


@dataclass(frozen=True)
class Region:
    """A named place of a map: where it is (map units), and how many rows are in it."""

    name: str
    place: tuple[float, float, float]
    rows: int


def region_picture(
    maps: Mapping[str, np.ndarray],
    groups: Mapping[str, np.ndarray],
    regions: Mapping[str, Sequence[Region]],
    captions: Mapping[str, str],
    total: int,
) -> bytes:
    """One panel per space as in `map_picture`, with the names of regions over it, the largest first and none over
    another: a PNG of at most about 200 KB.

    `maps`: coordinates float32 [n, 3] per space. `groups`: int64 [n] per space, which decides the colour; -1 for none.
    `total`: rows of which those are drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4 * max(1, len(maps)), 5.8), facecolor=_GROUND)
    panels = figure.subplots(1, max(1, len(maps)), squeeze=False)[0]
    for panel, (space, coords) in zip(panels, maps.items(), strict=False):
        colours = np.where(groups[space] < 0, -1, groups[space] % len(_COLOURS))
        _panel(panel, np.asarray(coords), colours, _TITLES.get(space, space), captions.get(space, ""))
    figure.text(0.012, 0.97, "The map and its labels", color=_INK, fontsize=12, fontweight="bold", va="center")
    figure.text(0.988, 0.97, f"{total:,} rows", color=_FAINT, fontsize=9, ha="right", va="center")
    figure.subplots_adjust(left=0.005, right=0.995, top=0.9, bottom=0.06, wspace=0.02)
    figure.draw_without_rendering()  # settles where places are on the panels
    for panel, space in zip(panels, maps, strict=False):
        _write_names(panel, regions[space])
    return _png(figure, 92)


def _write_names(panel: Axes, regions: Sequence[Region]) -> None:
    from matplotlib.patheffects import withStroke

    if not regions:
        return
    largest = sorted(regions, key=lambda region: (-region.rows, region.name))
    x, y, _ = oblique(np.array([region.place for region in largest]))
    seen = panel.transData.transform(np.column_stack([x, y]))
    bounds = panel.get_window_extent()
    taken: list[tuple[float, float, float, float]] = []
    for region, across, up, (left, top) in zip(largest, x, y, seen, strict=True):
        text = region.name if len(region.name) <= _LONGEST_NAME else f"{region.name[: _LONGEST_NAME - 1]}…"
        wide, high = 4.1 * sum(2 if ord(each) > 0x2E7F else 1 for each in text) + 6, 13.0
        box = (left - wide / 2, top - high / 2, left + wide / 2, top + high / 2)
        inside = bounds.x0 < box[0] and box[2] < bounds.x1 and bounds.y0 < box[1] and box[3] < bounds.y1
        if not inside or any(b[0] < box[2] and box[0] < b[2] and b[1] < box[3] and box[1] < b[3] for b in taken):
            continue
        taken.append(box)
        panel.text(
            across,
            up,
            text,
            color=_INK,
            fontsize=7,
            ha="center",
            va="center",
            zorder=6,
            family=_fonts(),
            path_effects=[withStroke(linewidth=2.2, foreground=_GROUND)],
            parse_math=False,
        )
        if len(taken) == _MOST_NAMES:
            break


@cache
def _fonts() -> list[str]:
    """Fonts for names of any language, as far as this machine has them."""
    from matplotlib import font_manager

    known = {entry.name for entry in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _OTHER_FONTS if name in known)]


def histogram_picture(values: Mapping[str, np.ndarray], unit: Mapping[str, str] | None = None, dpi: int = 100) -> bytes:
    """One histogram per named array (NaN left out), with its median marked: a small PNG.

    `unit`: the label of each horizontal axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * max(1, len(values)), 2.4), facecolor=_GROUND, layout="constrained")
    panels = figure.subplots(1, max(1, len(values)), squeeze=False)[0]
    for panel, (name, found) in zip(panels, values.items(), strict=False):
        finite = np.asarray(found, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        panel.set_facecolor(_GROUND)
        panel.set_title(f"{name}, {len(finite):,} values", color=_INK, fontsize=9)
        if len(finite):
            panel.hist(finite, bins=40, color=_COLOURS[0])
            median = float(np.median(finite))
            panel.axvline(median, color=_COLOURS[1], linewidth=1.2)
            panel.text(
                0.97, 0.93, f"median {median:.3g}", color=_COLOURS[1], fontsize=8, ha="right", transform=panel.transAxes
            )
        panel.set_xlabel((unit or {}).get(name, ""), color=_FAINT, fontsize=8)
        panel.tick_params(colors=_FAINT, labelsize=7, length=2)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(_FAINT)
    if not values:
        panels[0].set_axis_off()
    return _png(figure, dpi)


def _png(figure: Figure, dpi: int) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    FigureCanvasAgg(figure)
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    # 256 colours are enough for dots and text, and a third of the bytes
    small = io.BytesIO()
    Image.open(raw).convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        small, "PNG", optimize=True
    )
    return small.getvalue()
