"""Let transformers run the bundled model with torch hooks: `python -m tests.reference.make_interventions`.

The script writes interventions.npz into its own folder:

    prompts         two prompts with the same number of tokens
    <i>             the intervention i, in JSON
    <i>/logits      the logits of the first prompt (T, V), every eighth token, with this intervention
    answer          the most probable next token of the second prompt
    trace           p(answer) when the second prompt's input of block l at position t is patched into the first (L, T)
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from .make_references import bundled_model
from .seeded import FOLDER

PROMPTS = ["The king is dead, and the king", "The queen is dead, and the queen"]

CASES: list[dict[str, Any]] = [
    {"kind": "head", "layer": 3, "head": 1, "factor": 0.0},
    {"kind": "head", "layer": 0, "head": 2, "factor": -1.5},
    {"kind": "mlp", "layer": 2, "factor": 0.0},
    {"kind": "mlp", "layer": 0, "factor": 0.5},
    {"kind": "edge", "layer": 1, "head": 3, "query": 4, "key": 1},
    {"kind": "patch", "name": "h.3.resid_post", "position": 5, "from": 1},
    {"kind": "patch", "name": "h.1.attn.v", "position": 1, "from": 2},
    {"kind": "patch", "name": "h.4.mlp.post", "position": 2, "from": 1},
    {"kind": "direction", "layer": 2, "position": None, "factor": 0.7},
    {"kind": "direction", "layer": 4, "position": 6, "factor": -2.0},
]

Change = Callable[[torch.Tensor], None]


@contextmanager
def changed(module: nn.Module, change: Change, inputs: bool = False) -> Iterator[None]:
    """Change a module's output, or its input, in place."""

    def copied(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        change(x)
        return x

    if inputs:
        handle = module.register_forward_pre_hook(lambda module, x: (copied(x[0]), *x[1:]))
    else:
        handle = module.register_forward_hook(lambda module, x, output: copied(output))
    yield
    handle.remove()


@contextmanager
def without_edge(block: nn.Module, head: int, query: int, key: int, H: int, T: int) -> Iterator[None]:
    """Add −∞ to one score, by an attention mask of this block alone."""
    mask = torch.full((T, T), -torch.inf, dtype=torch.float64).triu(1).repeat(1, H, 1, 1)
    mask[0, head, query, key] = -torch.inf
    handle = block.attn.register_forward_pre_hook(
        lambda module, x, named: (x, {**named, "attention_mask": mask}), with_kwargs=True
    )
    yield
    handle.remove()


def recorded(module: nn.Module, run: Callable[[], object], inputs: bool = False) -> torch.Tensor:
    """A module's output, or its input."""
    kept: list[torch.Tensor] = []
    with changed(module, lambda x: kept.append(x.clone()), inputs):
        run()
    return kept[0]


def place_of(name: str, blocks: nn.ModuleList, C: int) -> tuple[nn.Module, bool, slice]:
    """The module, whether its input is meant, and the columns of a named result."""
    _, layer, *part = name.split(".")
    block = blocks[int(layer)]
    return {
        "resid_pre": (block, True, slice(None)),
        "resid_post": (block, False, slice(None)),
        "attn.v": (block.attn.c_attn, False, slice(2 * C, None)),
        "mlp.post": (block.mlp.c_proj, True, slice(None)),
    }[".".join(part)]


def make_interventions() -> None:
    model, tokenizer = bundled_model()
    first, second = (torch.tensor([tokenizer(prompt).input_ids]) for prompt in PROMPTS)
    blocks, H, C, T = model.transformer.h, model.config.n_head, model.config.n_embd, first.shape[1]
    D = C // H

    def patched(name: str, position: int, source: int) -> Any:
        module, inputs, columns = place_of(name, blocks, C)
        vector = recorded(module, lambda: model(second), inputs)[0, source, columns]
        return changed(module, lambda x: x[0, position, columns].copy_(vector), inputs)

    def pushed(layer: int, factor: float, position: int | None) -> Any:
        a, b = (recorded(blocks[layer], lambda tokens=tokens: model(tokens), True)[0, -1] for tokens in (first, second))
        where = slice(None) if position is None else slice(position, position + 1)
        return changed(blocks[layer], lambda x: x[:, where].add_(factor * (b - a)), True)

    def context(case: dict[str, Any]) -> Any:
        if case["kind"] == "head":
            columns = slice(case["head"] * D, (case["head"] + 1) * D)
            projection = blocks[case["layer"]].attn.c_proj
            return changed(projection, lambda x: x[..., columns].mul_(case["factor"]), True)
        if case["kind"] == "mlp":
            return changed(blocks[case["layer"]].mlp, lambda x: x.mul_(case["factor"]))
        if case["kind"] == "edge":
            return without_edge(blocks[case["layer"]], case["head"], case["query"], case["key"], H, T)
        if case["kind"] == "patch":
            return patched(case["name"], case["position"], case["from"])
        return pushed(case["layer"], case["factor"], case["position"])

    arrays = {"prompts": np.array(PROMPTS)}
    for i, case in enumerate(CASES):
        with context(case):
            arrays |= {f"{i}": np.array(json.dumps(case)), f"{i}/logits": model(first).logits[0, :, ::8].numpy()}
    answer = model(second).logits[0, -1].argmax()
    trace = torch.zeros(len(blocks), T, dtype=torch.float64)
    for layer in range(len(blocks)):
        for t in range(T):
            with patched(f"h.{layer}.resid_pre", t, t):
                trace[layer, t] = model(first).logits[0, -1].softmax(-1)[answer]
    arrays |= {"answer": answer.numpy(), "trace": trace.numpy()}
    np.savez_compressed(FOLDER / "interventions.npz", **arrays)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    make_interventions()
