"""Configs, weights and tokens from seeds, the same for the reference scripts and the tests. None are stored."""

from pathlib import Path
from typing import Any

import numpy as np

from numpy_gpt2 import GPT2Config

FOLDER = Path(__file__).parent

TINY_SIZES = {"vocab_size": 97, "n_positions": 32, "n_embd": 24, "n_layer": 3, "n_head": 4}

# Every variation that a checkpoint may have, first one at a time, then a few combined.
VARIATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gelu_pytorch_tanh": {"activation_function": "gelu_pytorch_tanh"},
    "gelu_fast": {"activation_function": "gelu_fast"},
    "gelu_exact": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu"},
    "unscaled": {"scale_attn_weights": False},
    "inverse_layer": {"scale_attn_by_inverse_layer_idx": True},
    "inverse_layer_only": {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    "untied": {"tie_word_embeddings": False},
    "narrow_mlp": {"n_inner": 10},
    "wide_mlp": {"n_inner": 150, "activation_function": "gelu"},
    "large_epsilon": {"layer_norm_epsilon": 0.1},
    "one_channel_heads": {"n_embd": 6, "n_head": 6},
    "one_head_one_layer": {"n_head": 1, "n_layer": 1},
    "odd_sizes": {"vocab_size": 101, "n_embd": 21, "n_head": 3, "n_positions": 27, "tie_word_embeddings": False},
}

# The models of explain_gradients.npz, with a prompt and a target for each
EXPLAINED = [("plain", "To be, or not", " to be"), ("untied", "To be, or", " not"), ("gelu_exact", "KING", ":")]

# The model of processors.npz
PROCESSED = GPT2Config(vocab_size=24, n_positions=64, n_embd=24, n_layer=2, n_head=4)

# The model in pickles.npz and its input
PICKLED_SIZES = {"vocab_size": 16, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
PICKLED_TOKENS = [3, 1, 4, 1, 5, 9, 2]

# Settings of the ten AdamW steps in gradients.npz
TRAINING: dict[str, Any] = {
    "lr": 3e-3,
    "min_lr": 3e-4,
    "warmup": 3,
    "max_steps": 10,
    "beta1": 0.9,
    "beta2": 0.99,
    "weight_decay": 0.1,
    "grad_clip": 0.5,  # clips six of the ten gradients
}


def variation(name: str) -> GPT2Config:
    """The tiny config with one variation applied."""
    return GPT2Config(**{**TINY_SIZES, **VARIATIONS[name]})


def explained_config(name: str) -> GPT2Config:
    """A config of EXPLAINED, with the vocabulary of the bundled model."""
    return GPT2Config(**{**TINY_SIZES, **VARIATIONS[name], "vocab_size": 1024})


def seeded_weights(config: GPT2Config, seed: int, scale: float) -> dict[str, np.ndarray]:
    """float32 weights from a seed: uniform with standard deviation `scale`, and 1 added to layer norm weights.

    They are drawn with `Generator.random`, in the order of `parameter_shapes`.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    weights = {}
    for name, shape in config.parameter_shapes().items():
        array = rng.random(shape, np.float32)
        array -= np.float32(0.5)
        array *= np.float32(scale * 12**0.5)
        if "ln_" in name and name.endswith("weight"):
            array += np.float32(1)
        weights[name] = array
    return weights


def seeded_adapters(config: GPT2Config, rank: int) -> dict[str, np.ndarray]:
    """float32 adapters from a seed, for the matrices of each block: uniform from −0.1 to 0.1. B is not 0 here."""
    rng = np.random.Generator(np.random.PCG64(rank))
    adapters = {}
    for name, shape in config.parameter_shapes().items():
        if len(shape) == 2 and name.startswith("h."):
            adapters[f"{name}.lora_A"] = (0.2 * rng.random((shape[0], rank)) - 0.1).astype(np.float32)
            adapters[f"{name}.lora_B"] = (0.2 * rng.random((rank, shape[1])) - 0.1).astype(np.float32)
    return adapters


def seeded_tokens(config: GPT2Config, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Random token ids from a seed."""
    return (np.random.Generator(np.random.PCG64(seed)).random(shape) * config.vocab_size).astype(np.int64)


def seeded_targets(config: GPT2Config, seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Random target ids from a seed. One target of the first row and all targets of the last row are -1 (ignored)."""
    targets = seeded_tokens(config, 100 + seed, shape)
    targets[0, 4] = targets[-1] = -1
    return targets


def seeded_masks(config: GPT2Config, seed: int, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Dropout masks with entries 0 and 4/3 (p = 0.25), one for each activation that training drops, by hook name."""
    rng = np.random.Generator(np.random.PCG64(seed))
    B, T, C = *shape, config.n_embd
    shapes = {"h.0.resid_pre": (B, T, C)}
    for layer in range(config.n_layer):
        shapes[f"h.{layer}.attn.pattern"] = (B, config.n_head, T, T)
        shapes[f"h.{layer}.attn_out"] = shapes[f"h.{layer}.mlp_out"] = (B, T, C)
    return {name: (rng.random(shape) >= 0.25) / 0.75 for name, shape in shapes.items()}


def seeded_batch(config: GPT2Config, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of one training step. Two batches alternate, so that the loss falls."""
    tokens = seeded_tokens(config, step % 2, (6, config.n_positions + 1))
    return tokens[:, :-1], tokens[:, 1:]


def selected(array: np.ndarray) -> np.ndarray:
    """The entries that are stored: all of a vector, every eleventh of a matrix."""
    return array if array.ndim == 1 else array.reshape(-1)[::11]
