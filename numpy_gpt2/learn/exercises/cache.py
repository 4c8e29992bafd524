"""Part 3: the methods of `KVCache`, and the loop of `decode.py` that uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...config import GPT2Config
from ...sampling import penalize_repetition
from ..exercise import UNWRITTEN, Exercise, Inputs, Probe
from .sampling import model_with_memory, taken

Arguments = tuple[Any, ...]


def filled(cache_class: Any) -> Any:
    """A cache class whose new memory is filled with one number. So code that reads it gives the same in each run."""

    class Filled(cache_class):
        def reserve(self, n: int, repeats: int = 1) -> None:
            super().reserve(n, repeats)
            self.keys[:, :, :, self.length :] = self.values[:, :, :, self.length :] = UNWRITTEN

    Filled.__name__ = Filled.__qualname__ = "KVCache"  # in messages
    return Filled


def run_update(cache_class: Any, config: GPT2Config, room: int, calls: list[tuple[int, np.ndarray, np.ndarray]]) -> Any:
    """How `KVCache.update` is checked: calls for all layers, as `hidden_states` makes them.

    If `room` is not 0, memory for so many positions is reserved first. Before a call, the cache is cut to the given
    length, if it is longer.
    """
    _, k, _ = calls[0]
    cache = filled(cache_class)(config, len(k), k.dtype)
    if room:
        cache.reserve(room)
    results = {}
    for number, (length, k, v) in enumerate(calls, start=1):
        cache.length = min(cache.length, length)
        before = cache.length
        for layer in range(config.n_layer):
            pair = cache.update(layer, k + layer, v - layer)
            results[f"layer {layer} in call {number}"] = (
                tuple(p.copy() if isinstance(p, np.ndarray) else p for p in pair)
                if isinstance(pair, tuple | list)
                else pair
            )
        results[f"cache.length after call {number}"] = cache.length
        cache.length = before + k.shape[2]
    return results | {"self.keys": cache.keys[:, :, :, : cache.length].copy()}


def update_probe(*lengths: int, room: int = 0, cut: int = 99) -> Callable[[Inputs], Arguments]:
    """Calls of `update` with these numbers of new positions. Before each, the cache is cut to `cut` positions."""
    return lambda n: (
        n.config(),
        room,
        [(cut, n.normal(n.B, n.H, T, n.D), n.normal(n.B, n.H, T, n.D)) for T in lengths],
    )


def run_reserve(cache_class: Any, config: GPT2Config, length: int, keys: Any, values: Any, n: int, repeats: int) -> Any:
    """How `KVCache.reserve` is checked: the shape afterwards, and what is stored in the first `length` positions."""
    cache = cache_class(config, keys.shape[1], keys.dtype)
    cache.keys, cache.values, cache.length = keys, values, length
    cache.reserve(n, *[repeats] * (repeats > 1))
    return {
        "the shape of self.keys": [*cache.keys.shape],
        "the shape of self.values": [*cache.values.shape],
        "self.length": cache.length,
        "the stored keys": cache.keys[:, :, :, :length],
        "the stored values": cache.values[:, :, :, :length],
    }


def reserve_probe(length: int, n_old: int, n_new: int, repeats: int) -> Callable[[Inputs], Arguments]:
    """The arguments of `run_reserve`: memory for `n_old` positions becomes memory for `n_new`."""

    def make(n: Inputs) -> Arguments:
        shape = n.L, n.B, n.H, n_old, n.D
        return n.config(), length, n.normal(*shape), n.normal(*shape), n_new, repeats

    return make


class Counted(np.ndarray):
    """The table wpe, which counts how many of its rows are read: one for each position of a text."""

    n_read = 0

    def __getitem__(self, index: Any) -> Any:
        rows = np.asarray(self)[index]
        self.n_read += rows.size // self.shape[1]
        return rows


def run_decode(
    decode: Callable[..., Any],
    text: Any,
    weights: Any,
    config: GPT2Config,
    n_new: int,
    stop_tokens: list[int],
    longest_draft: int = 0,
    observed: bool = False,
) -> Any:
    """How `decode` is checked: the tokens, and the scores that `choose` gets for rows that have not stopped.

    The tokens depend on all scores and on the whole text. A loop that does not end is cut.
    """
    steps: list[np.ndarray] = []
    seen: list[np.ndarray] = []

    def choose(scores: np.ndarray, text: np.ndarray) -> np.ndarray:
        steps.append(np.array(scores))
        return penalize_repetition(scores, text, 2).argmax(axis=-1)

    def observe(scores: np.ndarray, tokens: np.ndarray) -> None:
        seen.append(scores.max(axis=-1) + tokens)

    stops = np.isin(np.arange(config.vocab_size), stop_tokens)
    T, wpe = text.shape[1], weights["wpe.weight"].view(Counted)
    weights = weights | {"wpe.weight": wpe}
    rows = decode(text, n_new, weights, config, choose, stops, longest_draft, observe if observed else None)
    if rows is None:
        return None
    tokens = taken(rows, n_new)
    for scores, row in zip(steps[1:], tokens, strict=False):
        if len(scores) == row.size:
            scores[row.reshape(-1) == -1] = 0
    again = T + n_new <= config.n_positions and not longest_draft and int(wpe.n_read) > T + n_new
    results: dict[str, Any] = {"the tokens": tokens, "the scores that choose gets": steps}
    return results | {"old tokens are read again": again} | ({"what observe gets": seen} if observed else {})


def drafts_probe(n: Inputs) -> Arguments:
    """A text of three tokens that are repeated, so drafts are made. The model goes on in another way."""
    text, *others = decode_probe(1, 8, [], 4)(n)
    return np.tile(text[:, :3], 3), *others


def decode_probe(
    B: int, n_new: int, *arguments: Any, equal: bool = False, **fields: Any
) -> Callable[[Inputs], Arguments]:
    """The arguments of `run_decode`, for B rows of text."""

    def make(n: Inputs) -> Arguments:
        config, weights = model_with_memory(n, **fields)
        text = n.ids(B, n.T)
        return text[:1].repeat(B, axis=0) if equal else text, weights, config, n_new, *arguments

    return make


EXERCISES: list[Exercise] = [
    Exercise(
        "KVCache.update",
        "cache",
        (
            "The first call stores T positions, the next one follows them. Each layer has its own place.",
            "The new positions are self.length to self.length + T on axis 3 of self.keys and self.values. If the arrays"
            " are too short, self.reserve(n) makes longer ones. self.length stays as it is.",
            "self.keys[layer, :, :, self.length : S] = k",
        ),
        [
            Probe(update_probe(5, 1), "a prompt and a token"),
            Probe(update_probe(1, 1, 4), "single tokens, then four at once"),
            Probe(update_probe(3, 6, 1, room=12), "a cache with memory for 12 positions"),
            Probe(update_probe(6, 3, 1, cut=3), "a cache that is cut to 3 positions between the calls"),
        ],
        run=run_update,
        outputs=("k", "v"),
    ),
    Exercise(
        "KVCache.reserve",
        "cache",
        (
            "Only the first self.length positions are stored. With repeats = 2, rows 0, 1 become 0, 0, 1, 1.",
            "np.empty((L, B * repeats, H, n, D), self.keys.dtype), and old.repeat(repeats, axis=1) for the rows.",
            "new[...",
        ),
        [
            Probe(reserve_probe(5, 5, 9, 1)),
            Probe(reserve_probe(5, 9, 6, 1), "fewer positions than before"),
            Probe(reserve_probe(5, 6, 9, 3), "3 repeats"),
            Probe(reserve_probe(0, 0, 4, 1), "an empty cache"),
        ],
        run=run_reserve,
    ),
    Exercise(
        "decode",
        "decode",
        (
            "One pass reads the prompt and fills the cache; then each pass reads one token per row. Drafts may be left"
            " out.",
            "hidden_states(unread, weights, config, cache), then logits of its last position. With a full cache:"
            " cache.truncate(0), and unread = the last n_positions // 2 tokens.",
            "unread = text[:, -1:]",
        ),
        [
            Probe(lambda n: decode_probe(n.B, 3, [])(n), "a batch of two texts"),
            Probe(decode_probe(1, 10, [], n_positions=8), "a text that is longer than n_positions"),
            Probe(decode_probe(3, 7, [3, 11]), "stop tokens"),
            Probe(decode_probe(3, 8, [9]), "a stop token that all rows reach"),
            Probe(decode_probe(2, 3, [], equal=True), "a batch of two equal texts"),
            Probe(decode_probe(1, 6, [], 4, True), "a function observe"),
            Probe(drafts_probe, "drafts: longest_draft = 4 and a text that is repeated"),
        ],
        run=run_decode,
    ),
]
