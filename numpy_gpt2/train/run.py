"""A training run: the loop with its evaluations, the log, samples and checkpoints."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tiktoken
from safetensors import SafetensorError, safe_open

from ..checkpoint import Model, load, staged_model
from ..cli import return_freed_memory
from ..config import GPT2Config
from ..console import print_stderr, progress_bar, quantity, write
from ..files import staged_writes
from ..generate import generate
from ..model import cross_entropy, forward
from ..stream import excluded_tokens
from ..threads import thread_pool
from ..tokenizer import has_tokenizer, save_tokenizer
from ..weights import FILE, Weights, load_weights, save_tensors
from ..windows import window_losses, window_starts
from .adapter_files import ADAPTER, load_adapters, save_adapters
from .config import TrainConfig
from .cost import check_space, duration
from .curve import loss_curve
from .data import TOKENS, Tokens, load_tokens, save_tokens
from .progress import Interrupt, delayed_interrupt, redrawn
from .step import Run, check_finite, current_weights, learning_rate, take_step
from .trained import as_weights, fingerprint, rank

if TYPE_CHECKING:
    from tqdm import tqdm

CHECKPOINT = "checkpoint.safetensors"
BEST = "best"  # in the checkpoint: what is trained, as it is in the best model
LOG = "train.jsonl"
CURVE = "loss.svg"

SAMPLE_TOKENS = 200
CHECKED = 64  # positions whose loss must be finite before a checkpoint is written
STOP_SECONDS = 10  # after Ctrl-C, a run is saved in this time or in that of two steps, whichever is longer
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def save_checkpoint(run: Run, tokens: Tokens, tokenizer: tiktoken.Encoding, folder: Path) -> None:
    """Write the whole run to one file, with the best model if it is not the present one, and the tokens to another.

    Raises ValueError and writes nothing if the loss is not finite, and OSError if the disk has no room.
    """
    window, weights = tokens.training[: min(CHECKED, run.options.n_positions) + 1], current_weights(run, run.weights)
    with np.errstate(all="ignore"):
        check_finite(run, cross_entropy(forward(window[:-1], weights, run.config), window[1:]))
    fields = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
    state = {name: value for name, value in fields.items() if name not in {*arrays, "frozen", "merged"}}
    state |= {"options": dataclasses.asdict(run.options), "config": dataclasses.asdict(run.config)}
    if run.best_step not in (None, run.step):
        return_freed_memory()  # else a step's arrays and the best model would take more memory than `memory` says
        arrays[BEST] = read_best(run, folder)
    check_space(folder, sum(array.nbytes for array in arrays.values()), f"the checkpoint of step {run.step:,}")
    with staged_writes(folder) as aside:
        save_tensors(aside / CHECKPOINT, arrays, {"state": json.dumps(state)})
        if not has_tokenizer(folder):
            save_tokenizer(aside, tokenizer)
        if load_tokens(folder, run.options.corpus) is None:
            save_tokens(aside / TOKENS, tokens, run.options.corpus)


def load_checkpoint(folder: Path) -> Run:
    """Read the run from a checkpoint, and its frozen weights from the model that it started from.

    Raises FileNotFoundError, or ValueError if the file is damaged or that model has changed. A setting that the
    checkpoint does not have takes its default.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no {CHECKPOINT}; leave out --resume to start a run")
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys() if name != BEST}  # noqa: SIM118
            state = json.loads(file.metadata()["state"])
        options, config = TrainConfig(**state.pop("options")), GPT2Config(**state.pop("config"))
        run = Run(options, config, **arrays, **state)
        n = sum(map(math.prod, run.shapes.values()))
        if {array.shape for array in arrays.values()} != {(n,)} or type(run.step) is not int:
            raise ValueError("its arrays do not fit its config")
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); to continue from the best model, use another --out and --init-from {folder}"
        ) from None
    if run.options.train != "all":
        run.frozen = frozen_weights(run, folder)
    return run


def frozen_weights(run: Run, folder: Path) -> Weights:
    """Load the weights that the run does not train. Raises ValueError if they are not those that it began with."""
    weights = load(str(run.options.init_from)).weights
    frozen = {name: array for name, array in weights.items() if name not in run.shapes}
    if fingerprint(frozen) != run.base:
        raise ValueError(
            f"the weights of {run.options.init_from} have changed since the run in {folder} began; --resume needs the"
            " same weights, so restore them, or start a run in another --out"
        )
    return frozen


def validation_loss(run: Run, held_out: np.ndarray, pool: Executor, give_up: Callable[[], bool]) -> float | None:
    """Return the mean loss over the held-out text, in nats per token. None if `give_up` ended the evaluation.

    At most `eval_batches` batches of windows are evaluated. If the text has more, these windows are evenly spaced. A
    window is as long as the model allows, as in `python -m numpy_gpt2.evaluate`.
    """
    length = run.config.n_positions
    starts = window_starts(len(held_out), length, length)
    n = min(len(starts), run.options.eval_batches * run.options.batch_size)
    starts = starts[np.linspace(0, len(starts) - 1, n).astype(int)]
    weights = current_weights(run, run.averaged)
    total, n_targets = 0.0, 0
    for loss, n in window_losses(held_out, starts, length, weights, run.config, pool):
        total, n_targets = total + loss, n_targets + n
        if give_up():
            return None
    check_finite(run, total)
    return total / n_targets


def sample(model: Model, seed: int | list[int], give_up: Callable[[], bool] = lambda: False) -> str:
    """Return a text that the model generates after a newline. `give_up` ends it earlier."""
    weights, config, tokenizer = model
    tokens = []
    for token in generate(
        tokenizer.encode_ordinary("\n"),
        weights,
        config,
        max_new_tokens=SAMPLE_TOKENS,
        temperature=0.8,
        top_k=40,
        n_vocab=tokenizer.n_vocab,
        excluded=excluded_tokens(model),
        rng=np.random.default_rng(seed),
    ):
        tokens.append(token)
        if give_up():
            break
    return tokenizer.decode(tokens)


def write_sample(step: int, text: str) -> None:
    """Write a sample of the model after so many steps to standard output, if anybody reads it."""
    with suppress(BrokenPipeError):
        write(f"--- after {step:,} steps\n{text}\n")


def save_best(run: Run, tokenizer: tiktoken.Encoding, folder: Path, best: np.ndarray | None = None) -> None:
    """Write the present model as the best so far: the files of a model folder, and the adapters if there are any.

    `best` has other numbers in place of the present ones.
    """
    flat = run.averaged if best is None else best
    check_space(folder, 4 * run.config.num_parameters(), f"the model of step {run.step:,}")
    with staged_model(folder, current_weights(run, flat), run.config, tokenizer) as aside:
        if r := rank(run.options.train):
            save_adapters(aside / ADAPTER, as_weights(flat, run.shapes), r, str(run.options.init_from))


def read_best(run: Run, folder: Path) -> np.ndarray:
    """Read what is trained from the best model in the folder, as a flat array."""
    names = [*run.shapes]
    best = load_adapters(folder / ADAPTER, names) if rank(run.options.train) else load_weights(folder)
    return np.concatenate([best[name].reshape(-1) for name in names])


def restore_best(run: Run, tokenizer: tiktoken.Encoding, folder: Path) -> None:
    """Write the best model of the checkpoint again, because the model in the folder may be a later one."""
    with safe_open(folder / CHECKPOINT, framework="np") as file:
        best = file.get_tensor(BEST) if BEST in file.keys() else None  # noqa: SIM118
    save_best(run, tokenizer, folder, best)


def saved_bytes(folder: Path) -> int:
    """The size of the checkpoint and the model in a folder, in bytes."""
    return sum(path.stat().st_size for path in (folder / CHECKPOINT, folder / FILE) if path.exists())


def save_log(run: Run, folder: Path) -> None:
    """Write the log, one JSON object per line, and the picture of its losses."""
    with staged_writes(folder) as aside:
        (aside / LOG).write_text("".join(json.dumps(row) + "\n" for row in run.rows), encoding="utf-8")
        curve = loss_curve(run.rows, f"{folder.resolve().name}: loss")
        (aside / CURVE).write_text(curve, encoding="utf-8", errors="replace")


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of the log in a folder. There are none without a log, or if it is damaged."""
    with suppress(FileNotFoundError, ValueError):
        return [json.loads(line) for line in (folder / LOG).read_bytes().splitlines()]
    return []


def is_complete(run: Run, folder: Path) -> bool:
    """Whether the run has made its steps, and the last one is in the log. The log comes last: the model is complete."""
    rows = log_of(folder) if run.step >= run.options.max_steps else []
    return len(rows) >= len(run.rows) and bool(rows) and rows[-1]["step"] == run.step


def add_row(run: Run, loss: float | None) -> None:
    """Add a row to the log. Without a step since the last row, as at step 0, there is only the validation loss."""
    row: dict[str, float | None] = dict.fromkeys(("step", "train_loss", "val_loss", "lr", "tokens_per_second"))
    row |= {"step": run.step, "val_loss": loss, "seconds": run.seconds}
    if run.losses:
        row["train_loss"] = sum(run.losses) / len(run.losses)
        row["lr"] = learning_rate(run.step - 1, run.options)
        row["tokens_per_second"] = run.tokens_per_second
    run.rows.append(row)
    run.losses, run.timings = [], []


def keep_best(run: Run) -> bool:
    """Keep the weights as the best ones if the last row of the log has the lowest loss, or no text is held out.

    Returns whether they were kept. The loss before the first step does not count.
    """
    loss = run.rows[-1]["val_loss"]
    if loss is not None and loss >= run.best_loss:
        return False
    run.best_loss, run.best_step = math.inf if loss is None else loss, run.step
    return True


class Loop:
    """The steps of a run, and what is due after each: an evaluation, a checkpoint, the best model, a sample.

    A checkpoint is saved before the first model, and each one before the model and the log of its step. So a killed run
    has either left nothing and can be started again, or it can be resumed. This does not hold without checkpoints.
    """

    def __init__(self, run: Run, tokens: Tokens, tokenizer: tiktoken.Encoding, folder: Path, bar: tqdm[Any]) -> None:
        self.run, self.tokens, self.tokenizer, self.folder, self.bar = run, tokens, tokenizer, folder, bar
        self.saved = run.step if (folder / CHECKPOINT).exists() else None  # the step of the last checkpoint
        self.loss = self.speed = ""  # of the last step, for the bar
        self.evaluating = self.saving = 0.0  # seconds that the last evaluation and the last checkpoint took

    def train(self, pool: Executor, interrupt: Interrupt) -> None:
        """Make steps until `max_steps`, the time limit, or Ctrl-C. A run that stops early is saved."""
        run, options, first = self.run, self.run.options, self.run.step
        deadline = time.monotonic() + 60 * options.time_limit if options.time_limit else math.inf
        if run.step == 0 and options.init_from and len(self.tokens.held_out) and not run.rows:
            self.evaluate(pool, interrupt.__bool__)
        elif run.step and self.is_row_due() and not self.is_evaluated():
            self.finish_step(pool, interrupt)  # Ctrl-C has ended the evaluation of this step
        while run.step < options.max_steps and not interrupt and time.monotonic() < deadline:
            take_step(run, self.tokens.training, pool)
            self.loss, self.speed = f"loss {run.losses[-1]:.4f}", f"{run.tokens_per_second:,.0f} tokens/s"
            self.show()
            self.bar.update()
            if run.step == first + 2 and not interrupt:
                self.print_time_left()
            if not interrupt:
                self.finish_step(pool, interrupt)
        if run.step < options.max_steps or not self.is_evaluated():
            self.stop(pool, interrupt)

    def due(self, interval: int) -> bool:
        """Whether something with this interval is due after this step."""
        return interval > 0 and (self.run.step % interval == 0 or self.run.step == self.run.options.max_steps)

    def is_row_due(self) -> bool:
        """Whether this step is evaluated. The last step always is."""
        return self.run.step == self.run.options.max_steps or self.due(self.run.options.eval_interval)

    def is_evaluated(self) -> bool:
        """Whether the log has a row for this step."""
        return bool(self.run.rows) and self.run.rows[-1]["step"] == self.run.step

    def show(self, doing: str = "") -> None:
        """Show the losses in the bar, or what is being done."""
        is_known = self.run.rows and len(self.tokens.held_out)
        held_out = f"held out {self.run.rows[-1]['val_loss']:.4f}" if is_known else ""
        self.bar.set_postfix_str(doing or ", ".join(filter(None, (self.loss, held_out, self.speed))), refresh=False)

    def print_time_left(self) -> None:
        """Say how long the remaining steps and evaluations take, from the faster one of the two steps so far."""
        seconds, left = min(self.run.timings[-2:]), self.run.options.max_steps - self.run.step
        n_evaluations = left / self.run.options.eval_interval if self.run.options.eval_interval else 1
        if left:
            with self.bar.external_write_mode():
                print_stderr(
                    f"a step takes {seconds:.2g} s; the rest of the run, {quantity(left, 'step')}, takes about"
                    f" {duration(seconds * left + self.evaluating * n_evaluations)}"
                )

    def evaluate(self, pool: Executor, give_up: Callable[[], bool]) -> bool:
        """Add a row to the log. Returns False without a row if `give_up` ended the evaluation."""
        start, held_out = time.monotonic(), self.tokens.held_out
        self.show("evaluating")
        loss = validation_loss(self.run, held_out, pool, give_up) if len(held_out) else None
        if loss is not None or not len(held_out):
            add_row(self.run, loss)
        self.evaluating = time.monotonic() - start
        self.show()
        return self.is_evaluated()

    def save(self) -> None:
        """Save a checkpoint."""
        start = time.monotonic()
        self.show("saving")
        save_checkpoint(self.run, self.tokens, self.tokenizer, self.folder)
        self.saved, self.saving = self.run.step, time.monotonic() - start
        self.show()

    def finish_step(self, pool: Executor, interrupt: Interrupt) -> None:
        """Do what is due after a step. Ctrl-C ends an evaluation and a sample."""
        run, options = self.run, self.run.options
        is_row_due, is_last = self.is_row_due(), run.step == options.max_steps
        if is_row_due and not self.evaluate(pool, interrupt.__bool__):
            return
        is_best = is_row_due and keep_best(run)
        is_first = is_row_due and self.saved is None and options.checkpoint_interval > 0
        if self.due(options.checkpoint_interval) or is_first:
            self.save()
        if is_best:
            save_best(run, self.tokenizer, self.folder)
        if is_row_due:
            save_log(run, self.folder)
        if self.due(options.sample_interval) and not (options.init_from and is_last):  # the command prints the last two
            model = Model(current_weights(run, run.averaged), run.config, self.tokenizer)
            text = sample(model, [options.seed, run.step], interrupt.__bool__)
            with self.bar.external_write_mode():
                write_sample(run.step, text)

    def stop(self, pool: Executor, interrupt: Interrupt) -> None:
        """Save a checkpoint, and evaluate the run after that.

        The checkpoint does not contain this evaluation, so a resumed run has the same log and model as an uninterrupted
        one. After Ctrl-C, an evaluation that would take too long is given up; see STOP_SECONDS.
        """
        run = self.run

        def is_too_late() -> bool:  # saving the model takes time, too: less than the checkpoint
            allowed = max(STOP_SECONDS, 2 * run.timings[-1]) - self.saving
            return interrupt.time is not None and time.monotonic() > interrupt.time + allowed

        with self.bar.external_write_mode():
            print_stderr("stopping: saving and evaluating the run")
        if run.options.checkpoint_interval and self.saved != run.step:
            self.save()
        if run.losses and not is_too_late() and self.evaluate(pool, is_too_late):
            if keep_best(run):
                save_best(run, self.tokenizer, self.folder)
            save_log(run, self.folder)


def train(run: Run, tokens: Tokens, tokenizer: tiktoken.Encoding, folder: Path) -> bool:
    """Train until `max_steps`, the time limit, or Ctrl-C. Returns True after Ctrl-C."""
    with (
        thread_pool() as pool,
        delayed_interrupt() as interrupt,
        progress_bar(total=run.options.max_steps, initial=run.step, bar_format=BAR) as bar,
        redrawn(bar, interrupt),
    ):
        Loop(run, tokens, tokenizer, folder, bar).train(pool, interrupt)
        return bool(interrupt)
