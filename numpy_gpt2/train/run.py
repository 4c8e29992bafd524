"""A training run: the loop with its evaluations, the log, samples and checkpoints."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path

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
from ..weights import save_tensors
from ..windows import window_losses, window_starts
from .config import TrainConfig
from .curve import loss_curve
from .step import Run, as_weights, check_finite, learning_rate, take_step

CHECKPOINT = "checkpoint.safetensors"
LOG = "train.jsonl"
CURVE = "loss.svg"

SAMPLE_TOKENS = 200
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def save_checkpoint(run: Run, tokens: np.ndarray, tokenizer: tiktoken.Encoding, folder: Path) -> None:
    """Write the whole run to one file. Raises ValueError and writes nothing if the loss is not finite."""
    window, weights = tokens[: run.config.n_positions + 1], as_weights(run.weights, run.config)
    with np.errstate(all="ignore"):
        check_finite(run, cross_entropy(forward(window[:-1], weights, run.config), window[1:]))
    state = {name: value for name, value in vars(run).items() if not isinstance(value, np.ndarray)}
    state |= {"options": dataclasses.asdict(run.options), "config": dataclasses.asdict(run.config)}
    with staged_writes(folder) as aside:
        fields = [field.name for field in dataclasses.fields(run)]
        arrays = {name: vars(run)[name] for name in fields if isinstance(vars(run)[name], np.ndarray)}
        save_tensors(aside / CHECKPOINT, arrays, {"state": json.dumps(state)})
        save_tokenizer(aside, tokenizer)


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


def validation_loss(run: Run, held_out: np.ndarray, pool: Executor) -> float:
    """Return the mean loss over the held-out text, in nats per token.

    At most `eval_batches` batches of windows are evaluated. If the text has more, these windows are evenly spaced.
    """
    length = run.config.n_positions
    starts = window_starts(len(held_out), length, length)
    n = min(len(starts), run.options.eval_batches * run.options.batch_size)
    starts = starts[np.linspace(0, len(starts) - 1, n).astype(int)]
    weights = as_weights(run.mean, run.config)
    total, n_targets = np.sum([*window_losses(held_out, starts, length, weights, run.config, pool)], axis=0)
    check_finite(run, total)
    return total / n_targets


@contextmanager
def delayed_interrupt() -> Generator[Callable[[], bool]]:
    """Let Ctrl-C wait until the step is done. Yields a function that tells whether Ctrl-C was pressed.

    A second Ctrl-C interrupts at once.
    """
    asked = threading.Event()

    def note(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, usual)

    usual = signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, usual)


def sample(run: Run, tokenizer: tiktoken.Encoding) -> str:
    """Return a text that the model generates after a newline."""
    weights, rng = as_weights(run.mean, run.config), np.random.default_rng([run.options.seed, run.step])
    tokens = generate(
        tokenizer.encode_ordinary("\n"),
        weights,
        run.config,
        max_new_tokens=SAMPLE_TOKENS,
        temperature=0.8,
        top_k=40,
        n_vocab=tokenizer.n_vocab,
        excluded=excluded_tokens(Model(weights, run.config, tokenizer)),
        rng=rng,
    )
    return tokenizer.decode([*tokens])


def save_best(run: Run, tokenizer: tiktoken.Encoding, folder: Path) -> None:
    """Write the best model so far: the files of a model folder."""
    save_model(folder, as_weights(run.best, run.config), run.config, tokenizer)


def save_log(run: Run, folder: Path) -> None:
    """Write the log, one JSON object per line, and the picture of its losses."""
    with staged_writes(folder) as aside:
        (aside / LOG).write_text("".join(json.dumps(row) + "\n" for row in run.rows), encoding="utf-8")
        curve = loss_curve(run.rows, f"{folder.resolve().name}: loss")
        (aside / CURVE).write_text(curve, encoding="utf-8", errors="replace")


def is_log_complete(run: Run, folder: Path) -> bool:
    """Whether the log in the folder has all rows of the run. It is written last, so the model is complete, too."""
    path = folder / LOG
    return path.exists() and len(path.read_bytes().splitlines()) >= len(run.rows)


def evaluate(run: Run, held_out: np.ndarray, pool: Executor) -> bool:
    """Add a row to the log. Returns whether this is the best model: its loss is the lowest, or no text is held out."""
    loss = validation_loss(run, held_out, pool) if len(held_out) else None
    row = {
        "step": run.step,
        "train_loss": sum(run.losses) / len(run.losses),
        "val_loss": loss,
        "lr": learning_rate(run.step - 1, run.options),
        "tokens_per_second": run.tokens_per_second,
        "seconds": run.seconds,
    }
    run.rows.append(row)
    run.losses, run.timings = [], []
    if loss is not None and loss >= run.best_loss:
        return False
    run.best[:] = run.mean
    run.best_loss = math.inf if loss is None else loss
    return True


def train(run: Run, tokens: np.ndarray, held_out: np.ndarray, tokenizer: tiktoken.Encoding, folder: Path) -> bool:
    """Train until `max_steps`, the time limit, or Ctrl-C. Returns True after Ctrl-C.

    A run that stops early first saves a checkpoint, and is evaluated after that. The checkpoint does not contain this
    evaluation, so a resumed run has the same log and model as an uninterrupted one.

    A checkpoint is saved before the first model, and each one before the model and the log of its step. So a killed run
    has either left nothing and can be started again, or it can be resumed. This does not hold without checkpoints.
    """
    options = run.options
    deadline = time.monotonic() + 60 * options.time_limit if options.time_limit else math.inf

    def due(interval: int) -> bool:
        return interval > 0 and (run.step % interval == 0 or run.step == options.max_steps)

    def show_losses(loss: float, tokens_per_second: float) -> None:
        held = f", held out {run.rows[-1]['val_loss']:.4f}" if run.rows and len(held_out) else ""
        bar.set_postfix_str(f"loss {loss:.4f}{held}, {tokens_per_second:,.0f} tokens/s", refresh=False)

    def evaluate_and_show() -> bool:
        last = run.losses[-1], run.tokens_per_second
        is_best = evaluate(run, held_out, pool)
        show_losses(*last)
        return is_best

    with (
        thread_pool() as pool,
        delayed_interrupt() as interrupted,
        progress_bar(total=options.max_steps, initial=run.step, bar_format=BAR) as bar,
    ):
        while run.step < options.max_steps and not interrupted() and time.monotonic() < deadline:
            take_step(run, tokens, pool)
            show_losses(run.losses[-1], run.tokens_per_second)
            bar.update()
            is_evaluated = due(options.eval_interval) or run.step == options.max_steps
            is_best = is_evaluated and evaluate_and_show()
            is_first = is_evaluated and len(run.rows) == 1 and run.step < options.checkpoint_interval
            if due(options.checkpoint_interval) or is_first:
                save_checkpoint(run, tokens, tokenizer, folder)
            if is_best:
                save_best(run, tokenizer, folder)
            if is_evaluated:
                save_log(run, folder)
            if due(options.sample_interval):
                with bar.external_write_mode(), suppress(BrokenPipeError):  # nobody reads the output
                    write(f"--- after {run.step:,} steps\n{sample(run, tokenizer)}\n")
        if run.step < options.max_steps:
            print_stderr("stopping: saving and evaluating the run")
            if options.checkpoint_interval:
                save_checkpoint(run, tokens, tokenizer, folder)
            if run.losses:
                if evaluate_and_show():
                    save_best(run, tokenizer, folder)
                save_log(run, folder)
        return interrupted()
