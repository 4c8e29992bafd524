"""Part 2: the functions of `sampling.py`, and the decode loop of `generate.py`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...config import GPT2Config
from ...weights import Weights
from ..exercise import Exercise, Inputs, Probe

Arguments = tuple[Any, ...]


def rows_sum_to_1(y: np.ndarray) -> bool:
    """Whether each row is a distribution."""
    return bool(np.allclose(y.sum(axis=-1), 1))


def text_probe(penalty: float, *shape: int) -> Callable[[Inputs], Arguments]:
    """The arguments of `penalize_repetition`, for a batch of this shape. The text has every token at least twice."""

    def make(n: Inputs) -> Arguments:
        text = n.ids(*shape, n.S)
        return n.normal(*shape, n.V), np.concatenate([text, text], axis=-1), penalty

    return make


def run_keep_top_p(keep_top_p: Callable[..., Any], logits: Any, p: float, tied: bool = False) -> Any:
    """How `keep_top_p` is checked. Of tied tokens, any may stay, so their results are sorted."""
    kept = keep_top_p(logits, p)
    return np.sort(kept, axis=-1) if tied else kept


def four_tied_tokens(n: Inputs) -> Arguments:
    """Four tokens with probability 1/4 each, and others with 0: sums of them are exactly p, however they are computed.

    The second row is the same in another order.
    """
    return n.array([[-2000, 0, 0, -1000, 0, 0], [0, 0, -1000, 0, -2000, 0]]), 0.5, True


def run_sample(sample: Callable[..., Any], rows: Any, n_draws: int, seed: int) -> Any:
    """How `sample` is checked: many tokens are drawn from each row of several rows.

    Which number of the generator gives which token does not matter: a frequency that fits counts as the probability.
    """
    rng = np.random.default_rng(seed)
    if rows.ndim == 1:
        return sample(rows, rng)
    batch = np.tile(rows, (n_draws, 1))
    tokens = sample(batch, rng)
    are_ids = isinstance(tokens, np.ndarray) and tokens.shape == batch.shape[:1] and tokens.dtype.kind in "iu"
    drawn = np.asarray(tokens).reshape(n_draws, -1) if are_ids else np.zeros((n_draws, len(rows)))
    frequency = (drawn[..., None] == np.arange(rows.shape[-1])).mean(axis=0)
    fits = np.abs(frequency - rows) <= 5 * np.sqrt(rows * (1 - rows) / n_draws)  # 5 standard deviations
    few = batch[:12]
    twice = [sample(few, np.random.default_rng(seed)) for _ in range(2)]
    others = {np.asarray(sample(few, rng)).tobytes() for _ in range(5)}
    return {
        "the tokens": np.zeros(len(batch), int) if are_ids else tokens,
        "a token with probability 0 is drawn": bool(frequency[rows == 0].any()),
        "the frequency of each token": rows if fits.all() else frequency.astype(rows.dtype),
        "the next call gives other tokens": len(others - {np.ravel(tokens)[: len(few)].tobytes()}) == 5,
        "the same seed gives the same tokens": np.array_equal(*twice),
        "rare tokens are lost": rare_tokens_are_lost(sample),
    }


class FixedNumber(np.random.Generator):
    """A generator that always draws the number u, and that knows whether it was asked for single numbers only."""

    def __init__(self, u: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.u, self.single = u, False

    def random(self, size: Any = None, *arguments: Any, **named: Any) -> Any:
        self.single = math.prod(np.atleast_1d(1 if size is None else size)) == 1
        return np.full(() if size is None else size, self.u)[()]


def rare_tokens_are_lost(sample: Callable[..., Any]) -> bool:
    """Whether the sums are float32: then 600 tokens, each too small for such a sum, are never drawn.

    One of the two numbers falls into the middle of these tokens, for functions that use u and for those that use 1 - u.
    """
    row = np.array([0.5, *[2e-8] * 600, 0.5 - 1.2e-5], np.float32)
    generators = [FixedNumber(u) for u in (0.5 + 9e-6, 0.5 - 9e-6)]
    drawn = [int(sample(row, rng)) for rng in generators]
    return all(rng.single for rng in generators) and {*drawn} == {0, 601}


def sample_probe(n_draws: int, V: int, *places: int) -> Callable[[Inputs], Arguments]:
    """The arguments of `sample`: two rows of V probabilities, which are 0 except at these places."""

    def make(n: Inputs) -> Arguments:
        rows = np.zeros((2, V))
        rows[:, [*places]] = [[0.5, 0.2, 0.2, 0.1], [0.1, 0.3, 0.0, 0.6]]
        return n.array(rows), n_draws, 0

    return make


def run_generate(generate: Callable[..., Any], tokens: Any, weights: Any, config: Any, n: int, seed: int) -> Any:
    """How `generate_plainly` is checked: the tokens that it yields. A loop that does not end is cut."""
    yielded = generate(tokens, weights, config, n, np.random.default_rng(seed))
    return None if yielded is None else taken(yielded, n)


def taken(yielded: Any, n: int) -> list[np.ndarray]:
    """The arrays that a loop yields. Raises RuntimeError if there are many more than n."""
    arrays = [np.array(array) for array in itertools.islice(yielded, n + 30)]
    if len(arrays) == n + 30:
        raise RuntimeError(f"it must yield at most {n} times, and it does not end")
    return arrays


def model_with_memory(n: Inputs, **fields: Any) -> tuple[GPT2Config, Weights]:
    """A model of one block. Without biases, its scores depend much on the whole text."""
    config = n.config(n_layer=1, **fields)
    weights = n.weights(config.parameter_shapes())
    return config, {name: 0 * array if name.endswith("bias") else array for name, array in weights.items()}


def generate_probe(n_new: int, seed: int, as_list: bool = False, **fields: Any) -> Callable[[Inputs], Arguments]:
    """The arguments of `generate_plainly`."""

    def make(n: Inputs) -> Arguments:
        config, weights = model_with_memory(n, **fields)
        tokens = n.ids(n.T)
        return (tokens.tolist() if as_list else tokens), weights, config, n_new, seed

    return make


EXERCISES: list[Exercise] = [
    Exercise(
        "penalize_repetition",
        "sampling",
        (
            "A token's logit becomes smaller, whatever its sign is. Its number of occurrences does not matter.",
            "np.take_along_axis(logits, text, axis=-1) are the logits of the tokens. np.put_along_axis writes to a"
            " copy. np.where has the two cases.",
            "np.put_along_axis",
        ),
        [
            Probe(lambda n: text_probe(1.3, n.B)(n)),
            Probe(text_probe(1.3), "a single row"),
            Probe(lambda n: text_probe(0.5, n.B)(n), "a penalty of 1/2"),
            Probe(lambda n: (10 * n.normal(n.V), n.ids(9), 1.3), "logits of ±10"),
        ],
    ),
    Exercise(
        "keep_top_k",
        "sampling",
        (
            "With k = 1, the largest logit is left; with k = V or more, all are. The numbers that stay do not change.",
            "np.sort(logits)[..., -k] or np.partition is the k-th largest. np.where(condition, -math.inf, logits).",
            "np.partition",
        ),
        [
            Probe(lambda n: (n.normal(n.B, n.V), 4)),
            Probe(lambda n: (n.normal(n.V), 4), "a single row"),
            Probe(lambda n: (n.array([[3.0, 1, 2, 2, 0, 2], [1, 2, 0, 4, 1, 3]]), 2), "ties with the k-th"),
            Probe(lambda n: (n.normal(n.B, n.V), 1), "k = 1"),
            Probe(lambda n: (n.normal(n.B, n.V), n.V), "k = V"),
            Probe(lambda n: (n.normal(n.B, n.V), n.V + 2), "k > V"),
            Probe(lambda n: (n.normal(9, 9), 4), "a square array"),
            Probe(lambda n: (n.normal(n.B, 300), 50), "50 of 300 tokens"),
        ],
    ),
    Exercise(
        "keep_top_p",
        "sampling",
        (
            "With probabilities 0.4, 0.3, 0.2, 0.1 and p = 0.8, three tokens stay: 0.4 + 0.3 is less than p.",
            "np.argsort(-row) is the order; np.cumsum(row[order]) - row[order] is the sum before each token. Write"
            " the result to the tokens' own places: keep[order[...]].",
            "before < p",
        ),
        [
            Probe(lambda n: (2 * n.normal(n.B, n.V), 0.7)),
            Probe(lambda n: (n.array(np.log([0.1, 0.4, 0.2, 0.3])), 0.8), "a single row: 0.1, 0.4, 0.2, 0.3"),
            Probe(lambda n: (n.normal(n.B, n.V), 0.05), "a p that the first token alone reaches"),
            Probe(four_tied_tokens, "sums that are exactly p"),
            Probe(lambda n: (n.normal(9, 9), 0.9), "a square array"),
        ],
        run=run_keep_top_p,
    ),
    Exercise(
        "keep_min_p",
        "sampling",
        (
            "The threshold is relative: the most probable token of the row times p. With p = 1, only it stays.",
            "softmax(logits) gives probabilities. Without it: ln(p * max) = max z + ln p, and math.log is ln.",
            "math.log(p)",
        ),
        [
            Probe(lambda n: (n.normal(n.B, n.V), 0.3)),
            Probe(lambda n: (n.array(np.log([0.2, 0.4, 0.1, 0.3])), 0.6), "a single row: 0.2, 0.4, 0.1, 0.3"),
            Probe(lambda n: (n.array([[0, 2, 1, 2, -2, 0.5], [4, 2, 1, 0, 2, 3]]), 1.0), "p = 1"),
            Probe(lambda n: (n.normal(9, 9), 0.4), "a square array"),
        ],
    ),
    Exercise(
        "probabilities",
        "sampling",
        (
            "Below 1, a temperature makes the largest probabilities larger. The nucleus is that of the divided logits.",
            "keep_top_k, then the division, then keep_top_p, then keep_min_p, each only if its argument is given; at"
            " the end softmax. Temperature 0 comes first: argmax.",
            "argmax",
        ),
        [
            Probe(lambda n: (n.normal(n.B, n.V), 0.7, 6, 0.8, 0.3)),
            Probe(lambda n: (n.normal(n.B, n.V),), "temperature 1 without cuts"),
            Probe(lambda n: (n.normal(n.B, n.V), 2.0), "temperature 2"),
            Probe(lambda n: (n.normal(n.V), 0.5, 3), "temperature 0.5 and top_k"),
            Probe(lambda n: (2 * n.normal(n.B, n.V), 1.5, None, 0.6), "temperature 1.5 and top_p"),
            Probe(lambda n: (n.normal(n.B, n.V), 1.0, 6, 0.8), "top_k and top_p"),
            Probe(lambda n: (n.normal(n.B, n.V), 0.5, None, None, 0.3), "temperature 0.5 and min_p"),
            Probe(lambda n: (n.normal(n.B, n.V), 1.0, 0, 1.0), "top_k = 0 and top_p = 1, which keep everything"),
            Probe(lambda n: (n.array([[1.0, 3, 2, 3], [0, -1, -5, -2]]), 0.0), "temperature 0"),
            Probe(lambda n: (1e-6 * n.normal(n.V), 1e-6), "temperature 0.000001"),
        ],
        invariants=(("each row must sum to 1", rows_sum_to_1),),
    ),
    Exercise(
        "sample",
        "sampling",
        (
            "With probabilities 0.5, 0.2, 0.3: up to 0.5, u is token 0; up to 0.7, it is token 1; above, token 2.",
            "np.cumsum(row) and np.searchsorted(cumulative, u). Each row needs its own number u: rng.random().",
            "np.ndenumerate",
        ),
        [
            Probe(sample_probe(40, 13, 3, 5, 6, 12)),
            Probe(sample_probe(300, 600, 255, 256, 300, 599), "600 tokens"),
            Probe(sample_probe(1200, 4, 0, 1, 2, 3), "many draws"),
            Probe(lambda n: (np.eye(n.V, dtype=n.dtype)[[0, 7, n.V - 1]], 2, 0), "certain tokens"),
            Probe(lambda n: (np.eye(n.V, dtype=n.dtype)[7], 1, 0), "a single row"),
        ],
        run=run_sample,
    ),
    Exercise(
        "generate_plainly",
        "generate",
        (
            "The text grows by one token per step, and the model reads all of it each time. Only the last row counts.",
            "Draw with sample(probabilities(scores), rng), yield the token, and append it: np.append.",
            "np.append",
        ),
        [
            Probe(generate_probe(6, 0)),
            Probe(generate_probe(12, 1), "another seed, and more tokens"),
            Probe(generate_probe(3, 2, as_list=True), "a list of tokens"),
            Probe(generate_probe(6, 0, eos_token_id=1), "a text that contains config.eos_token_id"),
        ],
        run=run_generate,
        fixed=("sample",),
    ),
]
