"""The explanation as a page: page.html, page.css and script/ in one file, filled with data and source code."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..backward import ACTIVATIONS_BACKWARD
from ..checkpoint import Model
from ..config import GPT2Config
from ..model import ACTIVATIONS, causal_mask
from .analysis import BLOCK, EMBEDDINGS, MOST_BITS, OUTPUT, Analysis, Piece, norm
from .contributions import largest
from .size import MAX_BYTES, N_BINS, THUMBNAIL, check_size
from .visible import token_hex, token_text, visible

FOLDER = Path(__file__).parent
SCRIPTS = (  # in this order: each uses only those before it
    "data", "numbers", "state", "elements", "source", "tokens", "stream", "heads", "attention", "cell", "mlp", "lens",
    "sampling", "mattered", "overview", "page",
)  # fmt: skip
STATIC_SCRIPTS = (*SCRIPTS, "gradients", "embedded")  # the last one starts the page
FOOTER = "This file needs no other file and no network."
N_CANDIDATES = 200
AROUND_LAYER_NORMS = ("resid_pre", "ln_1", "resid_mid", "ln_2")


def page_html(a: Analysis) -> str:
    """The page, as one HTML file that loads nothing else. Raises ValueError if it would be larger than MAX_BYTES."""
    check_size(a.model.config, len(a.tokens), has_gradients(a))
    arrays = page_arrays(a)
    gradients = asset("gradients.html")
    page = filled(
        page_data(a, arrays, gradients),
        page_script(STATIC_SCRIPTS),
        ARRAYS=array_elements(arrays),
        GRADIENTS=gradients,
        FOOTER=FOOTER,
    )
    if len(page.encode()) > MAX_BYTES:
        raise ValueError(f"the page is {len(page.encode()) / 1e6:.0f} MB; it must be {MAX_BYTES // 10**6} MB at most")
    return page


def filled(data: dict[str, Any], script: str, style: str = "", policy: str = "", **contents: str) -> str:
    """page.html with its contents. `style` and `policy` are added to the page's own. The default of a content is ""."""
    style = asset("page.css") + style
    hashes = f"style-src '{content_hash(style)}'; script-src '{content_hash(script)}'"
    contents["POLICY"] = f"default-src 'none'; {hashes}; img-src data:{policy}"
    # A text that contains "</script>" must not end the element that holds the data.
    contents["DATA"] = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    contents |= {"STYLE": style, "SCRIPT": script}
    return re.sub("__([A-Z]+)__", lambda match: contents.get(match[1], ""), asset("page.html"))


def asset(name: str) -> str:
    """A file of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")


def page_script(names: Sequence[str]) -> str:
    """Modules of script/ as one script. Their names are global in it, so `import` and `export` are left out."""
    modules = "\n".join(asset(f"script/{name}.js") for name in names)
    return '"use strict";\n' + re.sub(r"^import [^;]*;\n|^export ", "", modules, flags=re.MULTILINE)


def content_hash(text: str) -> str:
    """The hash that allows this script or style in the page's Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def page_data(a: Analysis, arrays: dict[str, np.ndarray], section: str) -> dict[str, Any]:
    """What the scripts draw, besides the arrays. `section` is what the page has after the sections of page.html."""
    config = a.model.config
    merges = [merges_of(piece, a) for piece in a.pieces]
    parts = [token for piece in merges for step in piece["steps"] for token, _ in step]
    shown = {*a.tokens.tolist(), *a.target, *parts, *tokens_in(arrays)}
    return {
        "facts": a.facts,
        "scales": [config.attention_scale(layer) for layer in range(config.n_layer)],
        "epsilon": config.layer_norm_epsilon,
        "notice": a.notice,
        "text": a.model.tokenizer.decode(a.tokens.tolist()),
        "tokens": a.tokens.tolist(),
        "target": a.target,
        "most_bits": MOST_BITS,
        "most_candidates": min(N_CANDIDATES, config.vocab_size),
        "pieces": token_texts(shown, a.model),
        "bytes": [token_hex(token, a.model) for token in a.tokens],
        "merges": merges,
        "dimensions": dimensions(config, len(a.tokens)),
        "inner": config.inner_size,
        "weights": weight_lengths(a) if has_gradients(a) else {},
        "removed_edges": [edge for layer in range(config.n_layer) for edge in removed_edges(a, layer)],
        "steps": [[name, letters, array.shape] for name, letters, array in a.forward_steps(layers=1)],
        "sources": sources(asset("page.html") + section, config.activation_function),
    }


def weight_lengths(a: Analysis) -> dict[str, tuple[tuple[int, ...], float, float]]:
    """The shape of each weight, its length, and the length of its gradient."""
    return {
        name: (weight.shape, float(np.linalg.norm(np.asarray(weight))), float(a[f"gradient.weights.{name}"]))
        for name, weight in a.model.weights.items()
    }


def tokens_in(arrays: dict[str, np.ndarray]) -> set[int]:
    """The tokens whose texts the page needs for these arrays."""
    return {token for name, array in arrays.items() if name.endswith("tokens") for token in array.ravel().tolist()}


def token_texts(tokens: Iterable[int], model: Model) -> dict[int, str]:
    """The texts of tokens."""
    return {token: token_text(token, model) for token in sorted(tokens)}


def merges_of(piece: Piece, a: Analysis) -> dict[str, Any]:
    """A piece's merges. Each part is the token's id and its number of bytes."""
    encode = a.model.tokenizer.encode_single_token
    steps = [[(encode(part), len(part)) for part in step] for step in piece.steps]
    return {"text": visible(piece.data), "start": piece.start, "steps": steps}


def page_arrays(a: Analysis) -> dict[str, np.ndarray]:
    """The arrays that the scripts draw. Arrays that grow fastest with the prompt have 16 bits a number, see `coded`.

    Of the scores, only those that are not masked are stored, row after row. The weights are their softmax.
    """
    T, config = len(a.tokens), a.model.config
    pre, post = a.layers("mlp.pre"), a.layers("mlp.post")
    bins = np.linspace(pre.min(), pre.max(), N_BINS + 1)
    candidates, sorted_logits = largest(a["logits"][-1], config.vocab_size)
    kept = ("surprisal", "nearest.", "heads.", "neurons", "lens.", "target.", "ablation.", "direct.")
    return {
        **{name: array for name, array in a.arrays.items() if name.startswith(kept)},
        **{f"norm.{name}": norm(a[name]).reshape(T) for name in (*EMBEDDINGS, *OUTPUT)},
        **{f"norm.{name}": norm(a.layers(name)) for name in BLOCK},
        **{f"mean.{name}": a.layers(name).mean(axis=-1) for name in AROUND_LAYER_NORMS},
        **{f"std.{name}": a.layers(name).std(axis=-1) for name in AROUND_LAYER_NORMS},
        **{name: array for layer in range(config.n_layer) for name, array in layer_arrays(a, layer).items()},
        "heads.pictures": pictures(a.layers("attn.pattern"), THUMBNAIL),
        "neurons.pre": np.take_along_axis(pre, a["neurons"], axis=-1),
        "neurons.post": np.take_along_axis(post, a["neurons"], axis=-1),
        "pre.counts": np.apply_along_axis(lambda x: np.histogram(x, bins)[0], -1, pre).astype(np.uint16),
        "activation.x": bins,
        "activation.y": ACTIVATIONS[config.activation_function](bins),
        "next.tokens": candidates[:N_CANDIDATES],
        "next.logits": sorted_logits,  # of the whole vocabulary, because top-p needs the sum
        "next.rank": np.argmax(candidates == a.target[0]),  # the target's place in this order
        "next.chosen": a["logits"][np.arange(T), a.following],  # the logits that the direct contributions add up to
        **(gradient_arrays(a) if has_gradients(a) else {}),
    }


def has_gradients(a: Analysis) -> bool:
    """Whether the analysis has the arrays of gradients.py."""
    return "gradient.stream" in a.arrays


def gradient_arrays(a: Analysis) -> dict[str, np.ndarray]:
    """The arrays of the backward pass: the lengths of all gradients, and those of the attention weights in full."""
    T, L = len(a.tokens), a.model.config.n_layer
    arrays = {f"gradient.{name}": a[f"gradient.{name}"] for name in ("stream", "embeddings", "heads", "mlps")}
    arrays["norm.logits"] = norm(a["logits"])
    for name in (*EMBEDDINGS, *OUTPUT, "logits"):
        arrays[f"gradient.norm.{name}"] = norm(a[f"gradient.{name}"]).reshape(T)
    for name in BLOCK:
        arrays[f"gradient.norm.{name}"] = norm(np.stack([a[f"gradient.h.{layer}.{name}"][0] for layer in range(L)]))
    for layer in range(L):
        name = f"gradient.h.{layer}.attn.pattern"
        arrays[name], arrays[f"{name}.range"] = coded_rows(a[name][0])
    return arrays


def layer_arrays(a: Analysis, layer: int) -> dict[str, np.ndarray]:
    """One block's vectors and scores, named as the hook names them, and the weights of its layer norms."""
    arrays = {}
    for name in ("attn.q", "attn.k", "attn.v", "attn.scores"):
        key, code = f"h.{layer}.{name}", coded_rows if name == "attn.scores" else coded
        arrays[key], arrays[f"{key}.range"] = code(a[key][0])
    arrays |= {f"h.{layer}.{name}": a[f"h.{layer}.{name}"][0] for name in ("resid_pre", "resid_mid")}
    parts = [f"h.{layer}.{norm}.{part}" for norm in ("ln_1", "ln_2") for part in ("weight", "bias")]
    return arrays | {name: np.asarray(a.model.weights[name]) for name in parts}


def removed_edges(a: Analysis, layer: int) -> list[list[int]]:
    """The [layer, head, query, key] whose score is −∞ although it is not masked: a hook has removed this edge."""
    scores = a[f"h.{layer}.attn.scores"][0]
    removed = np.isneginf(scores) & causal_mask(*scores.shape[1:])
    return [[layer, *place] for place in np.argwhere(removed).tolist()]


def coded(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers as 16-bit codes: x ≈ low + step · code. (..., N) -> codes (..., N) and their low and step (..., 2).

    Each vector along the last axis has its own range, from its smallest to its largest number. The error is below 1e-5
    of this range. The softmax of scores needs this: 16-bit floating-point numbers above 8 differ by 0.0078.
    """
    low, high = x.min(axis=-1, keepdims=True), x.max(axis=-1, keepdims=True)
    step = (high - low) / 65535
    codes = np.round((x - low) / np.where(step > 0, step, 1)).astype(np.uint16)
    return codes, np.concatenate([low, step], axis=-1)


def coded_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`coded`, for the numbers of a (..., T, T) map that are not masked: row after row, (..., T (T + 1) / 2).

    A score of −∞, which a removed edge has, gets the code of the row's largest number.
    """
    allowed = causal_mask(x.shape[-1], x.shape[-1])
    finite = np.where(allowed, x, -np.inf)
    codes, ranges = coded(np.where(np.isneginf(finite), finite.max(axis=-1, keepdims=True), finite))
    return codes[..., allowed], ranges


def pictures(pattern: np.ndarray, size: int) -> np.ndarray:
    """Small pictures of attention maps, as bytes: the square root of the largest weight in each part of the map."""
    T = pattern.shape[-1]
    starts = np.arange(0, T, -(-T // size))
    largest_weights = np.maximum.reduceat(np.maximum.reduceat(pattern, starts, axis=-1), starts, axis=-2)
    return np.round(255 * np.sqrt(largest_weights)).astype(np.uint8)


def array_elements(arrays: dict[str, np.ndarray]) -> str:
    """Each array in an element of its own. The browser decodes an array when it is drawn for the first time."""
    return "\n".join(array_element(name, array) for name, array in arrays.items())


def array_element(name: str, array: np.ndarray) -> str:
    """An array as an element of the page."""
    e = encoded(array)
    attributes = f'data-array="{name}" data-kind="{e["kind"]}" data-axes="{e["axes"]}"'
    return f'<script type="text/plain" {attributes}>{e["numbers"]}</script>'


def encoded(array: np.ndarray) -> dict[str, str]:
    """An array's type and shape, and its numbers in base64. Numbers of more than 16 bits get 32."""
    kind = array.dtype.str[1:]
    kind = kind if kind in ("u1", "u2") else "u4" if array.dtype.kind in "iu" else "f4"
    numbers = base64.b64encode(array.astype(f"<{kind}").tobytes()).decode()
    return {"kind": kind, "axes": " ".join(map(str, array.shape)), "numbers": numbers}


def dimensions(c: GPT2Config, T: int) -> dict[str, int]:
    """The sizes that the code's letters stand for, with this model and T tokens."""
    sizes = (1, T, T, c.n_embd, c.n_head, c.n_embd // c.n_head, c.vocab_size, c.n_layer)
    return dict(zip("BTSCHDVL", sizes, strict=True))


def sources(template: str, activation_name: str) -> dict[str, dict[str, str]]:
    """The source of each function that a template names. "activation" is the model's activation function."""
    activation = ACTIVATIONS[activation_name]
    own = {"activation": activation, "activation_backward": ACTIVATIONS_BACKWARD[activation]}
    names = re.findall(r'data-source="([\w.]+)"', template)
    return {name: source(own[name] if name in own else function_named(name)) for name in names}


def function_named(name: str) -> Callable[..., Any]:
    """A function of this package: "model.attention"."""
    module, _, function = name.rpartition(".")
    return getattr(import_module(f"..{module}", __package__), function)


@lru_cache(maxsize=100)
def source(function: Callable[..., Any]) -> dict[str, str]:
    """The source of a function, and its equation."""
    function = inspect.unwrap(function)
    lines, number = inspect.getsourcelines(function)
    path, package = Path(inspect.getfile(function)), FOLDER.parents[1]
    path = path.relative_to(package) if path.is_relative_to(package) else Path(path.name)  # a learner's own file
    first_line, *_ = (inspect.getdoc(function) or "").split("\n\n")
    equation, *_ = re.split(r"\. (?=\(|Any shape)", first_line)  # the shapes that follow it are left out
    return {
        "name": function.__name__,
        "code": "".join(lines),
        "where": f"{path.as_posix()}, line {number}",
        "equation": equation.rstrip(".").replace("`", ""),
    }
