"""What a run takes: passes over the text, memory, disk space and time. The command states it before the first step."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from ..threads import thread_count
from .step import Run, equal_parts, windows_per_epoch

MANY_PASSES = 20  # over the training text; a model then begins to repeat it


def passes(run: Run, n_tokens: int) -> float:
    """How often the run passes over a training text of so many tokens."""
    n_windows = run.options.max_steps * run.windows_per_step
    return n_windows / windows_per_epoch(n_tokens, run.options.n_positions)


def memory(run: Run) -> int:
    """An estimate of the peak memory of a step, in bytes.

    There are the arrays of the run and the gradient. Each thread computes a part of the batch. It keeps about 30 C
    numbers and the attention patterns, H T, for each token and block, and about 4 arrays of V logits for each token.
    Python and its libraries take 80 MB.
    """
    config, options = run.config, run.options
    parts = equal_parts(options.batch_size, options.n_positions)
    n_tokens = min(thread_count(), len(parts)) * (parts[0].stop - parts[0].start) * options.n_positions
    per_block = 30 * config.n_embd + 3 * config.n_head * options.n_positions
    activations = n_tokens * (config.n_layer * per_block + 4 * config.vocab_size)
    return 80_000_000 + array_bytes(run) + 4 * (config.num_parameters() + activations)


def array_bytes(run: Run) -> int:
    """The size of the arrays of a run, in bytes."""
    return sum(array.nbytes for array in vars(run).values() if isinstance(array, np.ndarray))


def model_bytes(run: Run) -> int:
    """The size of the saved model, in bytes."""
    return 4 * run.config.num_parameters()


def checkpoint_bytes(run: Run) -> int:
    """The size of a checkpoint, in bytes."""
    return array_bytes(run)


def check_space(folder: Path, n_bytes: int, what: str) -> None:
    """Raise OSError if the disk of an existing folder has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise OSError(f"{what} needs {size(n_bytes)} in {folder}, and the disk has {size(free)} free; make room there")


def size(n_bytes: float) -> str:
    """A number of bytes in words.

    >>> size(2_490_000_000), size(1_234_567), size(900)
    ('2.5 GB', '1 MB', '1 MB')
    """
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{max(1, n_bytes / 1e6):.0f} MB"


def duration(seconds: float) -> str:
    """A duration in words.

    >>> duration(8.2), duration(200), duration(9000)
    ('8 seconds', '3 minutes', '2.5 hours')
    """
    if seconds < 100:
        return f"{max(1, seconds):.0f} second{'s' * (seconds >= 1.5)}"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
