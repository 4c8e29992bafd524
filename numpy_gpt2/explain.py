"""One prompt, walked through the code: `python -m numpy_gpt2.explain "PROMPT"` writes a page that shows it.

A hook records every intermediate result of one `forward`; here are the few things that are computed from those, and
their way onto the page. The page is `explain.html`, with the numbers and the functions' own source put into it.

The arrays of an `Explanation`, by name:

    embed … ln_f                            what the hook recorded, with its names: "h.3.attn.pattern", (1, H, T, S)
    logits (T, V)                           what `forward` returned
    surprisal (T,)                          how unexpected each token was, in bits; nan for the first
    nearest.tokens, .cosines (T, 5)         the tokens whose embeddings are most like what goes into the first block
    heads.norm (L, H, T)                    the length of what each head adds to the residual stream
    neurons (L, T, 8)                       which of the MLP's activations are the largest, by magnitude
    lens.tokens, .probabilities (L+1, T, 10)
                                            what the model would say if it ended before block 0, 1, …, or where it does
    lens.target (L+1,)                      the probability of the target's first token, there and at the last position
    target.log_probability ()               ln p(target | tokens), in nats
    ablation.heads (L, H), .mlps (L,)       how that changes without one head, and without one MLP
"""

from __future__ import annotations

import base64
import inspect
import json
import math
import os
import re
import shutil
import sys
import unicodedata
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import Model, load
from .cli import Parser, exit_status, nonempty_text, positive_int, read_prompt
from .config import GPT2Config
from .console import print_stderr, progress_bar, write
from .files import staged_writes
from .hub import choose_model
from .model import (
    ACTIVATIONS,
    causal_mask,
    cross_entropy,
    forward,
    hidden_states,
    identity,
    layer_norm,
    logits,
    record,
    softmax,
)
from .threads import thread_pool
from .tokenizer import prompt_ids
from .weights import Weights

Hook = Callable[[str, np.ndarray], np.ndarray]

TEMPLATE = Path(__file__).with_suffix(".html")
PLACE = "__DATA__"  # in the template
PAGE = "explain.html"  # the page that is made, by default

MAX_TOKENS = 64  # by default; attention's maps grow with the square
N_NEAREST, N_LENS, N_NEURONS, N_CANDIDATES, N_BINS = 5, 10, 8, 200, 48

# The named results and their shapes, in the order of the forward pass; the second ones once in every block.
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
AROUND_LAYER_NORMS = ("resid_pre", "ln_1", "resid_mid", "ln_2")

MOST_BITS = 16  # where bars of surprisal end

SIGNS = {" ": "·", "\n": "⏎", "\r": "␍", "\t": "⇥"}
# What has no width or no ink, though its category is that of a letter, a mark or a symbol.
BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")

TARGET_HELP = """the text whose probability is explained, with the space before it (default: the most probable next
token)"""

EXAMPLES = """\
examples:
  python -m numpy_gpt2.explain "The cat sat on the" --open
  python -m numpy_gpt2.explain "Paris is in" --target " France" --ablate
  python -m numpy_gpt2.explain -m shakespeare --text "To be, or not to"
"""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """What one prompt did in one model: see the module's docstring for `arrays`."""

    model: Model
    tokens: np.ndarray  # (T,), the prompt's, or its last ones
    n_prompt: int  # how many tokens the prompt has
    target: list[int]  # the tokens that are looked for: the given text's, or the most probable next one
    arrays: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    @property
    def facts(self) -> str:
        """The model in one line."""
        weights, config, tokenizer = self.model
        name = os.fsencode(tokenizer.name).decode(errors="replace")  # a folder's may be any bytes
        parameters = sum(math.prod(array.shape) for array in weights.values())  # a head of its own is one, too
        return (
            f"{name}: {config.n_layer} blocks of {config.n_head} heads, {config.n_embd:,} channels, a vocabulary of"
            f" {config.vocab_size:,} tokens, {parameters:,} parameters"
        )

    def layers(self, name: str) -> np.ndarray:
        """A block's result, of all blocks and without the batch: (L, ...)."""
        return np.stack([self.arrays[f"h.{layer}.{name}"][0] for layer in range(self.model.config.n_layer)])

    @property
    def notice(self) -> str:
        """What is said about a prompt that is not shown in whole."""
        T = len(self.tokens)
        return f"the prompt has {self.n_prompt:,} tokens; this is about the last {T:,}" if self.n_prompt > T else ""

    def page(self) -> str:
        """The page, HTML that needs nothing else."""
        template = TEMPLATE.read_text(encoding="utf-8")
        data = json.dumps(page_data(self, template), ensure_ascii=False)
        return template.replace(PLACE, data.replace("<", "\\u003c"))  # so that no text in it can end the element

    def _repr_html_(self) -> str:
        """The page in a notebook, in a frame of its own."""
        return f'<iframe srcdoc="{escape(self.page())}" style="width: 100%; height: 50rem; border: 0"></iframe>'

    def text(self, width: int = 100) -> str:
        """The same story for a terminal of this width."""
        return "\n".join(line.rstrip() for line in text_report(self, width)) + "\n"


def explain(
    prompt: str,
    model: Model | str | Path,
    *,
    target: str | None = None,
    ablate: bool = False,
    max_tokens: int = MAX_TOKENS,
    progress: bool = False,
) -> Explanation:
    """Send a prompt through a model and keep all that can be shown of it.

    `model` is what `load` returned, or the name that it takes. A prompt of more than `max_tokens` is cut from the left.
    `target` is the text whose probability is explained, by default the most probable next token; with `ablate`, each
    head and each MLP is removed in turn to see what that changes. Raises ValueError for an empty target, one that does
    not fit the window, and for damaged weights.
    """
    if not isinstance(model, Model):
        model = load(model)
    weights, config, tokenizer = model
    ids, wanted = prompt_ids(prompt, tokenizer), [] if target is None else tokenizer.encode_ordinary(target)
    if target == "":
        raise ValueError("the target is empty; leave it out to explain the most probable next token")
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; it must be 1 or more")
    if len(wanted) > config.n_positions:
        raise ValueError(f"the target has {len(wanted)} tokens, the model's window only {config.n_positions}")
    room = config.n_positions + 1 - max(1, len(wanted))  # all but the target's last token are read, too
    tokens = np.array(ids[-min(max_tokens, room) :])

    arrays: dict[str, np.ndarray] = {}
    arrays["logits"] = forward(tokens, weights, config, hook=record(arrays))
    if not np.isfinite(arrays["logits"]).all():
        raise ValueError("the logits are not finite; the model's weights are damaged")
    wanted = wanted or [int(arrays["logits"][-1].argmax())]
    arrays["surprisal"] = surprisal(arrays["logits"], tokens)
    cosines = cosine_similarity(arrays["h.0.resid_pre"][0], np.asarray(weights["wte.weight"]))
    arrays["nearest.tokens"], arrays["nearest.cosines"] = largest(cosines, N_NEAREST)

    explanation = Explanation(model, tokens, len(ids), wanted, arrays)
    arrays["heads.norm"] = head_norms(explanation.layers("attn.z"), weights)
    arrays["neurons"], _ = largest(np.abs(explanation.layers("mlp.post")), N_NEURONS)
    rows = [read_out(scores, wanted[0]) for scores in lens_logits(explanation)]
    for name, values in zip(("tokens", "probabilities", "target"), zip(*rows, strict=True), strict=True):
        arrays[f"lens.{name}"] = np.array(values)
    arrays["target.log_probability"] = np.array(log_probability(tokens, wanted, weights, config))
    if ablate:
        arrays["ablation.heads"], arrays["ablation.mlps"] = ablation(explanation, progress)
    return explanation


def largest(x: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n largest along the last axis, in order, equal ones in the order of their places: places, values."""
    n = min(n, x.shape[-1])
    places = np.sort(np.argpartition(x, -n, axis=-1)[..., -n:])
    order = np.argsort(-np.take_along_axis(x, places, axis=-1), axis=-1, kind="stable")
    places = np.take_along_axis(places, order, axis=-1)
    return places, np.take_along_axis(x, places, axis=-1)


def surprisal(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """−log₂ p(token | those before it), in bits. (T, V) and (T,) -> (T,); nan for the first, which nothing precedes.

    Shannon 1948, "A Mathematical Theory of Communication", section 6. Its mean is the loss, but in nats.
    """
    losses = [cross_entropy(*pair) for pair in zip(logits[:-1], tokens[1:], strict=True)]
    return np.array([math.nan, *losses]) / math.log(2)


def cosine_similarity(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x · y / (|x| |y|), of all pairs: the cosine of the angle between them. (T, C) and (V, C) -> (T, V)."""
    tiny = float(np.finfo(x.dtype).tiny)  # the cosine with a vector of zeros is 0
    return x @ y.T / np.maximum(np.sqrt(np.vecdot(x, x)[:, None] * np.vecdot(y, y)), tiny)


def head_norms(z: np.ndarray, weights: Weights) -> np.ndarray:
    """|z W|, with W the head's own rows of `attn.c_proj`: how much each head writes. (L, H, T, D) -> (L, H, T).

    attn_out is the sum of what the heads write, and the bias. Elhage et al. 2021, "A Mathematical Framework for
    Transformer Circuits", section "Attention heads are independent and additive".
    """
    L, H, _, D = z.shape
    projections = [np.asarray(weights[f"h.{layer}.attn.c_proj.weight"]).reshape(H, D, H * D) for layer in range(L)]
    return np.array([np.linalg.norm(z[layer] @ projections[layer], axis=-1) for layer in range(L)])


def lens(x: np.ndarray, weights: Weights, config: GPT2Config) -> np.ndarray:
    """logits(layer_norm(x)): the residual stream, read as if no block came after it. (..., C) -> (..., V).

    nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    return logits(layer_norm(x, weights["ln_f.weight"], weights["ln_f.bias"], config.layer_norm_epsilon), weights)


def lens_logits(e: Explanation) -> Iterator[np.ndarray]:
    """The logits (T, V) before block 0, 1, …; and where the model ends, its own."""
    for layer in range(e.model.config.n_layer):
        yield lens(e[f"h.{layer}.resid_pre"][0], e.model.weights, e.model.config)
    yield e["logits"]


def read_out(logits: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray, float]:
    """A row of the lens: each position's most probable tokens, how probable, and the target after the last position."""
    places, _ = largest(logits, N_LENS)
    p = softmax(logits)
    return places, np.take_along_axis(p, places, axis=-1), float(p[-1, target])


def log_probability(
    tokens: np.ndarray, target: list[int], weights: Weights, config: GPT2Config, hook: Hook = identity
) -> float:
    """ln p(target | tokens), in nats: of several tokens, the sum, each given those before it."""
    x = hidden_states([*tokens, *target[:-1]], weights, config, hook=hook)
    return -len(target) * float(cross_entropy(logits(x[-len(target) :], weights), target))


def without(name: str, part: int | slice = slice(None)) -> Hook:
    """The hook that removes a result, or a part of it along the second axis: zeros go on in its place."""

    def hook(at: str, value: np.ndarray) -> np.ndarray:
        if at == name:
            value = value.copy()
            value[:, part] = 0
        return value

    return hook


def ablation(e: Explanation, progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """How much more or less probable the target is without each head, (L, H), and without each MLP, (L,): in nats.

    The change of ln p(target | tokens). One forward pass for each of them.
    """
    weights, config, _ = e.model
    L, H = config.n_layer, config.n_head
    hooks = [without(f"h.{layer}.attn.z", head) for layer in range(L) for head in range(H)]
    hooks += [without(f"h.{layer}.mlp_out") for layer in range(L)]
    with thread_pool() as pool:
        results = pool.map(lambda hook: log_probability(e.tokens, e.target, weights, config, hook), hooks)
        bar = progress_bar(iterable=results, total=len(hooks), unit="part", desc="ablation", disable=not progress)
        changes = np.array([*bar]) - e["target.log_probability"]
    return changes[: L * H].reshape(L, H), changes[L * H :]


def visible(token: bytes) -> str:
    """A token as text of which everything can be seen: spaces, line ends, bytes that are only a part of a character."""
    text = token.decode("utf-8", "surrogateescape")
    base = "◌" if text and unicodedata.category(text[0])[0] == "M" else ""  # for an accent to stand on
    return base + "".join(map(visible_character, text))


def visible_character(c: str) -> str:
    """One character, or the sign for what would not be seen."""
    if c in SIGNS:
        return SIGNS[c]
    if "\udc80" <= c <= "\udcff":  # how surrogateescape spells a byte
        return f"⟨{ord(c) - 0xDC00:02X}⟩"
    if unicodedata.category(c)[0] in "CZ" or BLANK.match(c) or c in SIGNS.values():  # the last stand for others here
        return f"⟨U+{ord(c):04X}⟩"
    return c


def token_bytes(token: int, model: Model) -> bytes | None:
    """What a token stands for; None where the vocabulary is padded with ids that stand for nothing."""
    try:
        return model.tokenizer.decode_single_token_bytes(token)
    except KeyError:
        return None


def hexadecimal(token: int, model: Model) -> str:
    """A token's bytes, as numbers."""
    return (token_bytes(token, model) or b"").hex(" ")


def token_text(token: int, model: Model) -> str:
    """A token as text that can be seen."""
    piece = token_bytes(token, model)
    return f"⟨unused {token}⟩" if piece is None else visible(piece)


def norm(x: np.ndarray) -> np.ndarray:
    """|x|, the length of each position's vector. (..., C) -> (...). Of scores, it is that of those which count."""
    return np.linalg.norm(np.where(np.isneginf(x), 0, x), axis=-1)


def activation(config: GPT2Config) -> Callable[[np.ndarray], np.ndarray]:
    """The model's activation function."""
    return ACTIVATIONS[config.activation_function]


def page_arrays(e: Explanation) -> dict[str, np.ndarray]:
    """What the page draws. Attention's maps come as their lower triangles, row after row."""
    T, config = len(e.tokens), e.model.config
    pre = e.layers("mlp.pre")
    bins = np.linspace(pre.min(), pre.max(), N_BINS + 1)
    candidates, sorted_logits = largest(e["logits"][-1], config.vocab_size)
    allowed = causal_mask(T, T)
    shared = ("surprisal", "nearest.", "heads.norm", "neurons", "lens.", "target.", "ablation.")
    return {
        **{name: array for name, array in e.arrays.items() if name.startswith(shared)},
        **{f"norm.{name}": norm(e[name]).reshape(T) for name in (*EMBEDDINGS, *OUTPUT)},
        **{f"norm.{name}": norm(e.layers(name)) for name in BLOCK},
        **{f"mean.{name}": e.layers(name).mean(axis=-1) for name in AROUND_LAYER_NORMS},
        **{f"std.{name}": e.layers(name).std(axis=-1) for name in AROUND_LAYER_NORMS},
        "scores": e.layers("attn.scores")[..., allowed],
        "pattern": e.layers("attn.pattern")[..., allowed],
        "neurons.pre": np.take_along_axis(pre, e["neurons"], axis=-1),
        "neurons.post": np.take_along_axis(e.layers("mlp.post"), e["neurons"], axis=-1),
        "pre.counts": np.apply_along_axis(lambda x: np.histogram(x, bins)[0], -1, pre),
        "activation.x": bins,
        "activation.y": activation(config)(bins),
        "next.tokens": candidates[:N_CANDIDATES],
        "next.logits": sorted_logits,  # all of them: a cut by probability needs their sum
        "next.rank": np.argmax(candidates == e.target[0]),  # the target's place among them
    }


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array for the page, its numbers in 32 bits."""
    dtype = "<u4" if array.dtype.kind in "iu" else "<f4"
    data = base64.b64encode(array.astype(dtype).tobytes()).decode()
    return {"dtype": dtype, "shape": array.shape, "data": data}


def page_data(e: Explanation, template: str) -> dict[str, Any]:
    """All that is put into the page's template, which says of which functions it shows the source."""
    config, arrays = e.model.config, page_arrays(e)
    tokens = np.concatenate([e.tokens, e.target, *(a.ravel() for name, a in arrays.items() if name.endswith("tokens"))])
    return {
        "facts": e.facts,
        "scales": [config.attention_scale(layer) for layer in range(config.n_layer)],
        "notice": e.notice,
        "text": e.model.tokenizer.decode(e.tokens.tolist()),
        "tokens": e.tokens.tolist(),
        "target": e.target,
        "most_bits": MOST_BITS,
        "pieces": {int(token): token_text(token, e.model) for token in np.unique(tokens)},
        "bytes": [hexadecimal(token, e.model) for token in e.tokens],
        "dimensions": dimensions(e),
        "inner": config.inner_size,
        "steps": [[name, letters, array.shape] for name, letters, array in steps(e, layers=1)],
        "sources": {name: source(name, config) for name in re.findall(r'data-source="([\w.]+)"', template)},
        "arrays": {name: packed(array) for name, array in arrays.items()},
    }


def dimensions(e: Explanation) -> dict[str, int]:
    """The letters of the code, with this prompt's and this model's numbers."""
    T, c = len(e.tokens), e.model.config
    sizes = (1, T, T, c.n_embd, c.n_head, c.n_embd // c.n_head, c.vocab_size, c.n_layer)
    return dict(zip("BTSCHDVL", sizes, strict=True))


def steps(e: Explanation, layers: int) -> Iterator[tuple[str, str, np.ndarray]]:
    """The named results in the order of the forward pass, through so many blocks: name, shape in letters, array."""
    blocks = {f"h.{layer}.{name}": letters for layer in range(layers) for name, letters in BLOCK.items()}
    for name, letters in {**EMBEDDINGS, **blocks, **OUTPUT}.items():
        yield name, letters, e[name]


def source(name: str, config: GPT2Config) -> dict[str, str]:
    """A function, "model.attention" or the model's "activation", as it is written, and its docstring's equation."""
    module, _, function_name = name.rpartition(".")
    function = getattr(import_module(f".{module}", __package__), function_name) if module else activation(config)
    lines, number = inspect.getsourcelines(function)
    path = Path(inspect.getfile(function))
    first_line, *_ = (inspect.getdoc(function) or "").split("\n\n")
    equation, *_ = re.split(r"\. (?=\(|Any shape)", first_line)  # without what it says of shapes
    return {
        "name": function.__name__,
        "code": "".join(lines),
        "where": f"{path.parent.name}/{path.name}, line {number}",
        "equation": equation.rstrip(".").replace("`", ""),
    }


def text_report(e: Explanation, width: int) -> Iterator[str]:
    """The lines of `Explanation.text`."""
    config, pieces = e.model.config, [token_text(token, e.model) for token in e.tokens]
    yield e.facts
    if e.notice:
        yield e.notice

    how_unexpected = f"how unexpected each was after those before it, −log₂ p, in bits; bars end at {MOST_BITS}"
    yield from heading("Tokens: position, id, bytes", how_unexpected)
    for position, (token, piece, bits) in enumerate(zip(e.tokens, pieces, e["surprisal"], strict=True)):
        surprise = "" if position == 0 else f"{bits:6.2f}  {bar(bits / MOST_BITS)}"
        yield f"{position:>4}{token:>7}  {fit(piece, 16)}{fit(hexadecimal(token, e.model), 24)}{surprise}"

    yield from heading("Forward", "every named result: its shape, and the mean length of its vectors (the last axis)")
    for name, letters, array in steps(e, config.n_layer):
        if name.endswith("resid_pre") or name in OUTPUT:
            yield ""
        yield f"{name:<19}{letters:<18}{' × '.join(map(str, array.shape)):<21}{norm(array).mean():>10,.4g}"

    shown = range(max(0, len(pieces) - max(1, (width - 12) // 18)), len(pieces))
    which = "" if len(shown) == len(pieces) else f", at the last {len(shown)} of {len(pieces)} positions"
    yield from heading("Logit lens", f"what the model would say next if it ended there{which}")
    yield " " * 12 + "".join(fit(pieces[t], 18) for t in shown)
    for row, (tokens, p) in enumerate(zip(e["lens.tokens"], e["lens.probabilities"], strict=True)):
        cells = (f"{fit(token_text(tokens[t, 0], e.model), 10)}{p[t, 0]:>6.1%}  " for t in shown)
        yield f"{f'h.{row - 1}' if row else 'embeddings':<12}{''.join(cells)}"

    target = "".join(token_text(token, e.model) for token in e.target)
    log_p = float(e["target.log_probability"])
    probability = f"ln p({target}) = {log_p:.3f} nats, p = {math.exp(log_p):.3g}"
    yield from heading("The next token", f"the most probable ones at temperature 1; {probability}")
    candidates = dict(zip(e["lens.tokens"][-1, -1].tolist(), e["lens.probabilities"][-1, -1], strict=True))
    for token, p in (candidates | {e.target[0]: e["lens.target"][-1]}).items():
        mark = "  ← the target" + (", its first token" if len(e.target) > 1 else "") if token == e.target[0] else ""
        yield f"{token:>7}  {fit(token_text(token, e.model), 16)}{p:7.2%}  {bar(p)}{mark}"
    if "ablation.heads" in e.arrays:
        yield from heading("What mattered", f"the change of ln p({target}) when a head or an MLP is removed, in nats")
        yield " " * 8 + "".join(f"{f'head {head}':>9}" for head in range(config.n_head)) + f"{'MLP':>9}"
        for layer, (heads, change) in enumerate(zip(e["ablation.heads"], e["ablation.mlps"], strict=True)):
            yield f"{f'h.{layer}':<8}" + "".join(f"{x:>+9.3f}" for x in [*heads, change])


def heading(title: str, what: str) -> list[str]:
    return ["", title.upper(), what, ""]


def bar(share: float) -> str:
    """A bar of up to 40 characters."""
    return "█" * round(40 * min(share, 1))


def fit(text: str, width: int) -> str:
    """Text in a column of a terminal, where characters of East Asia take the place of two; cut if it is too long."""
    kept = ""
    for c in text:
        if columns(kept + c) > width - 2:
            kept += "…"
            break
        kept += c
    return kept + " " * (width - columns(kept))


def columns(text: str) -> int:
    return sum((unicodedata.east_asian_width(c) in "WF") + (not unicodedata.combining(c)) for c in text)


def command(argv: list[str] | None) -> int:
    """Do what the command line says. Returns the exit status."""
    parser = Parser(
        prog="python -m numpy_gpt2.explain",
        usage="%(prog)s [options] [PROMPT]",
        description="Show a prompt going through GPT-2, step by step, on a page that needs nothing but a browser.",
        epilog=EXAMPLES,
    )
    parser.add_prompt("the text to explain")
    parser.add_model()
    add = parser.add_argument
    add("-o", "--output", metavar="PAGE.html", help=f"where the page goes (default: {PAGE})")
    add("--open", action="store_true", help="open the page in the browser")
    add("--target", metavar="TEXT", type=nonempty_text, help=TARGET_HELP)
    add("--ablate", action="store_true", help="remove each head and each MLP in turn, to see what mattered")
    add("--text", action="store_true", help="print the story here, and make no page")
    add(
        "--max-tokens",
        metavar="N",
        type=positive_int,
        default=MAX_TOKENS,
        help=f"of the prompt (default: {MAX_TOKENS})",
    )
    arguments = parser.parse_args(argv)
    parser.check_prompt(arguments.prompt)
    if arguments.text and (arguments.output is not None or arguments.open):
        parser.error("--text makes no page: leave it out, or -o and --open")

    path = None if arguments.text else page_path(PAGE if arguments.output is None else arguments.output)
    prompt = read_prompt(arguments.prompt)
    explanation = explain(
        prompt,
        load(choose_model(arguments.model)),
        target=arguments.target,
        ablate=arguments.ablate,
        max_tokens=arguments.max_tokens,
        progress=True,
    )
    if explanation.notice:
        chosen = len(explanation.tokens) == arguments.max_tokens
        print_stderr(f"note: {explanation.notice}; {'--max-tokens changes that' if chosen else 'it fills the window'}")
    if path is None:
        write(explanation.text(shutil.get_terminal_size((100, 24)).columns))
        return 0
    page = explanation.page()
    with staged_writes(path.parent) as aside:
        (aside / path.name).write_text(page, encoding="utf-8")
    write(f"{path}\n")
    if arguments.open and not webbrowser.open(path.as_uri()):
        print_stderr("note: no browser was found to open it with")
    return 0


def page_path(name: str) -> Path:
    """Where a page goes. Raises ValueError if none can be written there, before anything is computed for it."""
    path = Path(os.path.realpath(name))
    folder = next(parent for parent in path.parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)) or (path.exists() and not path.is_file()):
        raise ValueError(f"{path} cannot be written; give the page another place with -o")
    return path


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    return exit_status(lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
