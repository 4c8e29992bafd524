"""The gradients of a batch, one after another, from parts that threads compute in parallel.

`backward.loss_and_gradients` returns all gradients together. Here each one is passed on as soon as it is known, from
the last layer to the first, and then freed. So there is never more than a layer's gradients of each part.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError, Executor

import numpy as np

from ..backward import NOT_NEEDED, block_backward, cross_entropy_backward, layer_norm_backward
from ..config import GPT2Config
from ..model import cross_entropy, hidden_states, logits, output_head, within
from ..weights import Weights
from ..windows import TOKENS_PER_FORWARD

LOSS_ROWS = 16  # positions whose loss is computed together: 3 MB of GPT-2's scores, which stay in the processor's cache
ALL = slice(None)

HEAD_ROWS = 4096  # rows of the head's gradient that are computed together

Hook = Callable[[str, np.ndarray], np.ndarray]

# take(name, rows, gradient, is_first): see `batch_gradients`
Take = Callable[[str, slice | np.ndarray, np.ndarray, bool], None]


def equal_parts(rows: int, length: int) -> list[slice]:
    """Divide a batch of rows × length tokens into at least two equal parts of at most TOKENS_PER_FORWARD tokens.

    The parts are as large as possible. If all parts of several rows are too large, each row is a part. A batch of one
    row is one part.

    >>> equal_parts(rows=8, length=128)  # 2 parts of 512 tokens
    [slice(0, 4, None), slice(4, 8, None)]
    """
    n = next((n for n in range(2, rows) if rows % n == 0 and rows * length <= n * TOKENS_PER_FORWARD), rows)
    return [slice(start, start + rows // n) for start in range(0, rows, rows // n)]


def layer_of(name: str) -> int | None:
    """The block of a weight or a named result; None outside the blocks.

    >>> layer_of("h.11.mlp.c_fc.weight"), layer_of("ln_f.weight")
    (11, None)
    """
    return int(name.split(".")[1]) if name.startswith("h.") else None


def lowest_block(names: Collection[str], n_layer: int) -> int:
    """The first block whose backward pass is needed. Below it, nothing is trained. Without any, it is `n_layer`.

    >>> lowest_block({"ln_f.weight", "h.11.mlp.c_fc.bias", "h.10.ln_1.weight"}, n_layer=12)
    10
    >>> lowest_block({"wpe.weight"}, n_layer=12), lowest_block({"ln_f.bias"}, n_layer=12)
    (0, 12)
    """
    if "wte.weight" in names or "wpe.weight" in names:
        return 0
    return min((layer for name in names if (layer := layer_of(name)) is not None), default=n_layer)


class Turns:
    """Passes the gradients of all parts to `take`: those of the same weight in the order of the parts.

    So their sum does not depend on which part is faster.
    """

    def __init__(self, take: Take) -> None:
        self.take = take
        self.taken: Counter[tuple[str, int | None]] = Counter()  # how many parts had their turn
        self.changed = threading.Condition()
        self.closed = False

    def pass_on(self, part: int, name: str, gradient: np.ndarray, rows: slice = ALL) -> None:
        """Wait for the parts before this one, then pass the gradient on. Raises CancelledError after `close`."""
        key = name, rows.start
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.taken[key] == part)
            if self.closed:
                raise CancelledError
        self.take(name, rows, gradient, part == 0)
        with self.changed:
            self.taken[key] += 1
            self.changed.notify_all()

    def close(self) -> None:
        """Stop all parts at their next gradient, and release those that wait."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def batch_gradients(
    inputs: np.ndarray,
    targets: np.ndarray,
    weights: Weights,
    config: GPT2Config,
    names: Collection[str],
    take: Take,
    pool: Executor,
    dropouts: Callable[[int], Hook],
) -> float:
    """Return the mean loss of a batch (B, T), and pass the gradients of the weights in `names` to `take`.

    take(name, rows, gradient, is_first) gets one part's gradient of weights[name][rows]. The sum of all is the
    gradient. `is_first` tells that these rows had none before, so it may be stored instead of added. Gradients of the
    same weight arrive one at a time and always in the same order; others may arrive at the same time, in other threads.
    Below the lowest block with a name in `names`, nothing is kept and there is no backward pass.

    `dropouts(i)` is the dropout of part i, which counts from 0. The result does not depend on the number of threads.
    Targets of −1 are not possible. Raises what `forward` raises. After an error, all parts end at their next gradient.
    """
    parts, turns = equal_parts(*inputs.shape), Turns(take)

    def compute(i: int) -> tuple[float, np.ndarray | None]:
        part = Part(i, inputs[parts[i]], weights, config, {*names}, turns, dropouts(i))
        x = part.forward()
        loss, dx = part.head_backward(x, targets[parts[i]], inputs.size)
        return loss, part.backward(dx)

    try:
        losses, dx = zip(*pool.map(compute, range(len(parts))), strict=True)
    finally:
        turns.close()
    embeddings_backward(np.concatenate(dx), inputs, weights, names, take)
    return sum(losses) / inputs.size


class Part:
    """A part of a batch: its forward pass and its backward pass."""

    def __init__(
        self,
        number: int,
        tokens: np.ndarray,
        weights: Weights,
        config: GPT2Config,
        names: Collection[str],
        turns: Turns,
        dropout: Hook,
    ) -> None:
        self.number, self.tokens, self.weights, self.config = number, tokens, weights, config
        self.names, self.turns, self.dropout = names, turns, dropout
        self.lowest = lowest_block(names, config.n_layer)
        self.trace: Weights = {}

    def forward(self) -> np.ndarray:
        """`hidden_states` of the part, (B, T, C). The results that the backward pass needs are kept."""
        return hidden_states(self.tokens, self.weights, self.config, hook=self.hook)

    def hook(self, name: str, value: np.ndarray) -> np.ndarray:
        """Keep a result, without dropout, if its block has a backward pass; then apply dropout."""
        layer = layer_of(name)
        if name == self.last or (layer is not None and layer >= self.lowest and not name.endswith(NOT_NEEDED)):
            self.trace[name] = value
        return self.dropout(name, value)

    @property
    def last(self) -> str:
        """The name of the last block's result, which goes into the last layer norm."""
        return f"h.{self.config.n_layer - 1}.resid_post"

    def pass_on(self, name: str, gradient: np.ndarray, rows: slice = ALL) -> None:
        """Pass a gradient on, if it is wanted."""
        if name in self.names:
            self.turns.pass_on(self.number, name, gradient, rows)

    def head_backward(self, x: np.ndarray, targets: np.ndarray, n: int) -> tuple[float, np.ndarray]:
        """Return the sum of the losses, and the gradient of x for this sum divided by n.

        The scores are the largest array of a step. Their gradient takes their place, a few positions at a time.
        """
        head = output_head(self.weights)
        name = "lm_head.weight" if "lm_head.weight" in self.weights else "wte.weight"
        x, targets, shape = x.reshape(-1, x.shape[-1]), targets.reshape(-1), x.shape
        scores, loss = logits(x, self.weights), 0.0
        for start in range(0, len(x), LOSS_ROWS):
            some = slice(start, start + LOSS_ROWS)
            size = len(targets[some])
            loss += size * float(cross_entropy(scores[some], targets[some]))
            scores[some] = cross_entropy_backward(size / n, scores[some], targets[some])
        for start in range(0, len(head), HEAD_ROWS) if name in self.names else ():
            rows = slice(start, start + HEAD_ROWS)
            self.pass_on(name, scores[:, rows].T @ x, rows)
        return loss, (scores @ head).reshape(shape)

    def backward(self, dx: np.ndarray) -> np.ndarray:
        """`hidden_states_backward`, down to the lowest block: the gradient of its input, (B, T, C)."""
        weights, config = self.weights, self.config
        eps, last = config.layer_norm_epsilon, self.trace[self.last]
        dx, dweight, dbias = layer_norm_backward(dx, last, weights["ln_f.weight"], weights["ln_f.bias"], eps)
        self.pass_on("ln_f.weight", dweight)
        self.pass_on("ln_f.bias", dbias)
        for layer in reversed(range(self.lowest, config.n_layer)):
            prefix = f"h.{layer}."
            w = {name: weights[prefix + name] for name in config.block_shapes()}
            trace = {
                name.removeprefix(prefix): self.trace.pop(name) for name in [*self.trace] if name.startswith(prefix)
            }
            dx, dw = block_backward(dx, w, config, layer, trace, within(prefix, self.dropout))
            for name, gradient in dw.items():
                self.pass_on(prefix + name, gradient)
        return dx


def embeddings_backward(
    dx: np.ndarray, tokens: np.ndarray, weights: Weights, names: Collection[str], take: Take
) -> None:
    """wte[tokens] + wpe[positions], for the whole batch. A tied wte already has the gradient of the head."""
    T, C = dx.shape[1:]
    if "wpe.weight" in names:
        dwpe = np.zeros_like(weights["wpe.weight"])
        dwpe[:T] = dx.sum(axis=0)
        take("wpe.weight", ALL, dwpe, True)
    if "wte.weight" in names:
        is_tied = "lm_head.weight" not in weights
        used, places = (
            np.unique(tokens, return_inverse=True) if is_tied else (np.arange(len(weights["wte.weight"])), tokens)
        )
        dwte = np.zeros((len(used), C), dx.dtype)
        np.add.at(dwte, places.reshape(-1), dx.reshape(-1, C))
        take("wte.weight", used if is_tied else ALL, dwte, not is_tied)
