"""One optimizer step: a batch, its loss and gradient with dropout, gradient clipping, AdamW, the mean of the weights.

First comes `Run`, the state of a training run. The functions after it are in the order in which `take_step`, the last
one, uses them.

All randomness derives from (seed, step) or (seed, epoch). There is no generator state to save, and a resumed run
produces the same weights as an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from concurrent.futures import Executor

import numpy as np

from ..config import GPT2Config, Shape
from ..model import identity
from ..weights import Weights
from .config import TrainConfig
from .gradients import Hook, batch_gradients
from .trained import (
    adapted,
    as_weights,
    fingerprint,
    initial,
    rank,
    trained_gradients,
    trained_shapes,
    trained_weights,
)

# Number of parameters that one call of `adamw` updates. The arrays of such a block fit into the processor's cache.
# Threads wait for each other between NumPy's functions, so small blocks are slow: 1 << 15 takes 1.4 times as long.
ADAMW_BLOCK = 1 << 17
ADAMW_TASKS = 8  # tasks for the threads; each updates many blocks


@dataclasses.dataclass
class Run:
    """The state of a training run. A checkpoint holds all of it but the frozen weights.

    The four arrays have one number for each number that is trained; `as_weights` gives them names and shapes.
    """

    options: TrainConfig
    config: GPT2Config
    weights: np.ndarray
    m: np.ndarray  # AdamW: running mean of the gradient
    v: np.ndarray  # AdamW: running mean of the squared gradient
    mean: np.ndarray | None = None  # running mean of the latest weights, if `options.average`; evaluations use it
    frozen: Weights = dataclasses.field(default_factory=dict)  # the weights that are not trained, never written to
    merged: Weights = dataclasses.field(init=False)  # the matrices with their adapters, as `current_weights` left them
    base: str = ""  # fingerprint of the frozen weights
    best_loss: float = math.inf  # the lowest validation loss so far, nats per token
    best_step: int | None = None  # when it was measured; the model in the run's folder is that of this step
    step: int = 0  # steps done
    seconds: float = 0.0  # total time of all steps
    losses: list[float] = dataclasses.field(default_factory=list)  # loss of each step since the last row of the log
    timings: list[float] = dataclasses.field(default_factory=list)  # seconds of each of these steps
    rows: list[dict[str, float | None]] = dataclasses.field(default_factory=list)  # the log

    def __post_init__(self) -> None:
        names = trained_weights(self.options.train, self.config) if rank(self.options.train) else []
        every = self.config.parameter_shapes()
        self.merged = {name: np.empty(every[name], self.weights.dtype) for name in names}

    @property
    def shapes(self) -> dict[str, Shape]:
        """What is trained: name -> shape, matrices first."""
        return trained_shapes(self.options.train, self.config)

    @property
    def averaged(self) -> np.ndarray:
        """The flat array that evaluations use and the model is made from: `mean`, or `weights` without a mean."""
        return self.weights if self.mean is None else self.mean

    @functools.cached_property
    def gradient(self) -> np.ndarray:
        """The gradient of the latest step. Each step overwrites it, because new memory would cost time."""
        return np.empty_like(self.weights)

    @property
    def windows_per_step(self) -> int:
        return self.options.batch_size * self.options.grad_accumulation

    @property
    def tokens_per_second(self) -> float:
        return len(self.timings) * self.windows_per_step * self.options.n_positions / sum(self.timings)


def new_run(options: TrainConfig, config: GPT2Config, weights: Weights) -> Run:
    """Return a run at step 0 with a copy of these weights. Those that it does not train are used without a copy.

    >>> config = GPT2Config(vocab_size=3, n_positions=4, n_embd=2, n_layer=1, n_head=1)
    >>> run = new_run(TrainConfig(), config, {name: np.ones(s) for name, s in config.parameter_shapes().items()})
    >>> run.step, run.weights.size, float(run.weights.sum()), float(run.m.sum())
    (0, 92, 92.0, 0.0)
    """
    shapes = trained_shapes(options.train, config)
    flat = initial(shapes, weights, options.seed)
    mean = flat.copy() if options.average else None
    frozen = {name: array for name, array in weights.items() if name not in shapes}
    base = fingerprint(frozen) if frozen else ""
    m, v = (np.zeros(flat.shape, flat.dtype) for _ in range(2))  # unlike zeros_like, it takes no time at first
    return Run(options, config, flat, m, v, mean, frozen, base)


def current_weights(run: Run, flat: np.ndarray) -> Weights:
    """Return the weights of the whole model, given `run.weights` or another flat array of what is trained.

    They are views of the array, and the frozen weights. Adapters are merged into arrays that the next call overwrites.

    >>> config = GPT2Config(vocab_size=3, n_positions=4, n_embd=2, n_layer=1, n_head=1)
    >>> ones = {name: np.ones(s) for name, s in config.parameter_shapes().items()}
    >>> run = new_run(TrainConfig(train="lora:1", init_from="gpt2"), config, ones)
    >>> current_weights(run, np.ones_like(run.weights))["h.0.attn.c_proj.weight"].tolist()  # 1 + 2 · 1 · 1
    [[3.0, 3.0], [3.0, 3.0]]
    """
    trained = as_weights(flat, run.shapes)
    return adapted(run.frozen, trained, run.merged) if run.merged else run.frozen | trained


def windows_per_epoch(n_tokens: int, length: int) -> int:
    """Return the number of windows in an epoch. The text has room for one more, because an epoch starts anywhere.

    >>> windows_per_epoch(n_tokens=9, length=2)
    3
    """
    return max(1, (n_tokens - 1) // length - 1)


@functools.lru_cache(maxsize=2)
def shuffled_windows(n_tokens: int, n_windows: int, length: int, seed: int, epoch: int) -> np.ndarray:
    """Return the starts of an epoch's windows in random order. In the text, the first one starts at a random position.

    The windows follow each other without gaps:

    >>> starts = shuffled_windows(n_tokens=9, n_windows=3, length=2, seed=0, epoch=0)
    >>> (np.sort(starts) - starts.min()).tolist()
    [0, 2, 4]
    """
    rng = np.random.default_rng([seed, epoch])
    return rng.integers(n_tokens - n_windows * length) + length * rng.permutation(n_windows)


def batch(tokens: np.ndarray, n: int, length: int, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the n windows of a step: inputs and targets, both (n, length). Targets are the tokens after the inputs.

    In one epoch, each token of the text is a target once, except at most 2 · length tokens at the ends of the text.
    Each epoch cuts the text at different positions.

    A text of 9 tokens has room for one window of 8 tokens and its targets:

    >>> inputs, targets = batch(np.arange(9), n=1, length=8, seed=0, step=0)
    >>> inputs.tolist(), targets.tolist()
    ([[0, 1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4, 5, 6, 7, 8]])
    """
    n_windows = windows_per_epoch(len(tokens), length)
    starts = [
        shuffled_windows(len(tokens), n_windows, length, seed, i // n_windows)[i % n_windows]
        for i in range(step * n, (step + 1) * n)
    ]
    positions = np.array(starts)[:, None] + np.arange(length)
    return tokens[positions], tokens[positions + 1]


def dropout(p: float, rng: np.random.Generator) -> Hook:
    """y = x · mask / (1 − p), where each number of the mask is 0 with probability p, and otherwise 1.

    Returns a hook for `forward`. It changes the sum of the embeddings, the attention patterns, and the outputs of
    attention and MLP, as in GPT (Radford et al. 2018, section 4.1). Each name has one mask. The hook draws it at the
    first call and uses it again for the gradient of the array. The probability is exact to within 2⁻¹⁶.
    Srivastava et al. 2014, "Dropout".

    With p = 1/2, the numbers that remain are doubled, so the mean stays about the same:

    >>> hook = dropout(0.5, np.random.default_rng(0))
    >>> dropped = hook("h.0.mlp_out", np.ones(1000))
    >>> sorted(set(dropped.tolist())), bool(0.9 < dropped.mean() < 1.1)
    ([0.0, 2.0], True)
    >>> hook("h.0.mlp.post", np.ones(3)).tolist()  # not one of these arrays
    [1.0, 1.0, 1.0]
    """
    masks: dict[str, np.ndarray] = {}

    def hook(name: str, value: np.ndarray) -> np.ndarray:
        if name != "h.0.resid_pre" and not name.endswith(("attn.pattern", "attn_out", "mlp_out")):
            return value
        if name not in masks:
            masks[name] = rng.integers(1 << 16, size=value.shape, dtype=np.uint16) >= math.ceil(p * (1 << 16))
        return value * np.multiply(masks[name], 1 / (1 - p), dtype=value.dtype)

    return hook if p else identity


def mean_gradient(run: Run, inputs: np.ndarray, targets: np.ndarray, pool: Executor) -> tuple[float, np.ndarray]:
    """Return the loss of a batch and its flat gradient. Threads compute equal parts of the batch in parallel.

    The gradients of the parts are added in a fixed order, so the result does not depend on the number of threads.

    With weights of 0, each of V = 3 tokens gets the probability 1/3, and the loss is ln 3 = 1.0986:

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> config = GPT2Config(vocab_size=3, n_positions=2, n_embd=2, n_layer=1, n_head=1)
    >>> run = new_run(TrainConfig(), config, {name: np.zeros(s) for name, s in config.parameter_shapes().items()})
    >>> with ThreadPoolExecutor() as pool:
    ...     loss, gradient = mean_gradient(run, np.array([[0, 1], [1, 2]]), np.array([[1, 2], [2, 0]]), pool)
    >>> round(loss, 4), gradient.shape == run.weights.shape
    (1.0986, True)
    """
    gradient = run.gradient
    trained, sums = (as_weights(flat, run.shapes) for flat in (run.weights, gradient))

    def take(weight: str, rows: slice | np.ndarray, part: np.ndarray, is_first: bool) -> None:
        for name, added in trained_gradients(weight, part, trained).items():
            if is_first:
                sums[name][rows] = added
            else:
                sums[name][rows] += added

    def dropouts(i: int) -> Hook:
        # Parts are numbered from 1. NumPy ignores a 0 at the end of a seed, so [seed, step, 0] would give the same
        # numbers as [seed, epoch] in `shuffled_windows` if step = epoch.
        return dropout(run.options.dropout, np.random.default_rng([run.options.seed, run.step, i + 1]))

    weights, names = current_weights(run, run.weights), trained_weights(run.options.train, run.config)
    return batch_gradients(inputs, targets, weights, run.config, names, take, pool, dropouts), gradient


def check_finite(run: Run, loss: float) -> None:
    """Raise ValueError if `loss` is not finite. `take_step` adds the gradient's norm to it, to check both at once.

    >>> config = GPT2Config(vocab_size=3, n_positions=4, n_embd=2, n_layer=1, n_head=1)
    >>> run = new_run(TrainConfig(), config, {name: np.ones(s) for name, s in config.parameter_shapes().items()})
    >>> check_finite(run, 1.5)
    >>> check_finite(run, math.inf)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the loss is inf at step 1, after 0 steps; it must be finite. ...
    """
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss is {loss} at step {run.step + 1:,}, after {run.step:,} steps; it must be finite. The files saved"
            f" before are unchanged. Start again with another --out and an --lr below {run.options.lr:g}"
        )


def clipping_factor(norm: float, grad_clip: float) -> float:
    """min(1, grad_clip / norm). The gradient times this factor has a norm of at most `grad_clip`. 0 means no limit.

    `norm` is the length of the gradient of all parameters, as one vector. The code adds 1e-6 to it, so it never divides
    by 0. Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", algorithm 1.

    The vector (3, 4) has the length 5. Multiplied by 1/5, it has the length 1:

    >>> round(clipping_factor(norm=5.0, grad_clip=1.0), 6), clipping_factor(norm=0.5, grad_clip=1.0)
    (0.2, 1.0)
    """
    return min(1.0, grad_clip / (norm + 1e-6)) if grad_clip else 1.0


def learning_rate(step: int, options: TrainConfig) -> float:
    """Return the learning rate: a line up to `lr` in `warmup` steps, then half a cosine or a line down to `min_lr`.

    `step` counts from 0. The last step always has the rate `min_lr`, even if the warm-up is longer than the run.

    >>> options = TrainConfig(lr=1.0, min_lr=0.0, warmup=4, max_steps=8)
    >>> [round(learning_rate(step, options), 2) for step in range(8)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.25, 0.0]
    >>> options = TrainConfig(lr=1.0, min_lr=0.0, warmup=2, max_steps=7, schedule="linear")
    >>> [round(learning_rate(step, options), 2) for step in range(7)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    warmup, last = options.warmup, options.max_steps - 1
    if step < min(warmup, last):
        return options.lr * (step + 1) / warmup
    progress = (step - warmup) / (last - warmup) if warmup < last else 1.0
    remaining = 1 - progress if options.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return options.min_lr + remaining * (options.lr - options.min_lr)


def adamw_blocks(shapes: dict[str, Shape], weight_decay: float) -> list[tuple[slice, float]]:
    """Divide the flat array into blocks, each with its weight decay: only matrices decay, and they come first.

    The matrices of adapters decay, too.

    >>> adamw_blocks({"mlp.c_fc.weight": (2, 8), "mlp.c_fc.bias": (8,)}, weight_decay=0.1)
    [(slice(0, 16, None), 0.1), (slice(16, 24, None), 0.0)]
    """
    n = sum(map(math.prod, shapes.values()))
    n_matrices = sum(math.prod(shape) for shape in shapes.values() if len(shape) == 2)
    return [
        (slice(start, min(start + ADAMW_BLOCK, end)), decay)
        for first, end, decay in ((0, n_matrices, weight_decay), (n_matrices, n, 0.0))
        for start in range(first, end, ADAMW_BLOCK)
    ]


def adamw(
    weights: np.ndarray,
    gradient: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
) -> None:
    """w ← w − lr · (m̂ / (√v̂ + 1e-8) + weight_decay · w), in place.

    m ← β₁ m + (1 − β₁) g       m̂ = m / (1 − β₁ᵗ)       running mean of the gradient g
    v ← β₂ v + (1 − β₂) g²      v̂ = v / (1 − β₂ᵗ)       running mean of its square

    t is `step`, which counts from 1. m and v start at 0, so they are too small in the first steps. The divisions in m̂
    and v̂ correct this. Weight decay does not depend on the gradient.
    Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.

    In the first step, m̂ = g and v̂ = g². So each weight moves by lr, against the sign of its gradient. The size of the
    gradient does not matter:

    >>> weights, m, v = np.array([1.0, 1.0]), np.zeros(2), np.zeros(2)
    >>> adamw(weights, np.array([0.5, -100.0]), m, v, step=1, lr=0.1, beta1=0.9, beta2=0.99, weight_decay=0.0)
    >>> weights.round(6).tolist()
    [0.9, 1.1]
    >>> m.round(6).tolist(), v.round(6).tolist()  # 0.1 g and 0.01 g²
    ([0.05, -10.0], [0.0025, 100.0])
    """
    m += (1 - beta1) * (gradient - m)
    v += (1 - beta2) * (gradient * gradient - v)
    weights *= 1 - lr * weight_decay
    weights -= lr / (1 - beta1**step) * m / (np.sqrt(v / (1 - beta2**step)) + 1e-8)


def update_mean(mean: np.ndarray, weights: np.ndarray, step: int) -> None:
    """mean ← mean + min(1, 20 / step) · (weights − mean), in place.

    The mean is over about the last twentieth of all steps so far. It has less noise from single batches. Polyak &
    Juditsky 1992, "Acceleration of stochastic approximation by averaging".

    In the first 20 steps, the mean equals the weights. At step 40 it moves half of the way to them:

    >>> mean = np.array([1.0])
    >>> update_mean(mean, np.array([3.0]), step=40)
    >>> mean.tolist()
    [2.0]
    """
    mean += min(1.0, 20 / step) * (weights - mean)


def take_step(run: Run, tokens: np.ndarray, pool: Executor) -> None:
    """Draw a batch from the text and update the run by one step of AdamW.

    Raises ValueError if the loss or the gradient is not finite; the run is then unchanged.

    After the first step, no weight has moved by more than the learning rate:

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from numpy_gpt2 import init_weights
    >>> config = GPT2Config(vocab_size=3, n_positions=4, n_embd=2, n_layer=1, n_head=1)
    >>> options = TrainConfig(n_positions=4, batch_size=2, lr=0.01, warmup=0, weight_decay=0.0)
    >>> run = new_run(options, config, init_weights(config, np.random.default_rng(0)))
    >>> before = run.weights.copy()
    >>> with ThreadPoolExecutor() as pool:
    ...     take_step(run, np.arange(9) % 3, pool)
    >>> run.step, round(float(np.abs(run.weights - before).max()), 4)
    (1, 0.01)
    """
    start = time.perf_counter()
    options = run.options
    inputs, targets = batch(tokens, run.windows_per_step, options.n_positions, options.seed, run.step)
    loss, gradient = mean_gradient(run, inputs, targets, pool)
    blocks = adamw_blocks(run.shapes, options.weight_decay)
    shares = [blocks[i::ADAMW_TASKS] for i in range(ADAMW_TASKS)]
    squares = pool.map(lambda share: sum(float(np.vdot(gradient[some], gradient[some])) for some, _ in share), shares)
    norm = math.sqrt(sum(squares))
    check_finite(run, loss + norm)
    factor = clipping_factor(norm, options.grad_clip)
    lr = learning_rate(run.step, options)
    run.step += 1

    def update(share: list[tuple[slice, float]]) -> None:
        for block, weight_decay in share:
            weights, m, v = run.weights[block], run.m[block], run.v[block]
            settings = {"lr": lr, "beta1": options.beta1, "beta2": options.beta2, "weight_decay": weight_decay}
            adamw(weights, factor * gradient[block], m, v, step=run.step, **settings)
            if run.mean is not None:
                update_mean(run.mean[block], weights, run.step)

    list(pool.map(update, shares))
    run.losses.append(loss)
    run.timings.append(time.perf_counter() - start)
    run.seconds += run.timings[-1]
