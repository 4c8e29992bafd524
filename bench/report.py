"""Measurements -> the table that is printed, and the page `RESULTS.md`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

from threadpoolctl import threadpool_info


class Figure(NamedTuple):
    """Something to measure. Of tokens/s, more is better; of all else, less."""

    name: str  # with {} for the size
    unit: str
    size: int = 0

    def __str__(self) -> str:
        return f"{self.name.format(self.size)}, {self.unit}"


Values = dict[str, list[float]]  # for each implementation or limit a value a run, all in the same order
Results = dict[Figure, Values]

# What is measured at several sizes, or has a picture.
DECODE = "decode, batch {}"
POSITION = "decode at position {}"
PREFILL = "prefill of {:,} tokens"
START = Figure("shell to first token", "s")
MEMORY = Figure("peak memory of that", "MB")

# What each of ours is compared with, where both were measured.
AGAINST = {
    "numpy_gpt2": [
        *("transformers", "CTranslate2", "naive NumPy"),
        *("limit: bandwidth", "limit: products", "limit: the weights", "batch 1", "position 16"),
    ],
    "numpy_gpt2 int8": ["numpy_gpt2", "CTranslate2 int8", "limit: bandwidth int8"],
    "with lookup": ["without lookup"],
}

CAPTION = """\
Medians of {runs} runs in which all take turns, after one that does not count. A ratio is the median of the runs' own,
with its range. Above 1 is in favour of numpy_gpt2; against a limit, it is the share of the limit that is reached.
Limits are measured in the same turns. Of bandwidth: the bytes that the machine reads in a second, by the best of
several ways, over those of the weights that a token needs. Of products: the operations that a prefill needs, over those
of a large float32 matrix product in a second. Of the weights: their bytes in float32."""

COLUMNS = {"figure": 48, "ours": 15, "median": -8, "against": 21, "theirs": -8, "ratio": -7, "range": 14}  # − is right


def line(*cells: str) -> str:
    """A line of a table that is Markdown, and reads well as it is."""
    widths = zip(cells, COLUMNS.values(), strict=True)
    return f"| {' | '.join(cell.ljust(width) if width > 0 else cell.rjust(-width) for cell, width in widths)} |"


RULE = line(*("-" * width if width > 0 else "-" * (-width - 1) + ":" for width in COLUMNS.values()))
HEADER = f"{line(*COLUMNS)}\n{RULE}"


def number(x: float) -> str:
    """Three digits, or all of a whole number that has more."""
    return f"{x:,.0f}" if x >= 100 else f"{x:#.3g}"


def lines(results: Results) -> Iterator[str]:
    """The table: each figure, each of ours, against each of the others. What repeats from line to line is left out.

    The ratio is the median of the runs' own, because what slows down a run slows down both.
    """
    end = max((figure.size for figure in results if figure.name == POSITION), default=0)
    for figure, values in results.items():
        if figure.name == POSITION and figure.size < end:  # for the picture
            continue
        title = str(figure)
        for name in [name for name in AGAINST if name in values]:
            ours = [name, number(median(values[name]))]
            for other in [other for other in AGAINST[name] if other in values] or [None]:
                theirs = [""] * 4
                if other:
                    pairs = zip(values[name], values[other], strict=True)
                    ratios = [a / b if figure.unit == "tokens/s" else b / a for a, b in pairs]
                    spread = f"{min(ratios):.2f} … {max(ratios):.2f}"
                    theirs = [other, number(median(values[other])), f"{median(ratios):.2f} ×", spread]
                yield line(title, *ours, *theirs)
                title, ours = "", ["", ""]


def machine() -> str:
    """The processor, the kernels that NumPy's products run on, and the versions of what is compared."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(entry.partition(": ")[2] for entry in cpuinfo if entry.startswith("model name"))
    parts = [f"{os.cpu_count()} cores of {processor}", f"Python {platform.python_version()}"]
    parts += [f"{library['internal_api']} {library['architecture']}" for library in threadpool_info()]
    for package in ("numpy", "torch", "transformers", "ctranslate2"):
        with suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(parts)


def write_page(folder: Path, command: str, runs: int, results: Results, notes: list[str]) -> None:
    """`RESULTS.md` and its pictures."""
    from .pictures import draw

    pictures = [f"![{title}]({file})" for file, title in draw(results, folder).items()]
    table = "\n".join([HEADER, *lines(results)])
    listed = "\n".join(f"- {note}" for note in notes)
    parts = ["# Results", f"`{command}` on {machine()}.", CAPTION.format(runs=runs), table, listed, *pictures]
    (folder / "RESULTS.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
