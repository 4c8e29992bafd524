"""A model of GPT-2's size against the saved outputs of transformers."""

import numpy as np
import pytest

from numpy_gpt2 import GPT2Config, cross_entropy, forward, generate

from .reference.seeded import FOLDER, seeded_tokens, seeded_weights
from .test_model import TOLERANCE, assert_close

CONFIG = GPT2Config.preset("gpt2")
TOKENS = seeded_tokens(CONFIG, 124, (1, 40))


@pytest.fixture(scope="module")
def references():
    with np.load(FOLDER / "full.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def weights():
    return seeded_weights(CONFIG, seed=124, scale=0.02)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_logits_and_loss_equal_transformers(dtype, weights, references):
    targets = TOKENS[:, 1:].copy()
    targets[:, 3] = -1
    logits = forward(TOKENS, {name: array.astype(dtype, copy=False) for name, array in weights.items()}, CONFIG)
    assert_close(logits[:, ::3, ::101], references["logits"], TOLERANCE[dtype])
    assert cross_entropy(logits[:, :-1], targets) == pytest.approx(references["loss"], rel=TOLERANCE[dtype])


def test_greedy_ids_equal_transformers(weights, references):
    tokens = np.array([*generate(TOKENS[:, :20], weights, CONFIG, max_new_tokens=20, temperature=0)])
    np.testing.assert_array_equal(tokens.T, references["greedy"])
