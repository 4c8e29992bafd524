"""What a run trains: all weights (`all`), the last blocks (`last:N`), or low-rank adapters (`lora:R`).

Every other weight is frozen: it has no gradient, and AdamW keeps no running means for it.

An adapter changes a matrix W (in, out) of the model by the product of two narrow matrices, the only ones trained:

    W + 2 A B        A: (in, R), B: (R, out)

R is the adapter's rank. Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1. Their factor
is α/R, and α here is 2R. A starts with random numbers and B with 0, so the first step starts from the model itself.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from ..config import GPT2Config, Shape
from ..weights import Weights

SCALE = 2  # α / R
ADAPTED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")  # in each block
A, B = ".lora_A", ".lora_B"  # an adapter's matrices have the adapted matrix's name with one of these endings


def blocks_trained(train: str) -> int:
    """N of `last:N`, otherwise 0.

    >>> blocks_trained("last:2"), blocks_trained("all")
    (2, 0)
    """
    return int(train.removeprefix("last:")) if train.startswith("last:") else 0


def rank(train: str) -> int:
    """R of `lora:R`, otherwise 0.

    >>> rank("lora:8"), rank("all")
    (8, 0)
    """
    return int(train.removeprefix("lora:")) if train.startswith("lora:") else 0


def trained_weights(train: str, config: GPT2Config) -> list[str]:
    """The names of the weights that need a gradient, in the order of the forward pass.

    Raises ValueError if N is larger than the number of blocks.

    >>> trained_weights("last:1", GPT2Config(n_layer=2))[0], trained_weights("lora:1", GPT2Config(n_layer=1))[-1]
    ('h.1.ln_1.weight', 'h.0.mlp.c_proj.weight')
    """
    names, n = list(config.parameter_shapes()), blocks_trained(train)
    if n > config.n_layer:
        raise ValueError(f"--train is {train}; N must be at most {config.n_layer}, the number of blocks")
    if n:
        last = ("ln_f.", *(f"h.{layer}." for layer in range(config.n_layer - n, config.n_layer)))
        return [name for name in names if name.startswith(last)]
    return [name for name in names if name.startswith("h.") and name.endswith(ADAPTED)] if rank(train) else names


def trained_shapes(train: str, config: GPT2Config) -> dict[str, Shape]:
    """What is trained: name -> shape, matrices first.

    Raises ValueError if N is larger than the number of blocks, or R than the number of channels.

    >>> config = GPT2Config(vocab_size=3, n_positions=4, n_embd=2, n_layer=1, n_head=1)
    >>> list(trained_shapes("all", config).items())[:2]
    [('wte.weight', (3, 2)), ('wpe.weight', (4, 2))]
    >>> list(trained_shapes("lora:1", config).items())[:2]
    [('h.0.attn.c_attn.weight.lora_A', (2, 1)), ('h.0.attn.c_attn.weight.lora_B', (1, 6))]
    """
    every, r = config.parameter_shapes(), rank(train)
    if r > config.n_embd:
        raise ValueError(f"--train is {train}; R must be at most {config.n_embd}, the number of channels")
    shapes: dict[str, Shape] = {}
    for name in trained_weights(train, config):
        n_in, *n_out = every[name]
        shapes |= {name + A: (n_in, r), name + B: (r, *n_out)} if r else {name: every[name]}
    return dict(sorted(shapes.items(), key=lambda item: len(item[1]), reverse=True))


def as_weights(flat: np.ndarray, shapes: dict[str, Shape]) -> Weights:
    """Return a dict of views of one flat array, in the order of `shapes`. The optimizer updates the flat array.

    >>> weights = as_weights(np.arange(5), {"wte.weight": (2, 2), "ln_f.bias": (1,)})
    >>> weights["wte.weight"].tolist(), weights["ln_f.bias"].tolist()
    ([[0, 1], [2, 3]], [4])
    """
    weights, start = {}, 0
    for name, shape in shapes.items():
        end = start + math.prod(shape)
        weights[name], start = flat[start:end].reshape(shape), end
    return weights


def initial(shapes: dict[str, Shape], weights: Weights, seed: int) -> np.ndarray:
    """Return the flat array of what is trained, before the first step: the model's weights, or new adapters.

    A is uniform from −1/√in to 1/√in, and B is 0, as in the authors' code and in the library peft.

    >>> shapes = {"w.lora_A": (4, 2), "w.lora_B": (2, 1)}
    >>> flat = initial(shapes, {}, seed=0)
    >>> bool(0.1 < np.abs(flat[:8]).max() <= 0.5), flat[8:].tolist()
    (True, [0.0, 0.0])
    """
    flat = np.zeros(sum(map(math.prod, shapes.values())), np.float32)
    rng = np.random.default_rng(seed)
    for name, array in as_weights(flat, shapes).items():
        if name.endswith(A):
            array[:] = (2 * rng.random(array.shape, np.float32) - 1) / math.sqrt(len(array))
        elif not name.endswith(B):
            array[:] = weights[name]
    return flat


def adapted(frozen: Weights, adapters: Weights, merged: Weights) -> Weights:
    """Return the model's weights with W + 2 A B for each adapted W. The sums are written into the arrays of `merged`.

    >>> frozen, adapters = {"w": np.ones((2, 1))}, {"w.lora_A": np.array([[1.0], [2.0]]), "w.lora_B": np.array([[5.0]])}
    >>> adapted(frozen, adapters, {"w": np.empty((2, 1))})["w"].tolist()
    [[11.0], [21.0]]
    """
    for name, array in merged.items():
        np.matmul(SCALE * adapters[name + A], adapters[name + B], out=array)
        array += frozen[name]
    return frozen | merged


def trained_gradients(name: str, gradient: np.ndarray, trained: Weights) -> Weights:
    """Turn the gradient of a weight into those of what is trained: itself, or its adapter.

    y = W + 2 A B  ->  dA = 2 dy Bᵀ, dB = 2 Aᵀ dy

    >>> adapters = {"w.lora_A": np.array([[1.0], [2.0]]), "w.lora_B": np.array([[5.0]])}
    >>> gradients = trained_gradients("w", np.array([[1.0], [0.0]]), adapters)
    >>> gradients["w.lora_A"].tolist(), gradients["w.lora_B"].tolist()
    ([[10.0], [0.0]], [[2.0]])
    """
    if name in trained:
        return {name: gradient}
    a, b = trained[name + A], trained[name + B]
    return {name + A: gradient @ (SCALE * b.T), name + B: (SCALE * a.T) @ gradient}


def fingerprint(weights: Weights) -> str:
    """SHA-256 of the frozen weights: `--resume` needs the same ones.

    >>> fingerprint({"w": np.zeros(2)})[:8], fingerprint({"w": np.ones(2)})[:8]
    ('374708ff', '5f07eef0')
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(np.ascontiguousarray(weights[name]).data)
    return digest.hexdigest()
