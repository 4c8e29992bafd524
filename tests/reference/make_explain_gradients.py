"""Write explain_gradients.npz: autograd's gradients of ln p of each next token, for tiny models.

Needs PyTorch and transformers: `python -m tests.reference.make_explain_gradients`.
"""

from typing import Any

import numpy as np
import torch

from numpy_gpt2 import load
from numpy_gpt2.hub import bundled_folder

from .make_references import oracle
from .seeded import EXPLAINED, FOLDER, explained_config, seeded_weights


def gradients(name: str, prompt: str, target: str) -> dict[str, np.ndarray]:
    """The gradients of one model, with the names of `explain`, in double precision."""
    config, encode = explained_config(name), load(bundled_folder()).tokenizer.encode_ordinary
    tokens, target_ids = encode(prompt), encode(target)
    model = oracle(config, seeded_weights(config, 0, 0.3), torch.float64)
    T, L, H = len(tokens), config.n_layer, config.n_head
    found: dict[str, torch.Tensor] = {}

    def keep(key: str, x: Any) -> None:
        x = x[0] if isinstance(x, tuple) else x
        x.retain_grad()
        found[key] = x

    blocks, inner = model.transformer.h, model.transformer
    inner.wte.register_forward_hook(lambda module, inputs, output: keep("embed", output))
    inner.wpe.register_forward_hook(lambda module, inputs, output: keep("pos_embed", output))
    for layer, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda module, inputs, n=2 * layer: keep(f"stream.{n}", inputs))
        block.ln_2.register_forward_pre_hook(lambda module, inputs, n=2 * layer + 1: keep(f"stream.{n}", inputs))
        block.attn.c_proj.register_forward_pre_hook(lambda module, inputs, n=layer: keep(f"z.{n}", inputs))
        block.mlp.register_forward_hook(lambda module, inputs, output, n=layer: keep(f"mlp_out.{n}", output))
    inner.ln_f.register_forward_pre_hook(lambda module, inputs: keep(f"stream.{2 * L}", inputs))

    rows = []
    for t in range(T):
        model.zero_grad()
        logits = model(torch.tensor([tokens + target_ids[:-1]])).logits[0].log_softmax(-1)
        wanted = [tokens[t + 1]] if t + 1 < T else target_ids
        sum(logits[t + i, token] for i, token in enumerate(wanted)).backward()
        products = {key: (x * x.grad).detach() for key, x in found.items() if x.grad is not None}
        stream = [found[f"stream.{stage}"].grad[0, :T].norm(dim=-1) for stage in range(2 * L + 1)]
        heads = [products[f"z.{layer}"][0].unflatten(-1, (H, -1)).sum(dim=(0, 2)) for layer in range(L)]
        rows.append(
            {
                "stream": torch.stack(stream),
                "embeddings": torch.stack([products[key].sum(-1).reshape(-1)[:T] for key in ("embed", "pos_embed")]),
                "heads": torch.stack(heads),
                "mlps": torch.stack([products[f"mlp_out.{layer}"].sum() for layer in range(L)]),
            }
        )
    results = {key: torch.stack([row[key] for row in rows]).numpy() for key in rows[0]}
    weights = {key.removeprefix("transformer."): x.grad.norm().numpy() for key, x in model.named_parameters()}
    return results | {f"weights.{key}": norm for key, norm in weights.items()}


if __name__ == "__main__":
    arrays = {
        f"{name}/{key}": array
        for name, prompt, target in EXPLAINED
        for key, array in gradients(name, prompt, target).items()
    }
    np.savez_compressed(FOLDER / "explain_gradients.npz", **arrays)
