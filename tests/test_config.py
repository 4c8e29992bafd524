"""The table of parameters, and errors for impossible configs."""

import json

import pytest

from numpy_gpt2 import GPT2Config

# n_layer, n_head, n_embd, number of parameters, number of tensors.
RELEASED = {
    "gpt2": (12, 12, 768, 124_439_808, 148),
    "gpt2-medium": (24, 16, 1024, 354_823_168, 292),
    "gpt2-large": (36, 20, 1280, 774_030_080, 436),
    "gpt2-xl": (48, 25, 1600, 1_557_611_200, 580),
}


@pytest.mark.parametrize("name", RELEASED)
def test_presets_have_the_released_sizes(name):
    config = GPT2Config.preset(name)
    n_layer, n_head, n_embd, n_parameters, n_tensors = RELEASED[name]
    assert (config.n_layer, config.n_head, config.n_embd) == (n_layer, n_head, n_embd)
    assert config.num_parameters() == n_parameters
    assert len(config.parameter_shapes()) == n_tensors
    V, P, C, L = 50257, 1024, n_embd, n_layer
    assert n_parameters == V * C + P * C + L * (12 * C * C + 13 * C) + 2 * C


def test_an_untied_head_is_counted():
    untied = GPT2Config(tie_word_embeddings=False)
    assert untied.parameter_shapes()["lm_head.weight"] == (50257, 768)
    assert untied.num_parameters() == 163_037_184


def test_missing_keys_get_the_defaults_and_aliases_are_accepted(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"hidden_size": 96, "n_inner": null, "n_ctx": 5, "some_later_key": [1]}')
    assert GPT2Config.from_json(path) == GPT2Config(n_embd=96)
    assert GPT2Config(n_embd=96).inner_size == 384
    assert GPT2Config(n_embd=96, n_inner=100).inner_size == 100


def test_attention_scale_depends_on_two_switches():
    assert GPT2Config().attention_scale(5) == 1 / 8
    assert GPT2Config(scale_attn_by_inverse_layer_idx=True).attention_scale(5) == pytest.approx(1 / 48)
    assert GPT2Config(scale_attn_weights=False).attention_scale(5) == 1
    assert GPT2Config(scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True).attention_scale(3) == 0.25


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_embd": 100, "n_head": 12}, r"n_embd is 100; .* n_head, which is 12"),
        ({"n_layer": 0}, "n_layer is 0"),
        ({"n_head": -1}, "n_head is -1"),
        ({"vocab_size": "50257"}, "vocab_size is '50257'"),
        ({"n_positions": 10.5}, "n_positions is 10.5"),
        ({"n_layer": True}, "n_layer is True"),
        ({"n_inner": 0}, "n_inner is 0"),
        ({"n_layer": 10**12}, "n_layer is 1000000000000; .* 10,000"),
        ({"vocab_size": 2**31}, "vocab_size is 2147483648"),
        ({"eos_token_id": 1.5}, "eos_token_id is 1.5"),
        (
            {"eos_token_id": [256, None]},
            r"eos_token_id is \[256, None\]; it must be a token id, a list of them, or null",
        ),
        ({"bos_token_id": ["x"]}, r"bos_token_id is \['x'\]"),
        ({"n_embd": None}, "n_embd is None"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon is 0.0"),
        ({"layer_norm_epsilon": 1}, "layer_norm_epsilon is 1"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
        ({"activation_function": "swish"}, "activation_function is 'swish'; it must be one of gelu_new"),
        ({"scale_attn_weights": "yes"}, "scale_attn_weights is 'yes'"),
        ({"model_type": "llama"}, r"not a GPT-2.*'llama'"),
    ],
)
def test_an_impossible_config_is_an_error(fields, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"config.json.*{message}"):
        GPT2Config.from_json(path)


@pytest.mark.parametrize("text", ["", "<html>", "[1, 2]", "null", '{"n_layer": 2', "\x00", "[" * 100_000])
def test_a_file_that_is_not_a_config_is_an_error(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        GPT2Config.from_json(path)


def test_an_unknown_preset_is_an_error():
    with pytest.raises(ValueError, match=r"gpt2-huge.*gpt2-xl"):
        GPT2Config.preset("gpt2-huge")
