"""Compute trained.npz with PyTorch and transformers: `python -m tests.reference.make_trained`.

For `last:2` and `lora:8`, in float64: the loss and the gradients of the first step (all of a vector, some entries of a
matrix), and ten AdamW steps with the losses and some entries of what was trained. The adapters are written by hand:
y = x W + b + 2 (x A) B.
"""

import numpy as np
import torch
import transformers

from numpy_gpt2 import GPT2Config

from .make_references import mean_loss, oracle, parameters, ten_steps
from .seeded import FOLDER, seeded_adapters, seeded_batch, seeded_weights, selected, variation


def last_blocks(model: transformers.GPT2LMHeadModel, config: GPT2Config) -> dict[str, torch.Tensor]:
    """The weights of the last two blocks and of the last layer norm."""
    first = config.n_layer - 2
    return {
        name: weight
        for name, weight in parameters(model).items()
        if name.startswith("ln_f.") or (name.startswith("h.") and int(name.split(".")[1]) >= first)
    }


def adapters(model: transformers.GPT2LMHeadModel, config: GPT2Config) -> dict[str, torch.Tensor]:
    """New adapters of rank 8, which the model uses from now on."""
    matrices = {
        name: torch.from_numpy(array).double().requires_grad_() for name, array in seeded_adapters(config, 8).items()
    }
    modules = dict(model.transformer.named_modules())
    for name in {name.rpartition(".")[0] for name in matrices}:
        module, a, b = modules[name.removesuffix(".weight")], matrices[f"{name}.lora_A"], matrices[f"{name}.lora_B"]

        def forward(x: torch.Tensor, module=module, a=a, b=b) -> torch.Tensor:
            return x @ module.weight + module.bias + 2 * (x @ a) @ b

        module.forward = forward
    return matrices


def main() -> None:
    config, arrays = variation("plain"), {}
    for train, trained_by in ("last:2", last_blocks), ("lora:8", adapters):
        model = oracle(config, seeded_weights(config, seed=0, scale=0.02), torch.float64).requires_grad_(False)
        weights = {name: weight.requires_grad_() for name, weight in trained_by(model, config).items()}
        mean_loss(model, *seeded_batch(config, 0)).backward()
        arrays[f"{train}/gradients"] = np.concatenate([selected(weight.grad.numpy()) for weight in weights.values()])
        arrays |= {f"{train}/{name}": array for name, array in ten_steps(model, config, weights).items()}
    np.savez_compressed(FOLDER / "trained.npz", **arrays)


if __name__ == "__main__":
    main()
