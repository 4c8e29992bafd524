"""What is computed for an explanation: the results of one forward pass, and a few numbers derived from them.

A hook records every intermediate result of one `forward`. `Analysis.arrays` holds these and what is derived from them:

    embed … ln_f                            every array that the hook recorded: "h.3.attn.pattern" is (1, H, T, S)
    logits (T, V)                           the result of `forward`
    surprisal (T,)                          how unexpected each token was, in bits; nan for the first token
    nearest.tokens, .cosines (T, 5)         the tokens whose embeddings are most similar to the first block's input
    heads.norm (L, H, T)                    length of the vector that each head adds to the residual stream
    neurons (L, T, 8)                       the neurons of the MLP with the largest activations, by magnitude
    heads.kinds (L, H, 4)                   how much each head looks at four kinds of keys; see `head_kinds`
    heads.tokens (L, H, 5)                  the tokens that each head's output at the last position promotes
    neurons.tokens (L, T, 8, 5)             the tokens that the output weights of these neurons promote
    direct.heads (L, H, T), .mlps (L, T), .neurons (L, T, 8), .embed, .pos_embed, .biases (T,)
                                            what each part adds to the logit of the `following` token
    lens.tokens, .probabilities (L+1, T, 10)
                                            next tokens if the model ended before block 0, 1, …; last row: real output
    lens.target (L+1,)                      probability of the target's first token, in the lens at the last position
    target.log_probability ()               ln p(target | tokens), in nats
    ablation.heads (L, H), .mlps (L,)       how ln p(target | tokens) changes without one head, or without one MLP
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, KeysView, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import tiktoken

from ..checkpoint import Model
from ..config import GPT2Config
from ..console import progress_bar
from ..model import cross_entropy, forward, hidden_states, identity, layer_norm, logits, record, softmax
from ..prefill import SERIAL_MULTIPLY_ADDS
from ..threads import single_threaded_products
from ..tokenizer import merge_steps, pieces, prompt_ids, token_ranks
from ..weights import Weights
from .contributions import contributions, head_kinds, largest, promoted_in_block, row_chunks
from .interventions import MLP, Head, Hook, Intervention, chain, make_hook
from .turns import map_in_steps

MAX_TOKENS = 64  # of a prompt, by default; the attention maps grow with the square of this
MAX_PIECE_BYTES = 64  # longer pieces have no list of merges, because it grows with the square of the length
MOST_BITS = 16  # the largest surprisal that bars and colors can show
N_NEAREST, N_LENS, N_NEURONS = 5, 10, 8

# The named results and their shapes, in the order of the forward pass. Those of BLOCK occur once in every block.
EMBEDDINGS = {"embed": "(T, C)", "pos_embed": "(T, C)"}
BLOCK = {
    "resid_pre": "(B, T, C)",
    "ln_1": "(B, T, C)",
    "attn.q": "(B, H, T, D)",
    "attn.k": "(B, H, T, D)",
    "attn.v": "(B, H, T, D)",
    "attn.scores": "(B, H, T, S)",
    "attn.pattern": "(B, H, T, S)",
    "attn.z": "(B, H, T, D)",
    "attn_out": "(B, T, C)",
    "resid_mid": "(B, T, C)",
    "ln_2": "(B, T, C)",
    "mlp.pre": "(B, T, n_inner)",
    "mlp.post": "(B, T, n_inner)",
    "mlp_out": "(B, T, C)",
    "resid_post": "(B, T, C)",
}
OUTPUT = {"ln_f": "(B, T, C)"}


class Piece(NamedTuple):
    """A piece of the prompt, and how its bytes were merged into tokens."""

    data: bytes
    start: int  # position of its first token; negative if the prompt was cut inside this piece
    steps: list[list[bytes]]  # from `merge_steps`; empty for a piece of more than MAX_PIECE_BYTES


@dataclass(frozen=True, eq=False, repr=False)
class Analysis:
    """The numbers behind an explanation. This module's docstring lists the `arrays`."""

    model: Model
    tokens: np.ndarray  # (T,): the prompt's tokens, or the last ones of a long prompt
    n_prompt: int  # number of tokens of the whole prompt
    target: list[int]  # the tokens whose probability is explained
    pieces: list[Piece]  # those that `tokens` come from; may be empty, see `merged_pieces`
    arrays: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self.arrays:
            return self.arrays[name]
        nearest = "".join(f"; the nearest is {near!r}" for near in get_close_matches(str(name), self.arrays, n=1))
        raise KeyError(f"there is no array {name!r}{nearest}; keys() lists all names")

    def keys(self) -> KeysView[str]:
        """The names of all arrays."""
        return self.arrays.keys()

    @property
    def facts(self) -> str:
        """The model in one line."""
        weights, config, tokenizer = self.model
        name = os.fsencode(tokenizer.name).decode(errors="replace")  # a folder's name may hold any bytes
        parameters = sum(math.prod(array.shape) for array in weights.values())  # includes an untied head
        return (
            f"{name}: {config.n_layer} blocks of {config.n_head} heads, {config.n_embd:,} channels, a vocabulary of"
            f" {config.vocab_size:,} tokens, {parameters:,} parameters"
        )

    @property
    def notice(self) -> str:
        """A note that the prompt was cut, or nothing."""
        T = len(self.tokens)
        return f"the prompt has {self.n_prompt:,} tokens; this shows the last {T:,}" if self.n_prompt > T else ""

    @property
    def following(self) -> np.ndarray:
        """(T,): the token whose logit each position explains. It is the next one, and the target's first at the end."""
        return np.append(self.tokens[1:], self.target[0])

    def layers(self, name: str) -> np.ndarray:
        """A named result of all blocks, without the batch axis: (L, ...)."""
        return np.stack([self.arrays[f"h.{layer}.{name}"][0] for layer in range(self.model.config.n_layer)])

    def forward_steps(self, layers: int) -> Iterator[tuple[str, str, np.ndarray]]:
        """Name, shape in letters, and array of each named result, in order, through the first `layers` blocks."""
        blocks = {f"h.{layer}.{name}": letters for layer in range(layers) for name, letters in BLOCK.items()}
        for name, letters in {**EMBEDDINGS, **blocks, **OUTPUT}.items():
            yield name, letters, self[name]


def read_tokens(
    prompt: str, model: Model, target: str | Sequence[int] | None, max_tokens: int, taken: Sequence[int] = ()
) -> tuple[np.ndarray, int, list[int]]:
    """The tokens that are shown, the number of tokens of the whole prompt, and the target's tokens, if there is one."""
    config, tokenizer = model.config, model.tokenizer
    ids = [*prompt_ids(prompt, tokenizer), *taken]
    target_ids = tokenizer.encode_ordinary(target) if isinstance(target, str) else [*(target or ())]
    if target == "":
        raise ValueError("the target is empty; leave it out to explain the most probable next token")
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; it must be 1 or more")
    if len(target_ids) > config.n_positions:
        raise ValueError(f"the target has {len(target_ids)} tokens; the model's window has only {config.n_positions}")
    room = config.n_positions + 1 - max(1, len(target_ids))  # the model also reads the target, except its last token
    return np.array(ids[-min(max_tokens, room) :]), len(ids), target_ids


def analyze(
    prompt: str,
    model: Model,
    target: str | None,
    ablate: bool,
    max_tokens: int,
    hook: Hook = identity,
    progress: bool = False,
) -> Analysis:
    """Run a prompt through a model, and compute what an explanation shows. `explain` describes the arguments."""
    analysis = begin(prompt, model, target, max_tokens, hook=hook)
    for arrays in later_arrays(analysis):
        analysis.arrays.update(arrays)
    if ablate:
        steps = {"total": ablation_steps(model.config), "unit": "part", "desc": "ablation", "disable": not progress}
        for arrays in progress_bar(iterable=ablation(analysis, hook), **steps):
            analysis.arrays.update(arrays)
    return analysis


def begin(
    prompt: str,
    model: Model,
    target: str | Sequence[int] | None,
    max_tokens: int,
    taken: Sequence[int] = (),
    hook: Hook = identity,
) -> Analysis:
    """All of an analysis that needs no more time than the forward pass. `taken` are tokens that follow the prompt."""
    weights, config, _ = model
    tokens, n_prompt, target_ids = read_tokens(prompt, model, target, max_tokens, taken)
    arrays: dict[str, np.ndarray] = {}
    with product_threads(tokens, config):
        arrays["logits"] = forward(tokens, weights, config, hook=chain(hook, record(arrays)))
        if not np.isfinite(arrays["logits"]).all():
            reason = "the model's weights are damaged" if hook is identity else "the hook's changes are too large"
            raise ValueError(f"the logits are not finite; {reason}")
        target_ids = target_ids or [int(arrays["logits"][-1].argmax())]
        arrays["surprisal"] = surprisal(arrays["logits"], tokens)

        analysis = Analysis(model, tokens, n_prompt, target_ids, merged_pieces(prompt, model, tokens, taken), arrays)
        arrays["heads.norm"] = head_norms(analysis.layers("attn.z"), weights)
        arrays["heads.kinds"] = head_kinds(analysis.layers("attn.pattern"), tokens)
        arrays["neurons"], _ = largest(np.abs(analysis.layers("mlp.post")), N_NEURONS)
        arrays |= contributions(arrays, analysis.following, weights, config)
        if len(target_ids) == 1:
            log_p = -float(cross_entropy(arrays["logits"][-1:], target_ids))
        else:
            log_p = log_probability(tokens, target_ids, weights, config, hook)
        arrays["target.log_probability"] = np.array(log_p)
        return analysis


def later_arrays(a: Analysis) -> Iterator[dict[str, np.ndarray]]:
    """The rest of an analysis. It takes longer than the forward pass, so it is computed in small steps.

    Most steps yield nothing. The last step of the lens, the nearest tokens, and the last step of the promoted tokens
    yield arrays.
    """
    steps = later_steps(a)
    while True:
        with product_threads(a.tokens, a.model.config):
            arrays = next(steps, None)
        if arrays is None:
            return
        yield arrays


def later_steps(a: Analysis) -> Iterator[dict[str, np.ndarray]]:
    """The steps of `later_arrays`."""
    weights, config, _ = a.model
    L, T = config.n_layer, len(a.tokens)
    rows = []
    for scores in lens_logits(a):
        rows.append(read_out(scores, a.target[0]))
        yield {}
    tokens, p, p_target = (np.concatenate(column).reshape(L + 1, T, -1) for column in zip(*rows, strict=True))
    yield {"lens.tokens": tokens, "lens.probabilities": p, "lens.target": p_target[:, -1, 0]}
    cosines = cosine_similarity(a["h.0.resid_pre"][0], np.asarray(weights["wte.weight"]))
    yield dict(zip(("nearest.tokens", "nearest.cosines"), largest(cosines, N_NEAREST), strict=True))
    blocks = []
    for layer in range(config.n_layer):
        blocks.append(promoted_in_block(layer, a.arrays, weights, config))
        yield {}
    yield stacked(("heads.tokens", "neurons.tokens"), blocks)


def product_threads(tokens: np.ndarray, config: GPT2Config) -> AbstractContextManager[None]:
    """Inside this block, the products of a short prompt in a small model use one thread."""
    small = len(tokens) * config.n_embd**2 < SERIAL_MULTIPLY_ADDS
    return single_threaded_products() if small else nullcontext()


def stacked(names: Sequence[str], rows: list[tuple[Any, ...]]) -> dict[str, np.ndarray]:
    """The columns of a table, as arrays with these names."""
    return {name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


@lru_cache(maxsize=2)
def ranks_of(tokenizer: tiktoken.Encoding) -> dict[bytes, int]:
    """`token_ranks`, which takes longer than all merges of a prompt."""
    return token_ranks(tokenizer)


def merged_pieces(prompt: str, model: Model, tokens: np.ndarray, taken: Sequence[int] = ()) -> list[Piece]:
    """The pieces of the prompt that its last tokens come from, each with its merges. Taken tokens are pieces, too.

    The pieces of the prompt are left out for an empty prompt. They are also left out if the tokenizer cuts text by
    another rule, or by another version of Unicode: then their merges do not produce the prompt's tokens.
    """
    tokenizer, ranks = model.tokenizer, ranks_of(model.tokenizer)
    T = max(0, len(tokens) - len(taken))
    texts = {ranks[data]: data for data in map(tokenizer.decode_single_token_bytes, taken) if data in ranks}
    last = [
        Piece(texts[token], T + i, merge_steps(texts[token], ranks))
        for i, token in enumerate(tokens[T:].tolist())
        if token in texts
    ]
    found: list[Piece] = []
    ids: list[int] = []
    for text in reversed(pieces(prompt)):
        if len(ids) >= T:
            break
        piece = text.encode(errors="replace")
        steps = merge_steps(piece, ranks) if len(piece) <= MAX_PIECE_BYTES else []
        ids = ([ranks[part] for part in steps[-1]] if steps else tokenizer.encode_ordinary(text)) + ids
        found.append(Piece(piece, T - len(ids), steps))
    return [*(found[::-1] if ids[len(ids) - T :] == tokens[:T].tolist() else []), *last]


def norm(x: np.ndarray) -> np.ndarray:
    """|x|, the length of each position's vector. (..., C) -> (...). Masked scores, which are −inf, count as 0."""
    return np.linalg.norm(np.where(np.isneginf(x), 0, x), axis=-1)


def surprisal(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """−log₂ p(token | those before it), in bits. (T, V) and (T,) -> (T,).

    The first token has nan, because nothing precedes it. The mean, in nats, is the loss. Shannon 1948, "A Mathematical
    Theory of Communication", section 6.
    """
    losses = [cross_entropy(*pair) for pair in zip(logits[:-1], tokens[1:], strict=True)]
    return np.array([math.nan, *losses]) / math.log(2)


def cosine_similarity(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x · y / (|x| |y|), the cosine of the angle between the vectors of each pair. (T, C) and (V, C) -> (T, V)."""
    tiny = float(np.finfo(x.dtype).tiny)  # the cosine with a vector of zeros is 0
    return x @ y.T / np.maximum(np.sqrt(np.vecdot(x, x)[:, None] * np.vecdot(y, y)), tiny)


def head_norms(z: np.ndarray, weights: Weights) -> np.ndarray:
    """|z W|, the length of what each head adds to the residual stream. (L, H, T, D) -> (L, H, T).

    W is the head's own D rows of `attn.c_proj`. attn_out is the sum of all heads' z W, plus the bias. Elhage et al.
    2021, "A Mathematical Framework for Transformer Circuits", section "Attention heads are independent and additive".
    """
    L, H, _, D = z.shape
    projections = [np.asarray(weights[f"h.{layer}.attn.c_proj.weight"]).reshape(H, D, H * D) for layer in range(L)]
    return np.array([np.linalg.norm(z[layer] @ projections[layer], axis=-1) for layer in range(L)])


def lens(x: np.ndarray, weights: Weights, config: GPT2Config) -> np.ndarray:
    """logits(layer_norm(x)): the residual stream, read as if no block came after it. (..., C) -> (..., V).

    nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    return logits(layer_norm(x, weights["ln_f.weight"], weights["ln_f.bias"], config.layer_norm_epsilon), weights)


def lens_logits(a: Analysis) -> Iterator[np.ndarray]:
    """The lens for all positions before block 0, then before block 1, …, and at the end the model's own logits.

    A product of few rows takes nearly as long as one of many, so each part (N, V) may span several blocks.
    """
    for x in row_chunks(a.layers("resid_pre").reshape(-1, a.model.config.n_embd)):
        yield lens(x, a.model.weights, a.model.config)
    yield a["logits"]


def read_out(logits: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best tokens of each row (N, 10), their probabilities, and p(target) (N,)."""
    places, _ = largest(logits, N_LENS)
    listed = np.insert(places, 0, target, axis=-1)
    p = np.array([softmax(row)[tokens] for row, tokens in zip(logits, listed, strict=True)])  # a row fits in the cache
    return places, p[:, 1:], p[:, 0]


def log_probability(
    tokens: np.ndarray, target: list[int], weights: Weights, config: GPT2Config, hook: Hook = identity
) -> float:
    """ln p(target | tokens), in nats.

    For a target of several tokens, it is the sum of their log-probabilities. Each is given all tokens before it.
    """
    x = hidden_states([*tokens, *target[:-1]], weights, config, hook=hook)
    return -len(target) * float(cross_entropy(logits(x[-len(target) :], weights), target))


def ablation_steps(config: GPT2Config) -> int:
    """The number of heads and MLPs."""
    return config.n_layer * (config.n_head + 1)


def ablation(a: Analysis, hook: Hook = identity) -> Iterator[dict[str, np.ndarray]]:
    """How ln p(target | tokens) changes, in nats, when one head (L, H) or one MLP (L,) is removed.

    Each head and each MLP takes one forward pass and is one step. Each step but the last yields no arrays. The changes
    that `hook` makes stay in force.
    """
    weights, config, _ = a.model
    L, H = config.n_layer, config.n_head
    parts: list[Intervention] = [Head(layer, head) for layer in range(L) for head in range(H)]
    parts += [MLP(layer) for layer in range(L)]

    def change(part: Intervention) -> float:
        removed = chain(hook, make_hook([part], config, a))
        return log_probability(a.tokens, a.target, weights, config, removed) - float(a["target.log_probability"])

    changes = []
    for number in map_in_steps(change, parts):
        changes.append(number)
        if len(changes) < len(parts):
            yield {}
    found = np.array(changes)
    yield {"ablation.heads": found[: L * H].reshape(L, H), "ablation.mlps": found[L * H :]}
