"""Ten steps of training against ten of PyTorch's AdamW, by the saved losses and weights of tests/reference/."""

import argparse
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from numpy_gpt2 import train

from .reference.seeded import FOLDER, TRAINING, seeded_batch, seeded_weights, selected, variation

# Of the losses, and of the weights, which move by up to 0.02. Keys' biases have gradients of 0 and rounding, which
# AdamW makes something of: without them, float32's weights would hold to 2e-6.
LOSS_TOLERANCE = {np.float32: 5e-7, np.float64: 1e-13}
WEIGHT_TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}


def new_run(dtype):
    """The run of the reference script, before its first step."""
    config = variation("plain")
    flat = np.zeros(config.num_parameters(), dtype)
    weights = train.as_weights(flat, config)
    for name, array in seeded_weights(config, seed=0, scale=0.02).items():
        weights[name][:] = array
    fields = {**TRAINING, "batch_size": 2, "grad_accumulation": 3, "dropout": 0.0, "seed": 0}
    m, v, mean, best = np.zeros_like(flat), np.zeros_like(flat), flat.copy(), flat.copy()
    return train.Run(argparse.Namespace(**fields), config, flat, m, v, mean, best)


@pytest.mark.parametrize("dtype", LOSS_TOLERANCE)
def test_ten_steps_equal_pytorch(dtype, monkeypatch):
    run = new_run(dtype)

    def batch(tokens, n, length, seed, step):
        inputs, targets = seeded_batch(run.config, step)
        assert inputs.shape == (n, length)
        return inputs, targets

    monkeypatch.setattr(train, "batch", batch)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            train.take_step(run, np.zeros(0, np.int64), pool)
    with np.load(FOLDER / "gradients.npz") as expected:
        np.testing.assert_allclose(run.losses, expected["steps/losses"], rtol=LOSS_TOLERANCE[dtype], atol=0)
        weights = train.as_weights(run.weights, run.config)
        actual = np.concatenate([selected(weights[name]) for name in run.config.parameter_shapes()])
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual, expected["steps/weights"], rtol=0, atol=WEIGHT_TOLERANCE[dtype])
