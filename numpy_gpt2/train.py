"""Train a GPT-2 on text files: `python -m numpy_gpt2.train CORPUS.txt --out weights/NAME`.

A step, in the order of this file: a batch of windows of the text; its loss and gradients, with dropout, a few windows
at a time in several threads; one step of AdamW. After that, checkpoints, evaluation, the loop and the command.

All that is random follows from the seed and the number of the step or epoch. So these are all the random state there
is, and a run that goes on from a checkpoint is the run that was never broken.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from safetensors import SafetensorError, safe_open

from .backward import loss_and_gradients
from .checkpoint import Model, load, save_model
from .cli import Parser, argument_type, exit_status, keep_freed_memory, non_negative_int, positive_int
from .config import GPT2Config
from .console import print_stderr, progress_bar, write
from .curve import loss_curve
from .evaluate import encode, read_text
from .files import staged_writes
from .generate import generate
from .hub import MODEL_FILES, tokenizer_folder
from .model import cross_entropy, forward, identity
from .threads import thread_pool
from .tokenizer import ENDOFTEXT, LEARNABLE_SIZES, byte_tokenizer, load_tokenizer, save_tokenizer, train_tokenizer
from .weights import FILE, INDEX, Weights, init_weights, save_tensors
from .windows import TOKENS_PER_FORWARD, window_losses, window_starts

CHECKPOINT = "checkpoint.safetensors"
LOG = "train.jsonl"
CURVE = "loss.svg"

# What --resume may change. All else makes another run.
CHANGEABLE = ("max_steps", "time_limit", "eval_interval", "sample_interval", "checkpoint_interval")

SAMPLE_TOKENS = 200
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
ADAMW_BLOCK = 1 << 16  # numbers that AdamW works on at a time, in the processor's cache

EXAMPLES = """\
examples:
  python -m numpy_gpt2.train shakespeare.txt --out weights/mine
  python -m numpy_gpt2.train shakespeare.txt --out weights/mine --resume --max-steps 5000
  python -m numpy_gpt2.train mails.txt --out weights/mails --init-from gpt2 --n-positions 256 --batch-size 8 --lr 1e-4
"""

positive = argument_type(float, lambda x: 0 < x < math.inf, "a number above 0")
not_negative = argument_type(float, lambda x: 0 <= x < math.inf, "a number, 0 or more")
share = argument_type(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")
folder_name = argument_type(str, lambda name: name != "", "a folder")
tokenizer_name = argument_type(
    str,
    lambda name: not name.startswith("bpe:") or int(name.removeprefix("bpe:")) in LEARNABLE_SIZES,
    "byte, bpe:N with N from 257 to 1,000,000, gpt2, or a folder",
)


@functools.lru_cache(maxsize=2)
def shuffled_windows(n_tokens: int, n_windows: int, length: int, seed: int, epoch: int) -> np.ndarray:
    """Where the windows of an epoch begin: the text is cut up from a random place on, and the pieces are shuffled."""
    rng = np.random.default_rng([seed, epoch])
    return rng.integers(n_tokens - n_windows * length) + length * rng.permutation(n_windows)


def batch(tokens: np.ndarray, n: int, length: int, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The n windows of a step: inputs and targets, the tokens that come after them, both (n, length).

    In an epoch the text comes once, all but up to two windows at its ends, and is cut differently each time.
    """
    n_windows = max(1, (len(tokens) - 1) // length - 1)
    starts = [
        shuffled_windows(len(tokens), n_windows, length, seed, i // n_windows)[i % n_windows]
        for i in range(step * n, (step + 1) * n)
    ]
    positions = np.array(starts)[:, None] + np.arange(length)
    return tokens[positions], tokens[positions + 1]


def dropout(p: float, rng: np.random.Generator) -> Callable[[str, np.ndarray], np.ndarray]:
    """The hook that sets a share p of some arrays to 0, others each time, and multiplies the rest by 1/(1 − p).

    Those that GPT-2 was trained with: the sum of the embeddings, the attention pattern, and what both sub-blocks add to
    the residual stream. An array and, on the way back, its gradient are multiplied by the same mask: later calls of a
    name repeat the first. Srivastava et al. 2014, "Dropout"; p is met to within 2⁻¹⁶.
    """
    masks: dict[str, np.ndarray] = {}

    def hook(name: str, value: np.ndarray) -> np.ndarray:
        if name != "h.0.resid_pre" and not name.endswith(("attn.pattern", "attn_out", "mlp_out")):
            return value
        if name not in masks:
            masks[name] = rng.integers(1 << 16, size=value.shape, dtype=np.uint16) >= p * (1 << 16)
        return value * masks[name] * (1 / (1 - p))

    return hook if p else identity


def equal_parts(rows: int, length: int) -> list[slice]:
    """Cut a batch of `rows` × `length` tokens into equal parts of at most TOKENS_PER_FORWARD tokens if it can be; at least two."""
    n = next((n for n in range(2, rows) if rows % n == 0 and rows * length <= n * TOKENS_PER_FORWARD), rows)
    return [slice(start, start + rows // n) for start in range(0, rows, rows // n)]


def as_weights(flat: np.ndarray, config: GPT2Config) -> Weights:
    """The weights dict as views of one long array, matrices first: the optimizer's view of a model, and the model's."""
    shapes = config.parameter_shapes()
    weights, start = {}, 0
    for name in sorted(shapes, key=lambda name: len(shapes[name]), reverse=True):
        end = start + math.prod(shapes[name])
        weights[name], start = flat[start:end].reshape(shapes[name]), end
    return weights


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """Up in a line for `warmup` steps, then down in half a cosine from `lr` to `min_lr` at the end."""
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    progress = (step - options.warmup) / max(1, options.max_steps - options.warmup)
    return options.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (options.lr - options.min_lr)


def adamw(weights, gradient, m, v, *, step, lr, beta1, beta2, weight_decay):
    """One step of AdamW, in place: m and v are running means of the gradient and of its square.

    Each weight moves by about `lr`, whatever the size of its gradient: against m, divided by √v. Both begin at 0 and
    are corrected for that; `step` counts from 1. Besides, weights decay towards 0, whatever the gradients are.
    Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.
    """
    m += (1 - beta1) * (gradient - m)
    v += (1 - beta2) * (gradient * gradient - v)
    weights *= 1 - lr * weight_decay
    weights -= lr / (1 - beta1**step) * m / (np.sqrt(v / (1 - beta2**step)) + 1e-8)


@dataclasses.dataclass
class Run:
    """A run as far as it has come: what a checkpoint holds."""

    options: argparse.Namespace
    config: GPT2Config
    weights: np.ndarray  # this and the next four are flat, for `as_weights`
    m: np.ndarray  # of AdamW, as v
    v: np.ndarray
    mean: np.ndarray  # running mean of the latest weights: what is evaluated, and saved as the model
    best: np.ndarray  # the mean with the lowest validation loss so far
    best_loss: float = math.inf
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = dataclasses.field(default_factory=list)  # of the steps since the last row of the log,
    timings: list[float] = dataclasses.field(default_factory=list)  # and the seconds they took
    rows: list[dict[str, float | None]] = dataclasses.field(default_factory=list)

    @property
    def tokens_per_step(self) -> int:
        return self.options.batch_size * self.options.grad_accumulation * self.config.n_positions

    @property
    def tokens_per_second(self) -> float:
        return len(self.timings) * self.tokens_per_step / sum(self.timings)


def new_run(options: argparse.Namespace, config: GPT2Config, weights: Weights) -> Run:
    """A run at step 0, from these weights."""
    flat = np.zeros(config.num_parameters(), np.float32)
    for name, array in as_weights(flat, config).items():
        array[:] = weights[name]
    return Run(options, config, flat, np.zeros_like(flat), np.zeros_like(flat), mean=flat.copy(), best=flat.copy())


def mean_gradient(run: Run, inputs: np.ndarray, targets: np.ndarray, pool: Executor) -> tuple[float, np.ndarray]:
    """The loss of a batch and its gradient, flat: computed in parts, side by side, and added up in order."""
    parts, weights = equal_parts(*inputs.shape), as_weights(run.weights, run.config)

    def compute(number: int, rows: slice) -> tuple[float, Weights]:
        rng = np.random.default_rng([run.options.seed, run.step, number])  # from 1: a 0 would not count as a seed
        return loss_and_gradients(inputs[rows], targets[rows], weights, run.config, dropout(run.options.dropout, rng))

    total_loss, total = 0.0, np.zeros_like(run.weights)
    sums = as_weights(total, run.config)
    for loss, gradients in pool.map(compute, range(1, len(parts) + 1), parts):
        total_loss += float(loss)
        for name, gradient in gradients.items():
            sums[name] += gradient
    total /= len(parts)
    return total_loss / len(parts), total


def take_step(run: Run, tokens: np.ndarray, pool: Executor) -> None:
    """Draw a batch, and change the weights by one step of AdamW.

    Gradients longer than `grad_clip`, all of them taken as one vector, are shortened to that. The running mean of the
    weights, over about the last twentieth of all steps, is without the jitter that single batches bring (Polyak &
    Juditsky 1992, "Acceleration of stochastic approximation by averaging"). Raises ValueError, before anything is
    changed, when the loss or the gradient is no longer finite.
    """
    start = time.perf_counter()
    options, length = run.options, run.config.n_positions
    inputs, targets = batch(tokens, run.tokens_per_step // length, length, options.seed, run.step)
    loss, gradient = mean_gradient(run, inputs, targets, pool)
    norm = math.sqrt(np.vdot(gradient, gradient))
    check_finite(run, loss + norm)
    scale = min(1.0, options.grad_clip / (norm + 1e-6)) if options.grad_clip else 1.0
    settings = {"lr": learning_rate(run.step, options), "beta1": options.beta1, "beta2": options.beta2}
    run.step += 1

    def update(piece: slice, weight_decay: float) -> None:
        weights, m, v, mean = (array[piece] for array in (run.weights, run.m, run.v, run.mean))
        adamw(weights, scale * gradient[piece], m, v, step=run.step, weight_decay=weight_decay, **settings)
        mean += min(1.0, 20 / run.step) * (weights - mean)

    n_matrices = sum(math.prod(shape) for shape in run.config.parameter_shapes().values() if len(shape) == 2)
    pieces = [
        (slice(i, min(i + ADAMW_BLOCK, n_matrices)), options.weight_decay) for i in range(0, n_matrices, ADAMW_BLOCK)
    ]
    pieces += [(slice(i, i + ADAMW_BLOCK), 0.0) for i in range(n_matrices, gradient.size, ADAMW_BLOCK)]
    list(pool.map(update, *zip(*pieces, strict=True)))
    run.losses.append(loss)
    run.timings.append(time.perf_counter() - start)
    run.seconds += run.timings[-1]


def check_finite(run: Run, loss: float) -> None:
    """Raise ValueError if the weights of this step give no number."""
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss is {loss} after {run.step:,} steps, at step {run.step + 1:,}; what was saved before is as it"
            f" was. Begin again, with another --out and a smaller --lr than {run.options.lr:g}"
        )


def save_checkpoint(run: Run, tokens: np.ndarray, tokenizer: tiktoken.Encoding, folder: Path) -> None:
    """Write the run to one file, moved into place when it is whole, unless its last step has ruined the weights."""
    window, weights = tokens[: run.config.n_positions + 1], as_weights(run.weights, run.config)
    with np.errstate(all="ignore"):
        check_finite(run, cross_entropy(forward(window[:-1], weights, run.config), window[1:]))
    state = {name: value for name, value in vars(run).items() if not isinstance(value, np.ndarray)}
    state |= {"options": vars(run.options), "config": dataclasses.asdict(run.config)}
    with staged_writes(folder) as aside:
        arrays = {name: array for name, array in vars(run).items() if isinstance(array, np.ndarray)}
        save_tensors(aside / CHECKPOINT, arrays, {"state": json.dumps(state)})
        save_tokenizer(aside, tokenizer)


def load_checkpoint(folder: Path) -> Run:
    """The run that a checkpoint holds. Raises FileNotFoundError, and ValueError for a file that is damaged."""
    path = folder / CHECKPOINT
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no {CHECKPOINT} to go on from; a run begins without --resume")
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = json.loads(file.metadata()["state"])
        options = argparse.Namespace(**DEFAULTS | state.pop("options"))
        run = Run(options, GPT2Config(**state.pop("config")), **arrays, **state)
        if {array.shape for array in arrays.values()} != {(run.config.num_parameters(),)} or type(run.step) is not int:
            raise ValueError("its arrays do not fit its config")
        return run
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); another --out with --init-from {folder} goes on from the best model"
        ) from None


def validation_loss(run: Run, held_out: np.ndarray, pool: Executor) -> float:
    """The mean loss over the held-out text, or over as many windows of it, evenly spread, as `eval_batches` allow."""
    length = run.config.n_positions
    starts = window_starts(len(held_out), length, length)
    n = min(len(starts), run.options.eval_batches * run.options.batch_size)
    starts = starts[np.linspace(0, len(starts) - 1, n).astype(int)]
    weights = as_weights(run.mean, run.config)
    total, n_targets = np.sum([*window_losses(held_out, starts, length, weights, run.config, pool)], axis=0)
    check_finite(run, total)
    return total / n_targets


@contextmanager
def ctrl_c_waits() -> Iterator[Callable[[], bool]]:
    """While this lasts, Ctrl-C is only noted, so that a step is done or not done. A second one interrupts as usual."""
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
    """What the model writes after a line end."""
    weights, rng = as_weights(run.mean, run.config), np.random.default_rng([run.options.seed, run.step])
    tokens = generate(
        tokenizer.encode_ordinary("\n"),
        weights,
        run.config,
        max_new_tokens=SAMPLE_TOKENS,
        temperature=0.8,
        top_k=40,
        n_vocab=tokenizer.n_vocab,
        rng=rng,
    )
    return tokenizer.decode([*tokens])


def save_best(run: Run, tokenizer: tiktoken.Encoding, folder: Path) -> None:
    """Write the model folder's files."""
    save_model(folder, as_weights(run.best, run.config), run.config, tokenizer)


def save_log(run: Run, folder: Path) -> None:
    """Write the rows, one JSON object a line, and the picture of their losses."""
    with staged_writes(folder) as aside:
        (aside / LOG).write_text("".join(json.dumps(row) + "\n" for row in run.rows), encoding="utf-8")
        curve = loss_curve(run.rows, f"{folder.resolve().name}: loss")
        (aside / CURVE).write_text(curve, encoding="utf-8", errors="replace")


def evaluate_and_save(
    run: Run, held_out: np.ndarray, tokenizer: tiktoken.Encoding, folder: Path, pool: Executor
) -> None:
    """Add a row to the log, and save the model if its validation loss is the lowest; where none is held out, always."""
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
    if loss is None or loss < run.best_loss:
        run.best[:] = run.mean
        run.best_loss = math.inf if loss is None else loss
        save_best(run, tokenizer, folder)
    save_log(run, folder)


def train(run: Run, tokens: np.ndarray, held_out: np.ndarray, tokenizer: tiktoken.Encoding, folder: Path) -> bool:
    """Step until `max_steps`, the time limit or Ctrl-C. Returns whether it was Ctrl-C.

    A run that is broken off leaves a checkpoint of that very step. What is evaluated after it is not in it, so that the
    run goes on as if it had not been broken.
    """
    options = run.options
    deadline = time.monotonic() + 60 * options.time_limit if options.time_limit else math.inf

    def due(interval: int) -> bool:
        return interval > 0 and (run.step % interval == 0 or run.step == options.max_steps)

    with (
        thread_pool() as pool,
        ctrl_c_waits() as interrupted,
        progress_bar(total=options.max_steps, initial=run.step, bar_format=BAR) as bar,
    ):
        while run.step < options.max_steps and not interrupted() and time.monotonic() < deadline:
            take_step(run, tokens, pool)
            held = f", held out {run.rows[-1]['val_loss']:.4f}" if run.rows and len(held_out) else ""
            bar.set_postfix_str(
                f"loss {run.losses[-1]:.4f}{held}, {run.tokens_per_second:,.0f} tokens/s", refresh=False
            )
            bar.update()
            if due(options.eval_interval) or run.step == options.max_steps:
                evaluate_and_save(run, held_out, tokenizer, folder, pool)
            if due(options.checkpoint_interval):
                save_checkpoint(run, tokens, tokenizer, folder)
            if due(options.sample_interval):
                with bar.external_write_mode(), suppress(BrokenPipeError):  # a reader who has seen enough
                    write(f"--- after {run.step:,} steps\n{sample(run, tokenizer)}\n")
        if run.step < options.max_steps:
            print_stderr("stopping: the run is saved and evaluated")
            if options.checkpoint_interval:
                save_checkpoint(run, tokens, tokenizer, folder)
            if run.losses:
                evaluate_and_save(run, held_out, tokenizer, folder, pool)
        return interrupted()


# Of each flag: its name, what it takes, the type, the default, and words for --help.
FLAGS: dict[str, list[tuple[str, str, Callable[[str], Any], Any, str]]] = {
    "the model": [
        ("--tokenizer", "NAME", tokenizer_name, "byte", "byte, bpe:N (N tokens, learned), gpt2, or a FOLDER"),
        ("--init-from", "MODEL", str, None, "begin with a model's weights, tokenizer and sizes"),
        ("--n-layer", "N", positive_int, 4, "blocks"),
        ("--n-head", "N", positive_int, 4, "heads"),
        ("--n-embd", "N", positive_int, 192, "channels"),
        ("--n-positions", "N", positive_int, 128, "the window, in tokens"),
    ],
    "how it learns": [
        ("--dropout", "P", share, 0.1, "share of the numbers that are dropped"),
        ("--batch-size", "N", positive_int, 32, "windows in a batch"),
        ("--grad-accumulation", "N", positive_int, 1, "batches in a step"),
        ("--max-steps", "N", positive_int, 2000, "steps in all"),
        ("--lr", "X", positive, 1e-3, "the highest learning rate"),
        ("--min-lr", "X", not_negative, None, "that of the last step (default: a tenth of the highest)"),
        ("--warmup", "N", non_negative_int, 100, "steps in which it rises"),
        ("--weight-decay", "X", not_negative, 0.1, "how fast matrices decay towards 0"),
        ("--beta1", "X", share, 0.9, "how long AdamW remembers gradients"),
        ("--beta2", "X", share, 0.99, "how long it remembers their squares"),
        ("--grad-clip", "X", not_negative, 1.0, "the longest gradient; 0: any length"),
        ("--seed", "N", non_negative_int, 0, "of all that is random"),
    ],
    "what is measured and saved, with intervals in steps, of which 0 is never": [
        ("--val-fraction", "P", share, 0.1, "share of the text, its end, that is held out"),
        ("--eval-interval", "N", non_negative_int, 250, "loss, log, and the best model; at the end in any case"),
        ("--eval-batches", "N", positive_int, 200, "held-out batches, evenly spread, if there are more"),
        ("--sample-interval", "N", non_negative_int, 500, "a sample, on standard output"),
        ("--checkpoint-interval", "N", non_negative_int, 250, "what --resume goes on from"),
        ("--time-limit", "MINUTES", positive, None, "stop and save then; --resume goes on"),
    ],
}
DEFAULTS = {flag[2:].replace("-", "_"): default for flags in FLAGS.values() for flag, _, _, default, _ in flags}


def parse_arguments(argv: list[str] | None) -> dict[str, Any]:
    """The command line -> the values that it gives, checked."""
    parser = Parser(
        prog="python -m numpy_gpt2.train",
        usage="%(prog)s CORPUS.txt [MORE.txt …] --out FOLDER [options]",
        description="Train a GPT-2 on text files. With the defaults it takes about ten minutes on two cores.",
        epilog=EXAMPLES,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("corpus", metavar="CORPUS.txt", nargs="+", help="UTF-8 texts")
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=folder_name,
        required=True,
        help="for the model and the log, such as weights/NAME",
    )
    parser.add_argument("--resume", action="store_true", default=False, help="go on with the run in --out")
    for title, flags in FLAGS.items():
        group = parser.add_argument_group(title)
        for flag, takes, kind, default, words in flags:
            note = "" if default is None else f" (default: {default})"
            group.add_argument(flag, metavar=takes, type=kind, help=words + note)
    given = vars(parser.parse_args(argv))
    if "init_from" in given and (other := given.keys() & {"tokenizer", "n_layer", "n_head", "n_embd"}):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(other))
        parser.error(f"--init-from brings its own tokenizer and sizes: leave out {names}")
    return given


def split(text: str, val_fraction: float) -> tuple[str, str]:
    """The text to learn from, and the end of it that is held out."""
    end = int(len(text) * (1 - val_fraction))
    return text[:end], text[end:]


def make_tokenizer(name: str, text: str) -> tiktoken.Encoding:
    """`byte`, `bpe:N` learned from the text, `gpt2`, or the one of a folder."""
    if name == "byte":
        return byte_tokenizer()
    if name.startswith("bpe:"):
        return train_tokenizer(text, int(name.removeprefix("bpe:")))
    return load_tokenizer(tokenizer_folder(name))


def new_model(options: argparse.Namespace, text: str) -> Model:
    """GPT-2's initialisation, in the size and with the tokenizer that were asked for."""
    tokenizer = make_tokenizer(options.tokenizer, text)
    end = tokenizer.eot_token if ENDOFTEXT in tokenizer.special_tokens_set else None
    config = GPT2Config(
        vocab_size=tokenizer.n_vocab,
        n_positions=options.n_positions,
        n_embd=options.n_embd,
        n_layer=options.n_layer,
        n_head=options.n_head,
        bos_token_id=end,
        eos_token_id=end,
    )
    return Model(init_weights(config, np.random.default_rng(options.seed)), config, tokenizer)


def model_to_tune(name: str, window: int | None) -> Model:
    """A model to begin with, its window cut where a smaller one is given."""
    weights, config, tokenizer = load(name)
    window = window or config.n_positions
    if window > config.n_positions:
        raise ValueError(f"--n-positions {window} is more than the {config.n_positions} of {name}")
    weights["wpe.weight"] = weights["wpe.weight"][:window]
    tied = "lm_head.weight" not in weights
    return Model(weights, dataclasses.replace(config, n_positions=window, tie_word_embeddings=tied), tokenizer)


def begin(given: dict[str, Any], text: str, folder: Path) -> tuple[Run, tiktoken.Encoding]:
    """A new run. ValueError where the folder has one already, or a model."""
    if (folder / CHECKPOINT).exists():
        raise ValueError(f"{folder} has a run already; --resume goes on with it, another --out begins one")
    if found := [name for name in (FILE, INDEX, *MODEL_FILES) if (folder / name).exists()]:
        raise ValueError(f"{folder} has a {found[0]} already; a run begins with another --out, and --init-from a model")
    options = argparse.Namespace(**DEFAULTS | given)
    if options.min_lr is None:
        options.min_lr = options.lr / 10
    if options.init_from:
        weights, config, tokenizer = model_to_tune(options.init_from, given.get("n_positions"))
        vars(options).update({name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd", "n_positions")})
        options.tokenizer = options.init_from
    else:
        weights, config, tokenizer = new_model(options, split(text, options.val_fraction)[0])
    return new_run(options, config, weights), tokenizer


def resume_run(given: dict[str, Any], folder: Path) -> tuple[Run, tiktoken.Encoding]:
    """The run of a checkpoint, with other steps to do or intervals. ValueError names what else would differ."""
    run = load_checkpoint(folder)
    before = vars(run.options)
    for name, value in given.items():
        if name not in CHANGEABLE and value != before.get(name):
            if name == "corpus":
                raise ValueError("the text is not the one that the run began with; --resume needs the same")
            flag = "--" + name.replace("_", "-")
            was = "not given" if before.get(name) is None else before[name]
            raise ValueError(f"{flag} is {value}, and was {was} when the run began; --resume needs the same")
    before |= {"time_limit": None} | given  # the limit is one of this sitting
    return run, load_tokenizer(folder)


def command(argv: list[str] | None) -> int:
    """Do what the command line says. Returns the exit status."""
    given = parse_arguments(argv)
    folder, resume, paths = Path(given.pop("out")), given.pop("resume"), given.pop("corpus")
    text = ENDOFTEXT.join(read_text(path) for path in paths)
    given["corpus"] = hashlib.sha256(text.encode()).hexdigest()
    keep_freed_memory()
    run, tokenizer = resume_run(given, folder) if resume else begin(given, text, folder)
    tokens, held_out = (encode(part, tokenizer) for part in split(text, run.options.val_fraction))
    if len(tokens) <= run.config.n_positions:
        raise ValueError(
            f"the text to learn from has {len(tokens):,} tokens, and a window with the token after it"
            f" {run.config.n_positions + 1:,}: it takes more text, or a smaller --n-positions"
        )
    if run.options.val_fraction and len(held_out) < 2:
        raise ValueError(f"the held-out text has {len(held_out)} token(s); it takes more text, or --val-fraction 0")

    if run.step >= run.options.max_steps:
        print_stderr(f"the run in {folder} has done its {run.step:,} steps; --max-steps N goes on to more")
        return 0
    with staged_writes(folder):
        pass  # it can be written into, before anything is computed
    if run.rows:  # as the folder was at the checkpoint
        save_best(run, tokenizer, folder)
        save_log(run, folder)
    print_stderr(
        f"{run.config.num_parameters():,} parameters; {len(tokens):,} tokens to learn from, {len(held_out):,} held out"
    )
    try:
        interrupted = train(run, tokens, held_out, tokenizer, folder)
    except BrokenPipeError:  # the progress bar, between two steps
        if run.options.checkpoint_interval:
            save_checkpoint(run, tokens, tokenizer, folder)
        raise OSError("standard error was closed; the run is saved") from None
    if run.step < run.options.max_steps:
        again = "; --resume goes on" if run.options.checkpoint_interval else ""
        print_stderr(f"stopped after {run.step:,} of {run.options.max_steps:,} steps{again}")
    if run.rows:
        loss = f" with {run.best_loss:.4f} nats per token held out" if len(held_out) else ""
        print_stderr(f"{folder} has the best model{loss}: python -m numpy_gpt2 -m {shlex.quote(str(folder))}")
    return 130 if interrupted else 0


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    return exit_status(lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
