"""What the command says about a run: what it takes before the first step, and what it has gained at the end."""

from __future__ import annotations

from pathlib import Path

from ..checkpoint import load
from ..cli import return_freed_memory
from ..console import print_stderr, quantity
from .cost import MANY_PASSES, check_space, disk, memory, passes, size
from .data import Tokens
from .run import sample, saved_bytes, write_sample
from .step import Run, windows_per_epoch


def print_plan(run: Run, tokens: Tokens, folder: Path) -> None:
    """Say what the run computes and what it takes. Raises OSError if the disk has no room for its files."""
    options, n_passes = run.options, passes(run, len(tokens.training))
    n_windows, n_in_step = windows_per_epoch(len(tokens.training), options.n_positions), run.windows_per_step
    print_stderr(
        f"{run.config.num_parameters():,} parameters; {len(tokens.training):,} training tokens,"
        f" {len(tokens.held_out):,} held out"
    )
    steps, in_step = quantity(options.max_steps, "step"), quantity(n_in_step, "window")
    windows = quantity(n_windows, "window")
    print_stderr(
        f"{steps}, each on {in_step} of {options.n_positions:,} tokens; the training text has {windows}, so the run"
        f" passes over it {n_passes:,.{1 if n_passes >= 0.1 else 3}f} times"
    )
    needed = disk(run)
    print_stderr(
        f"about {size(memory(run))} of memory; {size(needed.kept)} on the disk, and {size(needed.while_saving)} more"
        " while a checkpoint is saved"
    )
    check_space(folder, needed.kept + needed.while_saving - saved_bytes(folder), "the run")
    if n_in_step > n_windows:
        print_stderr(
            f"warning: a step has {n_in_step * options.n_positions:,} tokens and the training text only"
            f" {len(tokens.training):,}; use a smaller --batch-size, or more text"
        )
    if n_passes > MANY_PASSES:
        fewer = "--epochs" if options.epochs else "--max-steps"
        print_stderr(
            f"warning: the run passes over the training text {n_passes:,.0f} times. After {MANY_PASSES} passes, a model"
            f" begins to repeat it; use a smaller {fewer}, or more text"
        )


def print_gain(run: Run) -> None:
    """Say how much the held-out loss has fallen since step 0."""
    before, after = run.rows[0]["val_loss"] or 0.0, run.best_loss
    figures = f"held-out loss: {before:.4f} at step 0, {after:.4f} at step {run.best_step:,}"
    if after < before:
        print_stderr(f"{figures}, the lowest: {before - after:.4f} nats per token less")
    else:
        print_stderr(
            f"{figures}, the lowest after a step: {run.options.init_from} predicts the held-out text better than any"
            " model of this run. Try a lower --lr, fewer --epochs, or more text"
        )


def write_both_samples(run: Run, folder: Path) -> None:
    """Write a text of the model that the run began with, and one of the best model, with the same random numbers.

    A resumed run that trains all weights does not need the first model, so it may be gone.
    """
    return_freed_memory()  # a step's arrays and a second model would take more memory than `memory` says
    try:
        write_sample(0, sample(load(str(run.options.init_from)), run.options.seed))
    except FileNotFoundError as error:
        print_stderr(f"there is no sample after 0 steps: {error}")
    write_sample(run.best_step or 0, sample(load(str(folder)), run.options.seed))
