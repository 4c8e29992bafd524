"""The types of measurements: a metric, the name of an implementation or limit, and one value per run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from numpy_gpt2.console import progress_bar


class Metric(NamedTuple):
    """Something to measure. A higher value is better in tokens/s, and worse in every other unit."""

    name: str  # {} stands for the size
    unit: str
    size: int = 0

    def __str__(self) -> str:
        return f"{self.name.format(self.size)}, {self.unit}"


Sample = dict[tuple[Metric, str], float]  # (metric, name of the implementation or limit) -> value
Values = dict[str, list[float]]  # name of the implementation or limit -> one value per run
Results = dict[Metric, Values]

# Names of the metrics that have several sizes or a picture.
DECODE = "decode, batch {}"
POSITION = "decode at position {}"
PREFILL = "prefill of {:,} tokens"
BUSY_DECODE = "decode, batch 1, one busy program beside it"
BUSY_PREFILL = "prefill of {:,} tokens, one busy program beside it"
START = Metric("shell to first token", "s")
MEMORY = Metric("peak memory of this process", "MB")


def take_turns(runs: int, turns: Sequence[Callable[[], Sample]], warm_up: int = 1) -> Results:
    """Call every function once per run. The first `warm_up` runs are not counted."""
    results: Results = {}
    for run in progress_bar(iterable=range(warm_up + runs), unit="run", leave=False):
        for turn in turns:
            for (metric, name), value in turn().items():
                if run >= warm_up:
                    results.setdefault(metric, {}).setdefault(name, []).append(value)
    return results
