"""Results -> a Markdown table, and the page `RESULTS.md`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median

from threadpoolctl import threadpool_info

from .measure import POSITION, Results

# What each variant of numpy_gpt2 is compared with, if both were measured.
AGAINST = {
    "numpy_gpt2": [
        *("transformers", "CTranslate2", "llama.cpp", "naive NumPy"),
        *("limit: bandwidth", "limit: products", "limit: the weights", "limit: reading the file"),
        *("batch 1", "position 16"),
    ],
    "numpy_gpt2 int8": ["numpy_gpt2", "CTranslate2 int8", "llama.cpp q8_0", "limit: bandwidth int8"],
    "with lookup": ["without lookup"],
}

CAPTION = """\
Each value is the median of {runs} runs. In every run, the implementations are measured one after another. A warm-up run
before them is not counted. A ratio compares two values of the same run; the table shows the median ratio and its range.
A ratio above 1 is in favor of numpy_gpt2. Against a limit, the ratio is the fraction of the limit that is reached.

Limits are measured in the same runs, where they apply:

- bandwidth: the bytes per second that the machine reads from memory (best of three methods), divided by the bytes of
  weights that a token needs
- products: the operations of a prefill, divided by the operations per second of a large float32 matrix product
- the weights: their size in float32
- reading the file: the time in which another process reads the weights file, which is in memory already"""

# Widths of the columns. A negative width aligns the column to the right.
COLUMNS = {"metric": 48, "ours": 15, "median": -8, "against": 23, "theirs": -8, "ratio": -7, "range": 14}


def row(*cells: str) -> str:
    """A row of a Markdown table with aligned columns."""
    widths = zip(cells, COLUMNS.values(), strict=True)
    return f"| {' | '.join(cell.ljust(width) if width > 0 else cell.rjust(-width) for cell, width in widths)} |"


RULE = row(*("-" * width if width > 0 else "-" * (-width - 1) + ":" for width in COLUMNS.values()))
HEADER = f"{row(*COLUMNS)}\n{RULE}"


def number(x: float) -> str:
    """Three significant digits; a number of 100 or more is rounded to an integer."""
    return f"{x:,.0f}" if x >= 100 else f"{x:#.3g}"


def table_lines(results: Results) -> Iterator[str]:
    """One row per metric, variant of numpy_gpt2, and other implementation or limit. Repeated cells are left empty.

    A ratio is formed within each run, because a slow moment of the machine slows both sides.
    """
    last_position = max((metric.size for metric in results if metric.name == POSITION), default=0)
    for metric, values in results.items():
        if metric.name == POSITION and metric.size < last_position:  # only in the picture
            continue
        title = str(metric)
        for name in [name for name in AGAINST if name in values]:
            ours = [name, number(median(values[name]))]
            others = [other for other in AGAINST[name] if other in values]
            for other in others:
                pairs = zip(values[name], values[other], strict=True)
                ratios = [a / b if metric.unit == "tokens/s" else b / a for a, b in pairs]
                spread = f"{min(ratios):.2f} … {max(ratios):.2f}"
                yield row(title, *ours, other, number(median(values[other])), f"{median(ratios):.2f} ×", spread)
                title, ours = "", ["", ""]
            if not others:
                yield row(title, *ours, "", "", "", "")
                title = ""


def absent_lines(absent: dict[str, str]) -> Iterator[str]:
    """A row for each implementation that is absent, with the reason."""
    for name, problem in absent.items():
        yield row("", "", "", name, "absent", "", problem.replace("|", "/"))


def machine() -> str:
    """The processor, the kernels that NumPy's products use, and the versions of the packages."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(entry.partition(": ")[2] for entry in cpuinfo if entry.startswith("model name"))
    parts = [f"{os.cpu_count()} cores of {processor}", f"Python {platform.python_version()}"]
    chosen = os.environ.get("OPENBLAS_CORETYPE")
    by = f"OPENBLAS_CORETYPE={chosen}" if chosen else "its own choice"
    parts += [f"{library['internal_api']} {library['architecture']} ({by})" for library in threadpool_info()]
    for package in ("numpy", "torch", "transformers", "ctranslate2", "llama-cpp-python"):
        with suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(parts)


def page(
    command: str, runs: int, results: Results, absent: dict[str, str], notes: list[str], pictures: dict[str, str]
) -> str:
    """The text of `RESULTS.md`. `pictures` maps each file to its title."""
    table = "\n".join([HEADER, *table_lines(results), *absent_lines(absent)])
    note_list = "\n".join(f"- {note}" for note in notes)
    images = [f"![{title}]({file})" for file, title in pictures.items()]
    parts = ["# Results", f"`{command}` on {machine()}.", CAPTION.format(runs=runs), table, note_list, *images]
    return "\n\n".join(parts) + "\n"
