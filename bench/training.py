"""`python -m bench.training NAME LAYERS HEADS CHANNELS VOCABULARY WINDOW BATCH DROPOUT`: seconds per training step.

NAME is numpy_gpt2 or transformers. In each run, `bench` starts this process for each of them and measures its memory.
Both take the same step: random tokens, mean cross-entropy, its gradients, clipping to norm 1, and AdamW with weight
decay on matrices.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

WARM_UP = 2  # steps that are not counted
COUNTED = 3  # at least
SECONDS = 6  # for all steps together, at least


def seconds_per_step(step: Callable[[], object]) -> float:
    """The median duration of a step."""
    times: list[float] = []
    while len(times) < WARM_UP + COUNTED or sum(times) < SECONDS:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def ours(layers: int, heads: int, channels: int, vocabulary: int, window: int, batch: int, p: float) -> float:
    from numpy_gpt2 import GPT2Config, init_weights
    from numpy_gpt2.cli import keep_freed_memory
    from numpy_gpt2.threads import thread_pool
    from numpy_gpt2.train import TrainConfig
    from numpy_gpt2.train.step import new_run, take_step

    keep_freed_memory()
    options = TrainConfig(n_positions=window, batch_size=batch, dropout=p)
    config = GPT2Config(vocabulary, window, channels, layers, heads, eos_token_id=vocabulary - 1)
    run = new_run(options, config, init_weights(config, np.random.default_rng(0)))
    tokens = np.random.default_rng(0).integers(vocabulary, size=100_000)
    with thread_pool() as pool:
        return seconds_per_step(lambda: take_step(run, tokens, pool))


def theirs(layers: int, heads: int, channels: int, vocabulary: int, window: int, batch: int, p: float) -> float:
    """transformers' model with the fastest options of eager PyTorch: fused GELU, attention and AdamW."""
    import torch
    import transformers

    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_positions=window,
        n_embd=channels,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",
        attn_implementation="sdpa",
        **dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], p),
        **dict.fromkeys(["bos_token_id", "eos_token_id"], vocabulary - 1),
    )
    model = transformers.GPT2LMHeadModel(config).train()
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)

    def step() -> None:
        tokens = torch.randint(vocabulary, (batch, window + 1))
        logits = model(tokens[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return seconds_per_step(step)


if __name__ == "__main__":
    print({"numpy_gpt2": ours, "transformers": theirs}[sys.argv[1]](*map(json.loads, sys.argv[2:])))
