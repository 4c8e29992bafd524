"""The table of a model's parameters that `python -m numpy_gpt2 --params` prints."""

from __future__ import annotations

import math

from . import hub
from .config import RELEASED_SIZES, GPT2Config
from .console import write
from .model_files import Parts

# The components, and the part of a parameter's name that shows which one it belongs to.
COMPONENTS = {
    "token embedding": "wte.",
    "position embedding": "wpe.",
    "attention": ".attn.",
    "MLP": ".mlp.",
    "layer norm": "ln_",
    "head": "lm_head.",
}


def print_parameters(name: str) -> None:
    """Print a table of a model's parameters with their shapes and sizes, and the totals by component.

    Nothing is downloaded for the four released sizes of GPT-2, and config.json only for other models.
    """
    preset = name in RELEASED_SIZES and not hub.local_folder(name, Parts.CONFIG)
    config = GPT2Config.preset(name) if preset else GPT2Config.from_json(hub.config_file(name))
    shapes, total = config.parameter_shapes(), config.num_parameters()
    rows = [("parameter", "shape", "count")]
    for parameter, shape in shapes.items():
        if parameter.endswith(("ln_1.weight", "ln_f.weight")):  # an empty line before each block and after the last
            rows.append(("", "", ""))
        rows.append((parameter, "×".join(map(str, shape)), f"{math.prod(shape):,}"))
    rows += [("", "", ""), ("component", "share", "count")]
    for component, part in COMPONENTS.items():
        if size := sum(math.prod(shape) for parameter, shape in shapes.items() if part in parameter):
            rows.append((component, f"{size / total:.2%}", f"{size:,}"))
    rows.append(("all parameters", "", f"{total:,}"))
    write("".join(f"{left:<26}{middle:>14}{right:>16}".rstrip() + "\n" for left, middle, right in rows))
    block = sum(math.prod(shape) for shape in config.block_shapes().values())
    head = "wte.weight, transposed" if config.tie_word_embeddings else "a separate matrix"
    write(f"\n{config.n_layer} blocks of {block:,} parameters each; the head is {head}\n")
