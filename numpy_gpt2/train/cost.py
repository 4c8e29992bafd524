"""What a run takes: passes over the text, memory, disk space and time. The command states it before the first step."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import NamedTuple

from ..threads import thread_count
from ..windows import ROWS
from .gradients import equal_parts, lowest_block
from .step import Run, windows_per_epoch
from .trained import trained_weights

# For `memory`. Peaks of runs with 1 to 124 million parameters were 0.8 to 1.1 of the estimate, also with `last:2` and
# `lora:8`.
BASE = 80_000_000  # bytes
PER_CHANNEL = 20  # numbers for each token, block and channel
PATTERNS = 2  # numbers for each attention weight
EVALUATED = 6  # numbers for each score in an evaluation
MANY_PASSES = 20  # over the training text; a model then begins to repeat it


def passes(run: Run, n_tokens: int) -> float:
    """How often the run passes over a training text of so many tokens."""
    n_windows = run.options.max_steps * run.windows_per_step
    return n_windows / windows_per_epoch(n_tokens, run.options.n_positions)


def memory(run: Run) -> int:
    """An estimate of the peak memory of a run, in bytes.

    The arrays of what is trained have as many numbers as there are parameters: the weights, the gradient, AdamW's two
    means, and the running mean if there is one. With frozen weights, the whole weights file is in memory, and adapted
    matrices are there twice. Python and its libraries take BASE bytes.

    In a step, each thread computes a part of the batch. For each of its tokens it keeps V scores. In each block with a
    backward pass, it keeps PER_CHANNEL · C + PATTERNS · H T numbers. It also has the gradients of one block. For all
    tokens of the batch, the gradients of the embeddings are kept and, where rows are divided into chunks, the keys and
    values. In an evaluation, each thread has EVALUATED numbers for each score of ROWS tokens.
    """
    config, options = run.config, run.options
    divided = equal_parts(options.batch_size, options.n_positions, config.vocab_size)
    parts = [part for chunks in divided for part in chunks]
    n_threads = min(thread_count(), len(parts))
    n_tokens = math.prod(some.stop - some.start for some in parts[0])
    names = trained_weights(options.train, config)
    n_blocks = config.n_layer - lowest_block(names, config.n_layer)
    per_token = n_blocks * (PER_CHANNEL * config.n_embd + PATTERNS * config.n_head * options.n_positions)
    step = n_tokens * (per_token + config.vocab_size) + sum(map(math.prod, config.block_shapes().values()))
    evaluation = EVALUATED * ROWS * config.vocab_size
    per_batch_token = config.n_embd * (1 + (2 * config.n_layer if len(divided[0]) > 1 else 0))
    return (
        BASE
        + run.weights.nbytes * (5 if options.average else 4)
        + (4 * config.num_parameters() if run.frozen else 0)
        + sum(array.nbytes for array in run.merged.values())
        + 4 * options.batch_size * options.n_positions * per_batch_token
        + 4 * n_threads * max(step, evaluation)
    )


class Disk(NamedTuple):
    """The disk space that a run takes, in bytes."""

    kept: int  # the model and the largest checkpoint
    while_saving: int  # a new checkpoint is written beside the old one


def disk(run: Run) -> Disk:
    """The size of the files of a run. The tokenizer, the tokens and the log are small beside them.

    A checkpoint has the weights that are trained, AdamW's two means, the best model, and the running mean if there is
    one.
    """
    model = 4 * run.config.num_parameters()
    checkpoint = run.weights.nbytes * (5 if run.options.average else 4) if run.options.checkpoint_interval else 0
    return Disk(model + checkpoint, max(model, checkpoint))


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
