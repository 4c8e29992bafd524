"""The pictures of `RESULTS.md` and `SIZES.md`."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from numpy_gpt2 import GPT2Config
from numpy_gpt2.config import RELEASED_SIZES

from .measure import DECODE, MEMORY, POSITION, PREFILL, START, Metric, Results, Values
from .report import number
from .sizes import PEAK, READ, STARTED, TOKEN

# Okabe and Ito's palette, which people with color blindness can tell apart.
COLORS = {
    "numpy_gpt2": "#0072b2",
    "numpy_gpt2 int8": "#56b4e9",
    "transformers": "#d55e00",
    "CTranslate2": "#009e73",
    "CTranslate2 int8": "#e69f00",
    "llama.cpp": "#cc79a7",
    "llama.cpp q8_0": "#f0e442",
    "naive NumPy": "#999999",
}
LIMITS = {
    "limit: bandwidth": "#0072b2",
    "limit: bandwidth int8": "#56b4e9",
    "limit: products": "#000000",
    "limit: the weights": "#000000",
}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "numpy_gpt2",  # the same measurements give the same file
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.edgecolor": "none",
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
}


def bars(ax: Axes, values: Values, names: list[str], title: str, label: str) -> None:
    """Draw each implementation's median as a bar, the range of its runs as a line, and limits as dashed lines."""
    for y, name in enumerate(names):
        if runs := values.get(name):
            middle = median(runs)
            ax.barh(y, middle, color=COLORS[name])
            ax.plot([min(runs), max(runs)], [y, y], color="#333333", linewidth=1)
            place = (max(runs), y)
            ax.annotate(number(middle), place, (3, 0), textcoords="offset points", va="center", fontsize=7)
    for name, color in LIMITS.items():
        if name in values:
            ax.axvline(median(values[name]), color=color, linestyle="--", linewidth=1, label=name)
            ax.legend(loc="upper right")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.margins(x=0.15)
    ax.set(title=title, xlabel=label, xlim=(0, None))


def curves(ax: Axes, series: dict[int, Values], title: str, label: str) -> None:
    """Draw each implementation's median by size, the range of its runs as lines, and limits as dashed curves."""
    for name, color in (COLORS | LIMITS).items():
        sizes = [size for size, values in series.items() if name in values]
        runs = [series[size][name] for size in sizes]
        style = "--" if name in LIMITS else "o-"
        if sizes:
            ax.plot(sizes, [median(values) for values in runs], style, color=color, markersize=3, label=name)
        if name in COLORS:
            ax.vlines(sizes, [min(values) for values in runs], [max(values) for values in runs], color=color)
    ax.set(title=title, xlabel=label, ylabel="tokens/s", xlim=(0, None), ylim=(0, None))
    ax.grid(axis="y", color="#eeeeee")


def save(path: Path) -> None:
    """Write the picture that was drawn last."""
    plt.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close()


def draw_sizes(results: Results, folder: Path) -> dict[str, str]:
    """Write the picture of `SIZES.md` into a folder. Returns file name -> title."""
    panels = {
        (STARTED, "s"): "shell to first token, s",
        (READ, "s"): "prompt of 128 tokens, s",
        (TOKEN, "tokens/s"): "one token, ms",
        (PEAK, "MB"): "peak memory, MB",
    }
    with plt.rc_context(STYLE):
        picture, axes = plt.subplots(1, len(panels), figsize=(9, 2.6))
        for ax, ((metric, unit), title) in zip(axes, panels.items(), strict=True):
            for name, color in (COLORS | {"limit: reading the file": "#000000"}).items():
                points = {
                    GPT2Config.preset(size).num_parameters() / 1e6: median(values[name])
                    for size in RELEASED_SIZES
                    if name in (values := results.get(Metric(metric.format(size), unit), {}))
                }
                costs = [1000 / value if unit == "tokens/s" else value for value in points.values()]
                if points:
                    style = "--" if name.startswith("limit") else "o-"
                    ax.plot([*points], costs, style, color=color, markersize=3, label=name)
            ax.set(title=title, xlabel="million parameters", xlim=(0, None), ylim=(0, None))
            ax.grid(axis="y", color="#eeeeee")
        handles = {handle.get_label(): handle for ax in axes for handle in ax.get_lines()}
        picture.legend(handles=handles.values(), loc="outside lower center", ncols=4)
        save(folder / "sizes.svg")
    return {"sizes.svg": "Time and memory by the model's size"}


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the pictures of `RESULTS.md` into a folder. Returns file name -> title."""

    def sizes(name: str) -> dict[int, Values]:
        return {metric.size: values for metric, values in results.items() if metric.name == name}

    with plt.rc_context(STYLE):
        batches = sizes(DECODE)
        names = [name for name in COLORS if name in batches[1]]
        _, axes = plt.subplots(1, len(batches), figsize=(9, 2.4), sharey=True)
        for ax, (batch, values) in zip(axes, batches.items(), strict=True):
            bars(ax, values, names, f"decoding a batch of {batch}", "tokens/s, all rows")
        save(folder / "decode.svg")

        speeds = {
            n: {name: [n / seconds for seconds in runs] for name, runs in values.items()}
            for n, values in sizes(PREFILL).items()
        }
        picture, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
        curves(left, speeds, "reading a prompt", "tokens of the prompt")
        curves(right, sizes(POSITION), "decoding, batch 1", "position")
        handles = {handle.get_label(): handle for ax in (left, right) for handle in ax.get_lines()}
        picture.legend(handles=handles.values(), loc="outside right center")
        save(folder / "length.svg")

        _, (left, right) = plt.subplots(1, 2, figsize=(9, 2.2), sharey=True)
        names = [name for name in COLORS if name in results[START]]
        bars(left, results[START], names, "from the shell to the first token", "seconds")
        bars(right, results[MEMORY], names, "peak memory", "MB")
        save(folder / "start.svg")

    return {
        "decode.svg": "Tokens per second by batch size and implementation",
        "length.svg": "Tokens per second by prompt length (left) and by position (right)",
        "start.svg": "Seconds to the first token, and peak memory of the process",
    }
