"""The funnel picture: how many rows each rule of the catalog dropped."""

from __future__ import annotations

import io
from collections.abc import Sequence


def funnel_chart(rows_read: int, funnel: Sequence[Sequence[object]], rows_kept: int) -> bytes:
    """PNG bar chart of the rows left after each step; `funnel` is (reason, rows dropped) in order."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels, left = ["read"], [rows_read]
    for reason, dropped in funnel:
        labels.append(f"after {reason}")
        left.append(left[-1] - int(str(dropped)))
    labels.append("kept")
    left.append(rows_kept)
    figure = Figure(figsize=(7, 0.6 + 0.34 * len(labels)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(labels, left, color=["#8a94a6"] + ["#7aa6d8"] * len(funnel) + ["#2f6fb3"])
    axes.bar_label(bars, [f"{value:,}" for value in left], padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max([*left, 1]) * 1.15)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(labelsize=8, length=0, labelbottom=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
