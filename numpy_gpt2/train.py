"""Train a GPT-2 on text files: `python -m numpy_gpt2.train CORPUS.txt --out weights/NAME`.

A step, in the order of this file: draw windows of the text at random; the loss and its gradients, with dropout, a few
windows at a time in several threads; one step of AdamW against the gradients. Everything random in step s is drawn from
generators that are seeded with (seed, s), so the number of steps done is all the random state there is, and a run that
goes on from a checkpoint is the run that was never broken.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from safetensors import SafetensorError, safe_open

from .backward import loss_and_gradients
from .checkpoint import load, save_model, written_aside
from .cli import Parser, checked, count, exit_status, keep_freed_memory, natural, progress_bar, say, write
from .config import GPT2Config
from .curve import loss_curve
from .evaluate import PART, encode, losses, read_text, thread_pool, window_starts
from .generate import generate
from .hub import tokenizer_folder
from .model import identity
from .tokenizer import ENDOFTEXT, byte_tokenizer, load_tokenizer, save_tokenizer, train_tokenizer
from .weights import FILE, Weights, init_weights, save_tensors

CHECKPOINT = "checkpoint.safetensors"
LOG = "train.jsonl"
CURVE = "loss.svg"

# What --resume may change. All else makes another run.
CHANGEABLE = ("max_steps", "time_limit", "eval_interval", "sample_interval", "checkpoint_interval")

SAMPLE_TOKENS = 200
PIECE = 1 << 16  # numbers that AdamW works on at a time, in the processor's cache

EXAMPLES = """\
examples:
  python -m numpy_gpt2.train shakespeare.txt --out weights/mine
  python -m numpy_gpt2.train shakespeare.txt --out weights/mine --resume --max-steps 5000
  python -m numpy_gpt2.train mails.txt --out weights/mails --init-from gpt2 --n-positions 256 --batch-size 8 --lr 1e-4
"""

positive = checked(float, lambda x: 0 < x < math.inf, "a number above 0")
not_negative = checked(float, lambda x: 0 <= x < math.inf, "a number, 0 or more")
share = checked(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")
tokenizer_name = checked(
    str,
    lambda name: not name.startswith("bpe:") or 257 <= int(name[4:]) <= 1_000_000,
    "byte, bpe:N with N from 257 to 1,000,000, gpt2, or a folder",
)


@functools.lru_cache(maxsize=2)
def shuffled_windows(n_tokens: int, n_windows: int, length: int, seed: int, epoch: int) -> np.ndarray:
    """Where the windows of an epoch begin: the text is cut up from a random place on, and the pieces are shuffled."""
    rng = np.random.default_rng([seed, epoch])
    return rng.integers(n_tokens - n_windows * length) + length * rng.permutation(n_windows)


def batch(tokens: np.ndarray, n: int, length: int, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The n windows of a step: inputs and targets, the tokens that come after them, both (n, length).

    Every part of the text comes once in an epoch, cut differently each time.
    """
    n_windows = max(1, (len(tokens) - 1) // length - 1)
    epochs, places = np.divmod(np.arange(step * n, (step + 1) * n), n_windows)
    starts = [
        shuffled_windows(len(tokens), n_windows, length, seed, int(epoch))[place]
        for epoch, place in zip(epochs, places, strict=True)
    ]
    positions = np.array(starts)[:, None] + np.arange(length)
    return tokens[positions], tokens[positions + 1]


def dropout(p: float, rng: np.random.Generator) -> Callable[[str, np.ndarray], np.ndarray]:
    """The hook that sets a share p of some arrays to 0, others each time, and multiplies the rest by 1/(1 − p).

    Those that GPT-2 was trained with: the sum of the embeddings, the attention pattern, and what both sub-blocks add to
    the residual stream. An array and, on the way back, its gradient are multiplied by the same mask: the second call of
    a name repeats the first. Srivastava et al. 2014, "Dropout"; p is met to within 2⁻¹⁶.
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
    """Cut a batch of `rows` × `length` tokens into equal parts of at most PART tokens if it can be; at least two."""
    n = next((n for n in range(2, rows) if rows % n == 0 and rows * length <= n * PART), rows)
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
    mean: np.ndarray  # of the weights of late: what is evaluated, and saved as the model
    best: np.ndarray  # the mean with the lowest validation loss so far
    best_loss: float = math.inf
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = dataclasses.field(default_factory=list)  # of the steps since the last row
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # of the log


def take_step(run: Run, inputs: np.ndarray, targets: np.ndarray, pool: Executor) -> float:
    """Change the weights by one step of AdamW; the loss before it, in nats per token.

    Gradients longer than `grad_clip`, all of them taken as one vector, are shortened to that. The running mean, over
    about the last twentieth of all steps, is without the jitter that single batches bring (Polyak & Juditsky 1992).
    Raises ValueError, before anything is changed, when the loss or the gradients are no longer finite.
    """
    options, weights = run.options, as_weights(run.weights, run.config)

    def part(number: int, rows: slice) -> tuple[float, Weights]:
        rng = np.random.default_rng([options.seed, run.step, number])
        with np.errstate(all="ignore"):  # what overflows is reported below
            return loss_and_gradients(inputs[rows], targets[rows], weights, run.config, dropout(options.dropout, rng))

    parts = equal_parts(*inputs.shape)
    gradient = np.zeros_like(run.weights)
    sums, loss = as_weights(gradient, run.config), 0.0
    for part_loss, gradients in pool.map(part, range(1, len(parts) + 1), parts):
        loss += float(part_loss) / len(parts)
        for name, array in gradients.items():
            sums[name] += array
    norm = math.sqrt(np.vdot(gradient, gradient)) / len(parts)
    if not math.isfinite(loss + norm):
        raise ValueError(f"the loss is {loss} at step {run.step + 1}, its gradient's length {norm}")
    scale = (min(1.0, options.grad_clip / (norm + 1e-6)) if options.grad_clip else 1.0) / len(parts)

    run.step += 1
    n_decayed = sum(array.size for array in weights.values() if array.ndim == 2)
    settings = {"lr": learning_rate(run.step - 1, options), "beta1": options.beta1, "beta2": options.beta2}

    def update(start: int, end: int, weight_decay: float) -> None:
        piece = slice(start, end)
        adamw(
            run.weights[piece],
            scale * gradient[piece],
            run.m[piece],
            run.v[piece],
            step=run.step,
            weight_decay=weight_decay,
            **settings,
        )
        run.mean[piece] += min(1.0, 20 / run.step) * (run.weights[piece] - run.mean[piece])

    pieces = [(start, min(start + PIECE, n_decayed), options.weight_decay) for start in range(0, n_decayed, PIECE)]
    pieces += [(start, min(start + PIECE, gradient.size), 0.0) for start in range(n_decayed, gradient.size, PIECE)]
    for _ in pool.map(update, *zip(*pieces, strict=True)):
        pass
    run.losses.append(loss)
    return loss


def save_checkpoint(run: Run, folder: Path) -> None:
    """Write the run to one file, moved into place when it is whole."""
    state = {name: value for name, value in vars(run).items() if not isinstance(value, np.ndarray)}
    state |= {"options": vars(run.options), "config": dataclasses.asdict(run.config)}
    with written_aside(folder) as aside:
        arrays = {name: array for name, array in vars(run).items() if isinstance(array, np.ndarray)}
        save_tensors(aside / CHECKPOINT, arrays, {"state": json.dumps(state)})


def load_checkpoint(folder: Path) -> Run:
    """The run that a checkpoint holds. Raises FileNotFoundError, and ValueError for a file that is damaged."""
    path = folder / CHECKPOINT
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no {CHECKPOINT} to go on from; leave out --resume to begin")
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = json.loads(file.metadata()["state"])
        options, config = argparse.Namespace(**state.pop("options")), GPT2Config(**state.pop("config"))
        return Run(options, config, **arrays, **state)
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); what else is in {folder} can still be used") from None


def validation_loss(run: Run, held_out: np.ndarray, pool: Executor) -> float:
    """The mean loss over the held-out text, or over as many windows of it, evenly spread, as `eval_batches` allow."""
    length = run.config.n_positions
    starts = window_starts(len(held_out), length, length)
    n = min(len(starts), run.options.eval_batches * run.options.batch_size)
    starts = starts[np.linspace(0, len(starts) - 1, n).astype(int)]
    weights = as_weights(run.mean, run.config)
    with np.errstate(all="ignore"):
        sums = np.array([*losses(held_out, starts, length, weights, run.config, pool)]).sum(axis=0)
    return sums[0] / sums[1]


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


def save_log(run: Run, folder: Path) -> None:
    """Write the rows, one JSON object a line, and the picture of their losses."""
    with written_aside(folder) as aside:
        (aside / LOG).write_text("".join(json.dumps(row) + "\n" for row in run.rows), encoding="utf-8")
        (aside / CURVE).write_text(loss_curve(run.rows, f"{folder.resolve().name}: loss"), encoding="utf-8")


def train(run: Run, tokens: np.ndarray, held_out: np.ndarray, tokenizer: tiktoken.Encoding, folder: Path) -> bool:
    """Step until `max_steps`, the time limit or Ctrl-C. Returns whether it was Ctrl-C.

    At every evaluation the log is written, and the model if it is the best so far by the held-out text; where no text
    is held out, always. A run that is broken off leaves a checkpoint of that very step. What is evaluated after it is
    not in it, so that the run goes on as if it had not been broken.
    """
    options = run.options
    n_rows = options.batch_size * options.grad_accumulation
    begun = time.monotonic() - run.seconds
    deadline = time.monotonic() + 60 * options.time_limit if options.time_limit else math.inf
    n_timed, timed = 0, 0.0  # steps since the last row of the log, and the seconds they took

    def evaluate_and_save() -> None:
        nonlocal n_timed, timed
        loss = validation_loss(run, held_out, pool) if len(held_out) else None
        if loss is not None and not math.isfinite(loss):
            raise ValueError(f"the validation loss is {loss} at step {run.step}")
        run.seconds = time.monotonic() - begun
        row = {
            "step": run.step,
            "train_loss": sum(run.losses) / len(run.losses),
            "val_loss": loss,
            "lr": learning_rate(run.step - 1, options),
            "tokens_per_second": n_timed * n_rows * run.config.n_positions / timed,
            "seconds": run.seconds,
        }
        run.rows.append(row)
        run.losses.clear()
        n_timed, timed = 0, 0.0
        if loss is None or loss < run.best_loss:
            run.best[:], run.best_loss = run.mean, math.inf if loss is None else loss
            save_model(folder, as_weights(run.best, run.config), run.config, tokenizer)
        save_log(run, folder)

    def due(interval: int) -> bool:
        return interval > 0 and (run.step % interval == 0 or run.step == options.max_steps)

    with (
        thread_pool() as pool,
        ctrl_c_waits() as interrupted,
        progress_bar(total=options.max_steps, initial=run.step, unit="step") as bar,
    ):
        while run.step < options.max_steps and not interrupted() and time.monotonic() < deadline:
            start = time.perf_counter()
            loss = take_step(run, *batch(tokens, n_rows, run.config.n_positions, options.seed, run.step), pool)
            n_timed, timed = n_timed + 1, timed + time.perf_counter() - start
            if due(options.eval_interval) or run.step == options.max_steps:
                evaluate_and_save()
            if due(options.sample_interval):
                with bar.external_write_mode():
                    write(f"--- after {run.step:,} steps:{sample(run, tokenizer)}\n")
            if due(options.checkpoint_interval):
                run.seconds = time.monotonic() - begun
                save_checkpoint(run, folder)
            speed = n_timed * n_rows * run.config.n_positions / timed if timed else run.rows[-1]["tokens_per_second"]
            held_out_loss = f", held out {run.rows[-1]['val_loss']:.4f}" if run.rows and len(held_out) else ""
            bar.set_postfix_str(f"loss {loss:.4f}{held_out_loss}, {speed:,.0f} tokens/s", refresh=False)
            bar.update()
        if run.step < options.max_steps:
            run.seconds = time.monotonic() - begun
            if options.checkpoint_interval:
                save_checkpoint(run, folder)
            if run.losses:
                evaluate_and_save()
        return interrupted()


FLAGS: dict[str, list[tuple]] = {
    "the model": [
        ("--tokenizer", tokenizer_name, "byte", "byte, bpe:N (learned from the text), gpt2, or a FOLDER"),
        ("--init-from", str, None, "begin from this MODEL: its weights, sizes and tokenizer"),
        ("--n-layer", count, 4, "blocks"),
        ("--n-head", count, 4, "heads"),
        ("--n-embd", count, 192, "channels"),
        ("--n-positions", count, 128, "the window, in tokens"),
    ],
    "how it learns": [
        ("--dropout", share, 0.1, "share of each dropped array"),
        ("--batch-size", count, 32, "windows a step"),
        ("--grad-accumulation", count, 1, "so many batches a step"),
        ("--max-steps", count, 2500, "steps in all"),
        ("--lr", positive, 1e-3, "the highest learning rate"),
        ("--min-lr", not_negative, None, "the last learning rate (default: a tenth of --lr)"),
        ("--warmup", natural, 100, "steps up to the highest"),
        ("--weight-decay", not_negative, 0.1, "of matrices"),
        ("--beta1", share, 0.9, "of AdamW"),
        ("--beta2", share, 0.99, "of AdamW"),
        ("--grad-clip", not_negative, 1.0, "longest gradient; 0: any"),
        ("--seed", natural, 0, "the same run every time"),
    ],
    "what is done besides, every N steps, and at the end; 0: not at all": [
        ("--val-fraction", share, 0.1, "of the text, its end, held out"),
        ("--eval-interval", natural, 250, "evaluate, keep the best model, log (0: at the end only)"),
        ("--eval-batches", count, 200, "batches of held-out windows to evaluate, at most"),
        ("--sample-interval", natural, 500, "write a sample to standard output"),
        ("--checkpoint-interval", natural, 250, "save what --resume needs"),
        ("--time-limit", positive, None, "stop after so many MINUTES, to be resumed"),
    ],
}
DEFAULTS = {
    flag.removeprefix("--").replace("-", "_"): default for flags in FLAGS.values() for flag, _, default, _ in flags
}


def parse_arguments(argv: list[str] | None) -> dict[str, Any]:
    """The command line -> the values that it gives, checked."""
    parser = Parser(
        prog="python -m numpy_gpt2.train",
        usage="%(prog)s CORPUS.txt [MORE.txt …] --out FOLDER [options]",
        description="Train a GPT-2 on text files. The defaults take about ten minutes on two cores.",
        epilog=EXAMPLES,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("corpus", metavar="CORPUS.txt", nargs="+", help="UTF-8 texts")
    parser.add_argument("--out", metavar="FOLDER", required=True, help="where the model is saved, such as weights/NAME")
    parser.add_argument("--resume", action="store_true", default=False, help="go on with the run in --out")
    for title, flags in FLAGS.items():
        group = parser.add_argument_group(title)
        for flag, kind, default, words in flags:
            suffix = "" if default is None else f" (default: {default})"
            group.add_argument(flag, type=kind, metavar="N" if type(default) is int else "X", help=words + suffix)
    given = vars(parser.parse_args(argv))
    if "init_from" in given and (other := given.keys() & {"tokenizer", "n_layer", "n_head", "n_embd"}):
        parser.error(f"--init-from brings its own {', '.join(sorted(other))}")
    return given


def begin(options: argparse.Namespace, given: dict[str, Any], text: str) -> tuple[Run, tiktoken.Encoding]:
    """A new run: from GPT-2's initialisation, or from a model."""
    if options.init_from:
        weights, config, tokenizer = load(options.init_from)
        n_positions = given.get("n_positions", config.n_positions)
        if n_positions > config.n_positions:
            raise ValueError(
                f"--n-positions {n_positions} is more than the {config.n_positions} of {options.init_from}"
            )
        config = dataclasses.replace(
            config, n_positions=n_positions, tie_word_embeddings="lm_head.weight" not in weights
        )
        weights["wpe.weight"] = weights["wpe.weight"][:n_positions]
    else:
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
        weights = init_weights(config, np.random.default_rng(options.seed))
    flat = np.zeros(config.num_parameters(), np.float32)
    for name, array in as_weights(flat, config).items():
        array[:] = weights[name]
    zeros = np.zeros_like(flat)
    return Run(options, config, flat, m=zeros, v=zeros.copy(), mean=flat.copy(), best=flat.copy()), tokenizer


def make_tokenizer(name: str, text: str) -> tiktoken.Encoding:
    """`byte`, `bpe:N` learned from the text, `gpt2`, or the one of a folder."""
    if name == "byte":
        return byte_tokenizer()
    if name.startswith("bpe:"):
        return train_tokenizer(text, int(name.removeprefix("bpe:")))
    return load_tokenizer(tokenizer_folder(name))


def go_on(given: dict[str, Any], folder: Path) -> Run:
    """The run of a checkpoint, with the options that may change. ValueError names one that may not."""
    run = load_checkpoint(folder)
    for name, value in given.items():
        if name not in CHANGEABLE and value != vars(run.options)[name]:
            flag = "the corpus" if name == "corpus" else "--" + name.replace("_", "-")
            had, has = (vars(run.options)[name], value) if name != "corpus" else ("another", "this one")
            raise ValueError(f"{flag} was {had} when the run began, and is {has} now; --resume goes on with the same")
        setattr(run.options, name, value)
    if run.step >= run.options.max_steps:
        raise ValueError(f"the run in {folder} has done its {run.step:,} steps; --max-steps N goes on to more")
    return run


def command(argv: list[str] | None) -> int:
    """Do what the command line says. Returns the exit status."""
    given = parse_arguments(argv)
    folder, resume, paths = Path(given.pop("out")), given.pop("resume"), given.pop("corpus")
    texts = [read_text(path) for path in paths]
    given["corpus"] = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    options = argparse.Namespace(**DEFAULTS | given)
    if options.min_lr is None:
        options.min_lr = options.lr / 10

    text = ENDOFTEXT.join(texts)
    keep_freed_memory()
    if resume:
        run = go_on(given, folder)
        options, tokenizer = run.options, load_tokenizer(folder)
    cut = int(len(text) * (1 - options.val_fraction))
    if not resume:
        if found := [name for name in (CHECKPOINT, FILE) if (folder / name).exists()]:
            raise ValueError(f"{folder} has a {found[0]} already; --resume goes on with it, or take another --out")
        run, tokenizer = begin(options, given, text[:cut])
    tokens, held_out = encode(text[:cut], tokenizer), encode(text[cut:], tokenizer)
    window = run.config.n_positions
    if len(tokens) <= window:
        raise ValueError(
            f"the text to learn from has {len(tokens):,} tokens, a window and the token after it {window + 1:,};"
            " give more text, or a smaller --n-positions"
        )
    if options.val_fraction and len(held_out) < 2:
        raise ValueError(f"the held-out text has {len(held_out)} token(s); give more text, or --val-fraction 0")

    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder, tokenizer)
    if run.rows:
        save_model(folder, as_weights(run.best, run.config), run.config, tokenizer)
        save_log(run, folder)
    say(f"{run.config.num_parameters():,} parameters; {len(tokens):,} tokens to learn from, {len(held_out):,} held out")
    interrupted = train(run, tokens, held_out, tokenizer, folder)
    held = f", held out {run.best_loss:.4f} nats per token" if math.isfinite(run.best_loss) else ""
    if run.step < options.max_steps:
        again = "; --resume goes on" if options.checkpoint_interval else ""
        say(f"stopped after {run.step:,} of {options.max_steps:,} steps{again}")
    say(f"the best model is in {folder}{held}; python -m numpy_gpt2 -m {folder} lets it write")
    return 130 if interrupted else 0


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    return exit_status(lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
