"""The explanation as a page: page.html, page.css and page.js in one file, filled with data and source code."""

from __future__ import annotations

import base64
import inspect
import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..config import GPT2Config
from ..model import ACTIVATIONS, causal_mask
from .analysis import BLOCK, EMBEDDINGS, MOST_BITS, OUTPUT, Analysis, Piece, largest, norm
from .visible import token_hex, token_text, visible

FOLDER = Path(__file__).parent
N_CANDIDATES, N_BINS = 200, 48
AROUND_LAYER_NORMS = ("resid_pre", "ln_1", "resid_mid", "ln_2")


def page_html(a: Analysis) -> str:
    """The page, as one HTML file that loads nothing else."""
    template = asset("page.html")
    # A text that contains "</script>" must not end the element that holds the data.
    data = json.dumps(page_data(a, template), ensure_ascii=False).replace("<", "\\u003c")
    contents = {"STYLE": asset("page.css"), "DATA": data, "SCRIPT": asset("page.js")}
    return re.sub("__(STYLE|DATA|SCRIPT)__", lambda match: contents[match[1]], template)


def asset(name: str) -> str:
    """A file of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")


def page_data(a: Analysis, template: str) -> dict[str, Any]:
    """Everything that page.js draws. The template names the functions whose source it shows."""
    config, arrays = a.model.config, page_arrays(a)
    merges = [merges_of(piece, a) for piece in a.pieces]
    parts = [token for piece in merges for step in piece["steps"] for token, _ in step]
    shown = {*a.tokens.tolist(), *a.target, *parts}
    shown.update(*(array.ravel().tolist() for name, array in arrays.items() if name.endswith("tokens")))
    return {
        "facts": a.facts,
        "scales": [config.attention_scale(layer) for layer in range(config.n_layer)],
        "notice": a.notice,
        "text": a.model.tokenizer.decode(a.tokens.tolist()),
        "tokens": a.tokens.tolist(),
        "target": a.target,
        "most_bits": MOST_BITS,
        "pieces": {token: token_text(token, a.model) for token in sorted(shown)},
        "bytes": [token_hex(token, a.model) for token in a.tokens],
        "merges": merges,
        "dimensions": dimensions(a),
        "inner": config.inner_size,
        "steps": [[name, letters, array.shape] for name, letters, array in a.forward_steps(layers=1)],
        "sources": {name: source(name, config) for name in re.findall(r'data-source="([\w.]+)"', template)},
        "arrays": {name: packed(array) for name, array in arrays.items()},
    }


def merges_of(piece: Piece, a: Analysis) -> dict[str, Any]:
    """A piece's merges. Each part is the token's id and its number of bytes."""
    encode = a.model.tokenizer.encode_single_token
    steps = [[(encode(part), len(part)) for part in step] for step in piece.steps]
    return {"text": visible(piece.data), "start": piece.start, "steps": steps}


def page_arrays(a: Analysis) -> dict[str, np.ndarray]:
    """The arrays that page.js draws. Attention maps are stored as their lower triangles, row after row."""
    T, config = len(a.tokens), a.model.config
    pre, post = a.layers("mlp.pre"), a.layers("mlp.post")
    bins = np.linspace(pre.min(), pre.max(), N_BINS + 1)
    candidates, sorted_logits = largest(a["logits"][-1], config.vocab_size)
    allowed = causal_mask(T, T)
    unchanged = ("surprisal", "nearest.", "heads.norm", "neurons", "lens.", "target.", "ablation.")
    return {
        **{name: array for name, array in a.arrays.items() if name.startswith(unchanged)},
        **{f"norm.{name}": norm(a[name]).reshape(T) for name in (*EMBEDDINGS, *OUTPUT)},
        **{f"norm.{name}": norm(a.layers(name)) for name in BLOCK},
        **{f"mean.{name}": a.layers(name).mean(axis=-1) for name in AROUND_LAYER_NORMS},
        **{f"std.{name}": a.layers(name).std(axis=-1) for name in AROUND_LAYER_NORMS},
        "scores": a.layers("attn.scores")[..., allowed],
        "pattern": a.layers("attn.pattern")[..., allowed],
        "neurons.pre": np.take_along_axis(pre, a["neurons"], axis=-1),
        "neurons.post": np.take_along_axis(post, a["neurons"], axis=-1),
        "pre.counts": np.apply_along_axis(lambda x: np.histogram(x, bins)[0], -1, pre),
        "activation.x": bins,
        "activation.y": activation(config)(bins),
        "next.tokens": candidates[:N_CANDIDATES],
        "next.logits": sorted_logits,  # of the whole vocabulary, because top-p needs the sum
        "next.rank": np.argmax(candidates == a.target[0]),  # the target's place in this order
    }


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array as JSON: its numbers as 32 bits each, in base64."""
    dtype = "<u4" if array.dtype.kind in "iu" else "<f4"
    data = base64.b64encode(array.astype(dtype).tobytes()).decode()
    return {"dtype": dtype, "shape": array.shape, "data": data}


def dimensions(a: Analysis) -> dict[str, int]:
    """The sizes that the code's letters stand for, with this prompt and this model."""
    T, c = len(a.tokens), a.model.config
    sizes = (1, T, T, c.n_embd, c.n_head, c.n_embd // c.n_head, c.vocab_size, c.n_layer)
    return dict(zip("BTSCHDVL", sizes, strict=True))


def activation(config: GPT2Config) -> Callable[[np.ndarray], np.ndarray]:
    """The model's activation function."""
    return ACTIVATIONS[config.activation_function]


def source(name: str, config: GPT2Config) -> dict[str, str]:
    """The source of a function, such as "model.attention" or the model's "activation", and its equation."""
    module, _, function_name = name.rpartition(".")
    function = getattr(import_module(f"..{module}", __package__), function_name) if module else activation(config)
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
