"""A training run: the loop with its evaluations, the log, samples and checkpoints."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tiktoken
from safetensors import SafetensorError, safe_open

from ..checkpoint import Model, save_model
from ..config import GPT2Config
from ..console import print_stderr, progress_bar, write
from ..files import staged_writes
from ..generate import generate
from ..model import cross_entropy, forward
from ..stream import excluded_tokens
from ..threads import thread_pool
from ..tokenizer import save_tokenizer
from ..weights import Weights, save_tensors
from ..windows import window_losses, window_starts
from .config import TrainConfig
from .cost import check_space, checkpoint_bytes, duration, model_bytes
from .curve import loss_curve
from .data import TOKENS, Tokens, load_tokens, save_tokens
from .step import Run, as_weights, check_finite, learning_rate, take_step

if TYPE_CHECKING:
    from tqdm import tqdm

CHECKPOINT = "checkpoint.safetensors"
LOG = "train.jsonl"
CURVE = "loss.svg"

SAMPLE_TOKENS = 200
STOP_SECONDS = 10  # after Ctrl-C, a run is saved in this time or in that of two steps, whichever is longer
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def save_checkpoint(run: Run, tokens: Tokens, tokenizer: tiktoken.Encoding, folder: Path) -> None:
    """Write the whole run to one file, and its tokens to another one if they are not there yet.

    Raises ValueError and writes nothing if the loss is not finite, and OSError if the disk has no room.
    """
    window, weights = tokens.training[: run.options.n_positions + 1], as_weights(run.weights, run.config)
    with np.errstate(all="ignore"):
        check_finite(run, cross_entropy(forward(window[:-1], weights, run.config), window[1:]))
    state = {name: value for name, value in vars(run).items() if not isinstance(value, np.ndarray)}
    state |= {"options": dataclasses.asdict(run.options), "config": dataclasses.asdict(run.config)}
    check_space(folder, checkpoint_bytes(run), f"the checkpoint of step {run.step:,}")
    with staged_writes(folder) as aside:
        arrays = {name: array for name, array in vars(run).items() if isinstance(array, np.ndarray)}
        save_tensors(aside / CHECKPOINT, arrays, {"state": json.dumps(state)})
        save_tokenizer(aside, tokenizer)
        if load_tokens(folder, run.options.corpus) is None:
            save_tokens(aside / TOKENS, tokens, run.options.corpus)


def load_checkpoint(folder: Path) -> Run:
    """Read the run from a checkpoint. Raises FileNotFoundError, or ValueError if the file is damaged.

    A setting that the checkpoint does not have takes its default.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no {CHECKPOINT}; leave out --resume to start a run")
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = json.loads(file.metadata()["state"])
        options, config = TrainConfig(**state.pop("options")), GPT2Config(**state.pop("config"))
        run = Run(options, config, **arrays, **state)
        if {array.shape for array in arrays.values()} != {(config.num_parameters(),)} or type(run.step) is not int:
            raise ValueError("its arrays do not fit its config")
        return run
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); to continue from the best model, use another --out and --init-from {folder}"
        ) from None


def evaluated_weights(run: Run) -> Weights:
    """The weights that are evaluated and saved: the running mean, or those of the last step."""
    return as_weights(run.mean if run.options.average else run.weights, run.config)


def validation_loss(run: Run, held_out: np.ndarray, pool: Executor, give_up: Callable[[], bool]) -> float | None:
    """Return the mean loss over the held-out text, in nats per token. None if `give_up` ended the evaluation.

    At most `eval_batches` batches of windows are evaluated. If the text has more, these windows are evenly spaced. A
    window is as long as the model allows, as in `python -m numpy_gpt2.evaluate`.
    """
    length = run.config.n_positions
    starts = window_starts(len(held_out), length, length)
    n = min(len(starts), run.options.eval_batches * run.options.batch_size)
    starts = starts[np.linspace(0, len(starts) - 1, n).astype(int)]
    total, n_targets = 0.0, 0
    for loss, n in window_losses(held_out, starts, length, evaluated_weights(run), run.config, pool):
        total, n_targets = total + loss, n_targets + n
        if give_up():
            return None
    check_finite(run, total)
    return total / n_targets


@dataclass
class Interrupt:
    """When Ctrl-C was pressed. It is true from then on."""

    time: float | None = None  # of time.monotonic

    def __bool__(self) -> bool:
        return self.time is not None


@contextmanager
def delayed_interrupt() -> Generator[Interrupt]:
    """Let Ctrl-C wait until the step is done. Yields an object that tells whether and when Ctrl-C was pressed.

    A second Ctrl-C interrupts at once.
    """
    interrupt = Interrupt()

    def note(*_: object) -> None:
        interrupt.time = time.monotonic()
        signal.signal(signal.SIGINT, usual)

    usual = signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, usual)


@contextmanager
def redrawn(bar: tqdm[Any], interrupt: Interrupt) -> Generator[None]:
    """Redraw the bar twice a second in a terminal, because a step may take long. Say there that Ctrl-C was noticed."""
    ended = threading.Event()

    def redraw() -> None:
        noticed = False
        while not ended.wait(0.5):
            if interrupt and not noticed:
                noticed = True
                with bar.external_write_mode(file=sys.stderr):
                    print_stderr("stopping after this step; Ctrl-C again stops at once")
            bar.refresh()

    thread = threading.Thread(target=redraw, daemon=True)
    if sys.stderr and sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        ended.set()


def sample(model: Model, seed: int, give_up: Callable[[], bool]) -> str | None:
    """Return a text that the model generates after a newline. None if `give_up` ended it."""
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
            return None
    return tokenizer.decode(tokens)


def write_sample(step: int, text: str) -> None:
    """Write a sample of the model after so many steps to standard output, if anybody reads it."""
    with suppress(BrokenPipeError):
        write(f"--- after {step:,} steps\n{text}\n")


def save_best(run: Run, tokenizer: tiktoken.Encoding, folder: Path) -> None:
    """Write the best model so far: the files of a model folder."""
    if folder.exists():
        check_space(folder, model_bytes(run), "the model")
    save_model(folder, as_weights(run.best, run.config), run.config, tokenizer)


def save_log(run: Run, folder: Path) -> None:
    """Write the log, one JSON object per line, and the picture of its losses."""
    with staged_writes(folder) as aside:
        (aside / LOG).write_text("".join(json.dumps(row) + "\n" for row in run.rows), encoding="utf-8")
        curve = loss_curve(run.rows, f"{folder.resolve().name}: loss")
        (aside / CURVE).write_text(curve, encoding="utf-8", errors="replace")


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of the log in a folder. There are none without a log."""
    path = folder / LOG
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


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
    run.best[:] = run.mean if run.options.average else run.weights
    run.best_loss = math.inf if loss is None else loss
    return True


class Loop:
    """The steps of a run, and what is due after each: an evaluation, a checkpoint, the best model, a sample.

    A checkpoint is saved before the first model, and each one before the model and the log of its step. So a killed run
    has either left nothing and can be started again, or it can be resumed. This does not hold without checkpoints.
    """

    def __init__(self, run: Run, tokens: Tokens, tokenizer: tiktoken.Encoding, folder: Path, bar: tqdm[Any]) -> None:
        self.run, self.tokens, self.tokenizer, self.folder, self.bar = run, tokens, tokenizer, folder, bar
        self.saved = run.step if (folder / CHECKPOINT).exists() else None  # the step of the last checkpoint
        self.speed = ""  # loss and tokens per second of the last step, for the bar
        self.evaluating = self.saving = 0.0  # seconds that the last evaluation and the last checkpoint took

    def train(self, pool: Executor, interrupt: Interrupt) -> None:
        """Make steps until `max_steps`, the time limit, or Ctrl-C. A run that stops early is saved."""
        run, options, first = self.run, self.run.options, self.run.step
        deadline = time.monotonic() + 60 * options.time_limit if options.time_limit else math.inf
        if run.step == 0 and options.init_from and len(self.tokens.held_out):
            self.evaluate(pool, interrupt.__bool__)
        elif run.step and self.due(options.eval_interval) and not self.is_evaluated():
            self.finish_step(pool, interrupt)  # Ctrl-C has ended the evaluation of this step
        while run.step < options.max_steps and not interrupt and time.monotonic() < deadline:
            take_step(run, self.tokens.training, pool)
            self.speed = f"loss {run.losses[-1]:.4f}, {run.tokens_per_second:,.0f} tokens/s"
            self.show()
            self.bar.update()
            if run.step == first + 2:
                self.print_time_left()
            if not interrupt:
                self.finish_step(pool, interrupt)
        if run.step < options.max_steps or not self.is_evaluated():
            self.stop(pool, interrupt)

    def due(self, interval: int) -> bool:
        """Whether something with this interval is due after this step."""
        return interval > 0 and (self.run.step % interval == 0 or self.run.step == self.run.options.max_steps)

    def is_evaluated(self) -> bool:
        """Whether the log has a row for this step."""
        return bool(self.run.rows) and self.run.rows[-1]["step"] == self.run.step

    def show(self, doing: str = "") -> None:
        """Show the losses in the bar, or what is being done."""
        is_known = self.run.rows and len(self.tokens.held_out)
        held_out = f"held out {self.run.rows[-1]['val_loss']:.4f}" if is_known else ""
        self.bar.set_postfix_str(doing or ", ".join(filter(None, (held_out, self.speed))), refresh=False)

    def print_time_left(self) -> None:
        """Say how long the remaining steps and evaluations take, from the faster one of the two steps so far."""
        seconds, left = min(self.run.timings[-2:]), self.run.options.max_steps - self.run.step
        n_evaluations = left / self.run.options.eval_interval if self.run.options.eval_interval else 1
        if left:
            with self.bar.external_write_mode(file=sys.stderr):
                print_stderr(
                    f"a step takes {seconds:.2g} s; the {left:,} steps that are left take about"
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
        is_last = run.step == options.max_steps
        is_row_due = is_last or self.due(options.eval_interval)
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
            text = sample(Model(evaluated_weights(run), run.config, self.tokenizer), options.seed, interrupt.__bool__)
            if text is not None:
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

        print_stderr("stopping: saving and evaluating the run")
        if run.options.checkpoint_interval and self.saved != run.step:
            self.save()
        if run.losses and self.evaluate(pool, is_too_late):
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
