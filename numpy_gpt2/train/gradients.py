"""The gradients of a batch, one after another, from parts that threads compute in parallel.

`backward.loss_and_gradients` returns all gradients together. Here each one is passed on as soon as it is known, from
the last layer to the first, and then freed. So there is never more than a layer's gradients of each part.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError, Executor
from queue import SimpleQueue

import numpy as np

from ..backward import NOT_NEEDED, block_backward, cross_entropy_backward, layer_norm_backward
from ..cache import KVCache
from ..config import GPT2Config
from ..model import cross_entropy, hidden_states, identity, logits, within
from ..prefill import ChunkCache
from ..weights import Weights
from ..windows import TOKENS_PER_FORWARD

LOSS_SCORES = 1 << 19  # scores whose loss is computed together, at least a position: 2 MB stay in the processor's cache
SCORES_PER_PART = 1 << 24  # of parts of several rows. For GPT-2's vocabulary, twice as many take a fifth more memory.
HEAD_ROWS = 4096  # rows of the head's gradient that are computed together

ALL = slice(None)

Hook = Callable[[str, np.ndarray], np.ndarray]
Place = tuple[slice, slice]  # rows and positions of a batch

# take(name, rows, gradient, is_first): see `batch_gradients`
Take = Callable[[str, slice | np.ndarray, np.ndarray, bool], None]


def equal_parts(rows: int, length: int, vocab_size: int) -> list[list[Place]]:
    """Divide a batch of rows × length tokens into parts of at most TOKENS_PER_FORWARD tokens, at least two.

    A part is some rows, or a chunk of the positions of one row. The chunks of a row are in one list. A batch of several
    rows that are short enough is divided into equal parts. They are as large as possible, but parts of several rows
    have at most SCORES_PER_PART scores. An even number of rows makes an even number of parts, for two threads:

    >>> equal_parts(rows=8, length=128, vocab_size=256)  # 2 parts of 512 tokens
    [[(slice(0, 4, None), slice(0, 128, None))], [(slice(4, 8, None), slice(0, 128, None))]]
    >>> len(equal_parts(rows=8, length=128, vocab_size=50257))  # 4 parts of 256 tokens
    4
    >>> equal_parts(rows=1, length=1024, vocab_size=256)
    [[(slice(0, 1, None), slice(0, 512, None)), (slice(0, 1, None), slice(512, 1024, None))]]
    """
    if rows > 1 and length <= TOKENS_PER_FORWARD:
        most = min(TOKENS_PER_FORWARD, max(length, SCORES_PER_PART // vocab_size))
        n = next(n for n in range(2, rows + 1, 2 - rows % 2) if rows % n == 0 and rows * length <= n * most)
        return [[(slice(i, i + rows // n), slice(0, length))] for i in range(0, rows, rows // n)]
    size = min(TOKENS_PER_FORWARD, math.ceil(length / 2))
    chunks = [slice(i, min(i + size, length)) for i in range(0, length, size)]
    return [[(slice(row, row + 1), chunk) for chunk in chunks] for row in range(rows)]


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


@dataclasses.dataclass
class Batch:
    """What the parts of a batch have in common."""

    inputs: np.ndarray
    targets: np.ndarray
    weights: Weights
    config: GPT2Config
    names: set[str]  # the weights whose gradients are wanted
    take: Take
    parts: list[Part] = dataclasses.field(default_factory=list)  # in the order in which their gradients are added

    def __post_init__(self) -> None:
        self.lowest = lowest_block(self.names, self.config.n_layer)
        self.last = f"h.{self.config.n_layer - 1}.resid_post"  # what goes into the last layer norm
        self.head = "lm_head.weight" if "lm_head.weight" in self.weights else "wte.weight"

    def add_parts(self, places: list[Place], dropouts: Callable[[int], Hook]) -> list[Callable[[], None]]:
        """Add parts at these places, chunks of the same rows from the first to the last. Returns their tasks.

        The last chunk gets the lowest number, because its backward pass is the first one.
        """
        chunks: list[Part] = []
        cache = KVCache(self.config, dtype=self.weights["wte.weight"].dtype)
        if len(places) > 1:
            cache.reserve(self.inputs.shape[1])
        for i, place in enumerate(places, 1):
            number, before = len(self.parts) + len(places) - i, chunks[-1].cache if chunks else None
            chunk = ChunkGradients(cache, before, place[1].stop - place[1].start) if len(places) > 1 else None
            chunks.append(Part(self, number, place, chunk, dropouts(number)))
        *earlier, last = chunks
        self.parts += reversed(chunks)
        return [
            *(chunk.forward for chunk in earlier),
            last.forward_and_backward,
            *(chunk.backward for chunk in reversed(earlier)),
        ]


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
    batch = Batch(inputs, targets, weights, config, {*names}, take)
    rows, length = inputs.shape
    divided = equal_parts(rows, length, config.vocab_size)
    tasks = [task for places in divided for task in batch.add_parts(places, dropouts)]
    try:
        for _ in pool.map(lambda task: task(), tasks):  # each one waits only for tasks that began before it
            pass
    finally:
        for part in batch.parts:
            part.close()
    if "wte.weight" in names:
        if batch.head != "wte.weight":
            take("wte.weight", ALL, np.zeros_like(weights["wte.weight"]), True)
        for part in batch.parts:
            take("wte.weight", part.used, part.dwte, False)
    return sum(part.loss for part in batch.parts) / inputs.size


class ChunkGradients(ChunkCache):
    """The keys and values of a chunk of positions, and their gradients: a `ChunkCache` with a backward pass.

    Later chunks read the keys and values of a chunk. So in each layer, it waits until the chunk after it has computed
    its part of their gradients.
    """

    def __init__(self, cache: KVCache, before: ChunkGradients | None, T: int) -> None:
        super().__init__(cache, before, T)
        self.start = self.length
        self.earlier, self.has_later = before, False
        self.from_later: SimpleQueue[tuple[np.ndarray, np.ndarray] | None] = SimpleQueue()  # from the last layer on
        if before:
            before.has_later = True

    def update_backward(self, dk: np.ndarray, dv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The gradients of all k and v so far, (B, H, S, D) -> those of the new positions, (B, H, T, D).

        Those of earlier positions go to the chunk before this one. Raises CancelledError if this chunk was closed.
        """
        if self.has_later:
            later = self.from_later.get()
            if later is None:
                raise CancelledError
            dk, dv = dk + later[0], dv + later[1]
        if self.earlier:
            self.earlier.from_later.put((dk[:, :, : self.start], dv[:, :, : self.start]))
        return dk[:, :, self.start :], dv[:, :, self.start :]

    def seen(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """All keys and values that the chunk used, (B, H, S, D) each."""
        return self.keys[layer, :, :, : self.end], self.values[layer, :, :, : self.end]

    def close(self) -> None:
        """Stop this chunk at its next layer, and release the threads that wait for it and that it waits for."""
        super().close()
        self.from_later.put(None)


class Part:
    """Some rows of a batch, or a chunk of positions of one row: its forward pass and its backward pass.

    All parts pass on the same groups of gradients: of slices of the head, ln_f, each block, the embeddings. A part
    waits until the part before it has passed on the same group. So the sums do not depend on which part is faster.
    `cache` has the keys and values of earlier chunks.
    """

    def __init__(self, batch: Batch, number: int, place: Place, cache: ChunkGradients | None, dropout: Hook) -> None:
        self.batch, self.number, self.place, self.cache, self.dropout = batch, number, place, cache, dropout
        self.tokens, self.closed = batch.inputs[place], False
        self.trace: Weights = {}
        self.hidden: SimpleQueue[np.ndarray | None] = SimpleQueue()  # the result of the forward pass
        self.turns: SimpleQueue[None] = SimpleQueue()  # an entry for each group of the part before this one
        self.loss = 0.0  # the sum over all positions

    def forward(self) -> None:
        """`hidden_states`. The results that the backward pass needs are kept."""
        self.hidden.put(hidden_states(self.tokens, self.batch.weights, self.batch.config, self.cache, self.hook))

    def hook(self, name: str, value: np.ndarray) -> np.ndarray:
        """Keep a result, without dropout, if its block has a backward pass; then apply dropout."""
        layer = layer_of(name)
        in_block = layer is not None and layer >= self.batch.lowest and not name.endswith(NOT_NEEDED)
        if in_block or name == self.batch.last:
            self.trace[name] = value
        return self.dropout(name, value)

    def pass_on(self, gradients: Weights, rows: slice = ALL) -> None:
        """Pass a group of gradients on, those that are wanted. Raises CancelledError after `close`."""
        if self.number:
            self.turns.get()
        if self.closed:
            raise CancelledError
        for name in self.batch.names.intersection(gradients):
            self.batch.take(name, rows, gradients[name], self.number == 0)
        if self.number + 1 < len(self.batch.parts):
            self.batch.parts[self.number + 1].turns.put(None)

    def forward_and_backward(self) -> None:
        """Both passes."""
        self.forward()
        self.backward()

    def backward(self) -> None:
        """`forward_backward`, down to the lowest block, and to the embeddings if they are wanted."""
        weights, config = self.batch.weights, self.batch.config
        x = self.hidden.get()
        if x is None:
            raise CancelledError
        dw: Weights = {}
        dx, last = self.head_backward(x), self.trace[self.batch.last]
        dx, dw["ln_f.weight"], dw["ln_f.bias"] = layer_norm_backward(
            dx, last, weights["ln_f.weight"], weights["ln_f.bias"], config.layer_norm_epsilon
        )
        self.pass_on(dw)
        for layer in reversed(range(self.batch.lowest, config.n_layer)):
            prefix = f"h.{layer}."
            w = {name: weights[prefix + name] for name in config.block_shapes()}
            trace = {
                name.removeprefix(prefix): self.trace.pop(name) for name in [*self.trace] if layer_of(name) == layer
            }
            if self.cache:
                trace["attn.k"], trace["attn.v"] = self.cache.seen(layer)
            dx, dw = block_backward(dx, w, config, layer, trace, within(prefix, self.dropout), self.cache)
            self.pass_on({prefix + name: gradient for name, gradient in dw.items()})
        self.embeddings_backward(dx)
        self.trace, self.dropout = {}, identity  # the other parts may take this memory: arrays and dropout's masks

    def head_backward(self, x: np.ndarray) -> np.ndarray:
        """The mean loss of the batch  ->  dx. Adds up the losses of the part.

        The scores are the largest array of a step. Their gradient takes their place, a few positions at a time.
        """
        weights, targets, shape = self.batch.weights, self.batch.targets[self.place].reshape(-1), x.shape
        head, x = weights[self.batch.head], x.reshape(-1, x.shape[-1])
        scores = logits(x, weights)
        size = max(1, LOSS_SCORES // len(head))
        for start in range(0, len(x), size):
            some = slice(start, start + size)
            n = len(targets[some])
            self.loss += n * float(cross_entropy(scores[some], targets[some]))
            scores[some] = cross_entropy_backward(n / self.batch.targets.size, scores[some], targets[some])
        for start in range(0, len(head), HEAD_ROWS) if self.batch.head in self.batch.names else ():
            rows = slice(start, start + HEAD_ROWS)
            self.pass_on({self.batch.head: scores[:, rows].T @ x}, rows)
        return (scores @ head).reshape(shape)

    def embeddings_backward(self, dx: np.ndarray) -> None:
        """wte[tokens] + wpe[positions]. That of wte is kept: other parts may not have added that of a tied head yet."""
        weights, names = self.batch.weights, self.batch.names
        if "wpe.weight" in names:
            dwpe = np.zeros_like(weights["wpe.weight"])
            dwpe[self.place[1]] = dx.sum(axis=0)
            self.pass_on({"wpe.weight": dwpe})
        if "wte.weight" in names:
            order = self.tokens.argsort(axis=None, kind="stable")
            self.used, starts = np.unique(self.tokens.reshape(-1)[order], return_index=True)
            self.dwte = np.add.reduceat(dx.reshape(-1, dx.shape[-1])[order], starts)

    def close(self) -> None:
        """Stop this part at its next gradient, and release the threads that wait for it."""
        self.closed = True
        self.hidden.put(None)
        self.turns.put(None)
        if self.cache:
            self.cache.close()
