"""Known outputs of the real GPT-2. Skipped without `weights/gpt2`; `python -m numpy_gpt2 -m gpt2 ""` downloads it."""

import os
from pathlib import Path

import numpy as np
import pytest

import numpy_gpt2 as gpt2
from numpy_gpt2 import hub

pytestmark = pytest.mark.pretrained


@pytest.fixture(scope="module")
def model():
    folder = hub.weights_folder() / "gpt2"
    if not hub.is_complete(folder):
        pytest.skip(f"needs the real GPT-2 in {folder}")
    return gpt2.load(folder)


@pytest.fixture(scope="module")
def last_logits():
    """The logits after each prompt of NEXT_TOKENS, computed by another implementation."""
    path = Path(os.environ.get("NUMPY_GPT2_DATA", "")) / "reference" / "gpt2_124M_last_logits.npz"
    if not path.exists():
        pytest.skip(f"needs {path.name} in reference/ of the folder that NUMPY_GPT2_DATA names")
    with np.load(path) as arrays:
        return {str(prompt): arrays["logits"][i] for i, prompt in enumerate(arrays["prompts"])}


def continuation(model, prompt, n_tokens):
    weights, config, tokenizer = model
    tokens = gpt2.generate(tokenizer.encode_ordinary(prompt), weights, config, max_new_tokens=n_tokens, temperature=0)
    return tokenizer.decode(list(tokens))


def test_greedy_ids_equal_those_of_transformers_integration_test(model):
    tokens = list(gpt2.generate([464, 3290], model.weights, model.config, max_new_tokens=18, temperature=0))
    assert tokens == [373, 1043, 287, 257, 2214, 1474, 262, 16246, 286, 2688, 290, 2688, 27262, 13, 198, 198, 464, 3290]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Hello, my dog is a little", " bit of a mess. I'm not sure if he's going"),
        ("Every effort moves", " forward, but it's not enough."),
        (
            "Alan Turing theorized that computers would one day become",
            " the most powerful machines on the planet.",
        ),
    ],
)
def test_greedy_texts_equal_published_ones(prompt, expected, model):
    n_tokens = len(model.tokenizer.encode_ordinary(expected))
    assert continuation(model, prompt, n_tokens) == expected


# Ids and logits of the ten most probable next tokens, from another export of these weights. The logits of two exports
# differ by a few thousandths, so tokens with nearly equal logits may be in another order.
NEXT_TOKENS = {
    "Data visualization empowers users to": [
        (38350, -135.913),
        (2251, -136.684),
        (766, -137.120),
        (787, -137.647),
        (3538, -137.666),
        (2952, -137.724),
        (7301, -137.784),
        (1064, -138.048),
        (1833, -138.293),
        (1382, -138.410),
    ],
    "Artificial Intelligence is transforming the": [
        (835, -100.879),
        (995, -101.049),
        (3160, -103.349),
        (2214, -103.855),
        (2003, -103.953),
        (15383, -103.985),
        (2831, -104.001),
        (2104, -104.114),
        (1692, -104.120),
        (1597, -104.129),
    ],
    "As the spaceship was approaching the": [
        (5440, -92.864),
        (4417, -94.183),
        (4429, -94.417),
        (8824, -94.457),
        (3668, -94.469),
        (886, -94.549),
        (4074, -94.741),
        (5743, -94.878),
        (3491, -94.902),
        (27460, -94.974),
    ],
    "On the deserted planet they discovered a": [
        (6283, -89.019),
        (11428, -89.261),
        (5440, -89.263),
        (1588, -89.266),
        (4858, -89.299),
        (1402, -89.435),
        (649, -89.595),
        (5909, -89.632),
        (3236, -89.853),
        (6175, -90.060),
    ],
    "IEEE VIS conference highlights the": [
        (6817, -93.251),
        (3452, -93.772),
        (4034, -94.089),
        (749, -94.103),
        (670, -94.141),
        (1266, -94.419),
        (649, -94.522),
        (867, -94.712),
        (2928, -94.821),
        (6459, -94.837),
    ],
}


@pytest.mark.parametrize("prompt", NEXT_TOKENS)
def test_the_ten_most_probable_next_tokens_have_the_published_logits(prompt, model):
    logits = gpt2.forward(model.tokenizer.encode_ordinary(prompt), model.weights, model.config)[-1]
    ids, expected = map(np.array, zip(*NEXT_TOKENS[prompt], strict=True))
    np.testing.assert_allclose(logits[ids], expected, rtol=0, atol=0.02)
    assert logits.argmax() == ids[0]
    assert set(np.argsort(-logits)[:5]) <= set(ids)


@pytest.mark.parametrize("prompt", NEXT_TOKENS)
def test_all_logits_equal_the_reference(prompt, model, last_logits):
    logits = gpt2.forward(model.tokenizer.encode_ordinary(prompt), model.weights, model.config)[-1]
    np.testing.assert_allclose(logits, last_logits[prompt], rtol=0, atol=0.05)


@pytest.mark.parametrize("prompt", NEXT_TOKENS)
def test_the_ten_tokens_are_those_of_the_reference(prompt, last_logits):
    ids, logits = zip(*NEXT_TOKENS[prompt], strict=True)
    assert np.argsort(-last_logits[prompt])[:10].tolist() == [*ids]
    np.testing.assert_allclose(last_logits[prompt][[*ids]], logits, rtol=0, atol=6e-4)


def test_the_file_has_all_parameters(model):
    assert model.config.num_parameters() == sum(array.size for array in model.weights.values()) == 124_439_808
