"""The explanation: against the saved outputs of transformers in tests/reference/, and against the code itself."""

import dataclasses
import inspect
import itertools
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

import numpy_gpt2 as gpt2
from numpy_gpt2 import GPT2Config, init_weights, load, model
from numpy_gpt2.explain import contributions, explain
from numpy_gpt2.explain import page as page_module
from numpy_gpt2.explain.contributions import largest
from numpy_gpt2.explain.size import FIXED_BYTES, MAX_BYTES, check_size, page_bytes
from numpy_gpt2.hub import bundled_folder
from numpy_gpt2.tokenizer import merge_steps, pieces, token_ranks

from .browser import data_of
from .conftest import PROMPT, write_model
from .reference.seeded import FOLDER, VARIATIONS, variation

HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>__DATA__ & \"'"


@pytest.fixture(scope="module")
def references():
    with np.load(FOLDER / "explain.npz") as file:
        return dict(file)


# ---- the numbers


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("i", [0, 1])
def test_explanation_equals_transformers(i, dtype, references):
    expected = {name.removeprefix(f"{i}/"): value for name, value in references.items() if name.startswith(f"{i}/")}
    e = explain(str(expected["prompt"]), load(bundled_folder(), dtype), target=str(expected["target"]), ablate=True)
    tolerance = 1e-5 if dtype == np.float32 else 1e-11

    def check(actual, name):
        scale = np.abs(expected[name]).max(initial=1)
        np.testing.assert_allclose(actual, expected[name], rtol=0, atol=tolerance * scale)

    check(e.layers("attn.pattern"), "attentions")
    check(np.concatenate([e.layers("resid_pre"), e["ln_f"]])[..., ::8], "hidden")
    check(e["lens.probabilities"], "lens")
    check(e["lens.target"], "lens_target")
    check(e["surprisal"][1:], "surprisal")
    check(e["heads.norm"], "written")
    check(e["nearest.cosines"], "nearest")
    check(np.column_stack([e["ablation.heads"], e["ablation.mlps"]]), "changes")
    assert np.array_equal(e["lens.tokens"], expected["lens_tokens"])
    assert np.array_equal(e["nearest.tokens"], expected["nearest_tokens"])
    assert math.isnan(e["surprisal"][0])


def test_arrays_hold_every_recorded_result(example, bundled):
    trace = {}
    logits = gpt2.forward(example.tokens, bundled.weights, bundled.config, hook=gpt2.record(trace))
    assert np.array_equal(example["logits"], logits)
    assert len(trace) == 15 * bundled.config.n_layer + 3
    for name, array in trace.items():
        assert np.array_equal(example[name], array), name


def test_products_of_any_number_of_rows_give_the_same_lens_and_tokens(example, bundled, monkeypatch):
    monkeypatch.setattr(contributions, "ROWS", 7)  # some products span two blocks
    e = explain(PROMPT, bundled, target=" question")
    for name in ("lens.tokens", "heads.tokens", "neurons.tokens"):
        assert np.array_equal(e[name], example[name]), name
    for name in ("lens.probabilities", "lens.target"):
        np.testing.assert_allclose(e[name], example[name], rtol=1e-5, atol=1e-7)


def test_a_wrong_name_is_an_error_with_the_nearest_name(example):
    with pytest.raises(
        KeyError, match=r"no array 'h.3.attn.pattrn'; the nearest is 'h.3.attn.pattern'; keys\(\) lists"
    ):
        example["h.3.attn.pattrn"]
    with pytest.raises(KeyError, match=r"no array 'zzz'; keys\(\) lists"):
        example["zzz"]
    assert {"h.3.attn.pattern", "ablation.heads", "logits"} < example.keys()
    assert dict(example).keys() == example.keys()


def test_last_row_of_the_lens_is_the_models_output(example):
    p = gpt2.softmax(example["logits"])
    assert np.array_equal(example["lens.tokens"][-1], np.argsort(-example["logits"], axis=-1, kind="stable")[:, :10])
    assert np.array_equal(example["lens.probabilities"][-1], -np.sort(-p, axis=-1)[:, :10])
    assert example["lens.target"][-1] == p[-1, example.target[0]]


def test_head_outputs_add_up_to_attn_out(example, bundled):
    w, D = bundled.weights, bundled.config.n_embd // bundled.config.n_head
    for layer in range(bundled.config.n_layer):
        projection = w[f"h.{layer}.attn.c_proj.weight"]
        heads = [z @ projection[i * D : (i + 1) * D] for i, z in enumerate(example[f"h.{layer}.attn.z"][0])]
        np.testing.assert_allclose(example["heads.norm"][layer], np.linalg.norm(heads, axis=-1), rtol=1e-5)
        total = sum(heads) + w[f"h.{layer}.attn.c_proj.bias"]
        np.testing.assert_allclose(total, example[f"h.{layer}.attn_out"][0], rtol=0, atol=1e-5)


def test_neurons_are_those_with_the_largest_activations(example):
    post = np.abs(example.layers("mlp.post"))
    assert np.array_equal(example["neurons"], np.argsort(-post, axis=-1, kind="stable")[..., :8])


def test_default_target_is_the_most_probable_token(bundled):
    e = explain("ROMEO", bundled)
    assert e.target == [int(e["logits"][-1].argmax())]
    assert "ablation.heads" not in e.arrays


@pytest.mark.parametrize("dtype", ["float64", "int8"])
def test_other_dtypes_give_the_same_explanation(dtype, example):
    e = explain(PROMPT, load(bundled_folder(), dtype), target=" question", ablate=True)
    tolerance = 1e-4 if dtype == "float64" else 0.1
    for name in ("lens.target", "heads.norm", "nearest.cosines", "ablation.heads"):
        np.testing.assert_allclose(e[name], example[name], rtol=tolerance, atol=tolerance, err_msg=name)
    assert data_of(e.page())


def test_explain_accepts_a_model_name(tiny, monkeypatch):
    e = explain("the you", str(tiny))
    assert np.array_equal(e["logits"], explain("the you", load(tiny))["logits"])
    assert e.facts.startswith("tiny: 2 blocks of 4 heads")
    monkeypatch.chdir(tiny)
    assert explain("the", ".").facts.startswith("tiny: ")


def test_the_package_can_be_called_and_the_default_model_is_that_of_the_commands(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(tmp_path))
    (tmp_path / "gpt2").symlink_to(tiny)
    module = gpt2.explain
    assert inspect.ismodule(module)
    assert np.array_equal(module("the you")["logits"], explain("the you", str(tiny))["logits"])


def test_folder_name_need_not_be_utf8(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/w\xe9b")
    try:
        e = explain("the", write_model(Path(folder)))
    except OSError:
        pytest.skip("this file system does not allow such a name")
    assert data_of(e.page())["facts"].startswith("w\ufffdb: ")


def test_untied_head_counts_as_parameters(bundled):
    head = bundled.weights["wte.weight"] * 2
    own = bundled._replace(weights=bundled.weights | {"lm_head.weight": head})
    n = bundled.config.num_parameters() + head.size
    assert explain("a", own).facts.endswith(f" {n:,} parameters")


def test_weights_that_are_not_finite_are_an_error(bundled):
    weights = bundled.weights | {"wpe.weight": np.full_like(bundled.weights["wpe.weight"], np.nan)}
    with pytest.raises(ValueError, match="not finite"):
        explain("a", bundled._replace(weights=weights))


def test_long_prompt_is_cut_from_the_left(bundled):
    config = GPT2Config(vocab_size=1024, n_positions=100, n_embd=8, n_layer=2, n_head=2)
    weights = init_weights(config, np.random.default_rng(0))
    long, small = "and " * 150, gpt2.Model(weights, config, bundled.tokenizer)
    ids = bundled.tokenizer.encode_ordinary(long)
    e = explain(long, small)
    assert e.tokens.tolist() == ids[-64:]
    assert e.notice == f"the prompt has {len(ids)} tokens; this shows the last 64"
    assert len(explain(long, small, max_tokens=10_000).tokens) == 100
    assert explain("and", small).notice == ""
    several = explain(long, small, target=" and and and and", max_tokens=10_000, ablate=False)
    assert len(several.tokens) == 100 - 3
    whole = explain("and", small, target=" and" * 100, ablate=True)
    assert (len(whole.tokens), len(whole.target)) == (1, 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ""}, "the target is empty"),
        ({"target": " and" * 257}, "the target has 257 tokens; the model's window has only 256"),
        ({"max_tokens": 0}, "max_tokens is 0"),
    ],
)
def test_impossible_arguments_are_errors(options, message, bundled):
    with pytest.raises(ValueError, match=message):
        explain("a", bundled, **options)


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12) | st.integers(500, 3000), st.booleans())
def test_largest_equals_a_full_sort(seed, n, size, ties):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (3, 2, size)) if ties else rng.permutation(6 * size).reshape(3, 2, size)
    places, values = largest(x, n)
    assert np.array_equal(values, -np.sort(-x, axis=-1)[..., :n])
    assert np.array_equal(np.take_along_axis(x, places, axis=-1), values)
    if not ties or n >= size:
        assert np.array_equal(places, np.argsort(-x, axis=-1, kind="stable")[..., :n])


# ---- the merges


def test_pieces_spell_the_prompt_and_end_in_its_tokens(bundled):
    prompt = "To be, or not to be? 1603\n\n naïve 日本"
    e = explain(prompt, bundled)
    encode = bundled.tokenizer.encode_single_token
    assert [encode(part) for piece in e.pieces for part in piece.steps[-1]] == e.tokens.tolist()
    assert b"".join(piece.data for piece in e.pieces).decode() == prompt
    assert all(b"".join(step) == piece.data for piece in e.pieces for step in piece.steps)
    assert all(len(part) == 1 for piece in e.pieces for part in piece.steps[0])
    starts = np.cumsum([0] + [len(piece.steps[-1]) for piece in e.pieces])
    assert [piece.start for piece in e.pieces] == starts[:-1].tolist()


def test_each_merge_joins_the_pair_of_lowest_rank(bundled):
    (piece,) = explain(" kingdom", bundled).pieces
    assert [b"|".join(step).decode() for step in piece.steps] == [
        " |k|i|n|g|d|o|m",
        " |k|in|g|d|o|m",
        " |k|ing|d|o|m",
        " |k|ing|d|om",
        " k|ing|d|om",
        " king|d|om",
    ]


def test_cut_prompt_keeps_the_whole_first_piece(bundled):
    e = explain("my kingdom for", bundled, max_tokens=2)
    assert [bundled.tokenizer.decode([token]) for token in e.tokens] == ["om", " for"]
    assert [(piece.start, piece.data) for piece in e.pieces] == [(-2, b" kingdom"), (1, b" for")]


def test_long_piece_has_no_steps(bundled):
    e = explain("x" * 65, bundled)
    assert [(piece.data, piece.steps) for piece in e.pieces] == [(b"x" * 65, [])]
    assert len(explain("x" * 64, bundled).pieces[0].steps[0]) == 64
    assert "MERGES" not in e.text()


def test_empty_prompt_and_other_cutting_rules_have_no_pieces(bundled):
    assert explain("", bundled).pieces == []
    ranks = token_ranks(bundled.tokenizer)
    by_word = tiktoken.Encoding("by word", pat_str=r"\w+|\W+", mergeable_ranks=ranks, special_tokens={})
    assert explain("my kingdom", bundled._replace(tokenizer=by_word)).pieces == []


@given(st.text("aehostz 'sd.!19²é日本ǅ\u0301🙂\t\n\u3000", max_size=40))
def test_merges_of_all_pieces_end_in_the_tokens(bundled, text):
    ranks = token_ranks(bundled.tokenizer)
    ids = [ranks[part] for piece in pieces(text) for part in merge_steps(piece.encode(), ranks)[-1]]
    assert ids == bundled.tokenizer.encode_ordinary(text)


# ---- the page


def test_page_data_equals_the_arrays(example):
    data, T = data_of(example.page()), len(example.tokens)
    arrays, lower = data["arrays"], np.tril_indices(T)

    def check(name, expected, tolerance=1e-6):
        assert arrays[name].shape == expected.shape
        np.testing.assert_allclose(arrays[name], expected, rtol=tolerance, atol=tolerance / 10, err_msg=name)

    assert "pattern" not in "".join(name for name in arrays if name.startswith("h."))
    for layer, name in itertools.product(range(6), ("attn.q", "attn.k", "attn.v", "attn.scores")):
        codes, (low, step) = arrays[f"h.{layer}.{name}"], np.moveaxis(arrays[f"h.{layer}.{name}.range"], -1, 0)
        exact = example[f"h.{layer}.{name}"][0]
        if name == "attn.scores":
            exact, low, step = exact[..., *lower], low[:, lower[0]], step[:, lower[0]]
        else:
            low, step = low[..., None], step[..., None]
        assert codes.dtype == np.uint16
        assert (np.abs(low + step * codes.astype(float) - exact) <= 0.51 * step + 1e-6).all()  # step: range / 65535
    for name in ("h.3.resid_pre", "h.0.resid_mid"):
        check(name, example[name][0], 0)
    for name in ("h.2.ln_1.weight", "h.5.ln_2.bias"):
        check(name, example.model.weights[name], 0)
    for name in ("heads.kinds", "heads.tokens", "neurons.tokens", "direct.heads", "direct.neurons", "direct.biases"):
        check(name, example[name])
    for name in ("embed", "pos_embed", "ln_f"):
        check(f"norm.{name}", np.linalg.norm(example[name], axis=-1).reshape(T))
    for name in ("resid_pre", "ln_1", "attn.q", "attn.k", "attn.v", "attn.pattern", "attn.z", "attn_out", "resid_mid"):
        check(f"norm.{name}", np.linalg.norm(example.layers(name), axis=-1))
    for name in ("ln_2", "mlp.pre", "mlp.post", "mlp_out", "resid_post"):
        check(f"norm.{name}", np.linalg.norm(example.layers(name), axis=-1))
    for name in ("heads.norm", "neurons", "lens.tokens", "lens.probabilities", "lens.target", "nearest.tokens"):
        check(name, example[name])
    for name in ("surprisal", "nearest.cosines", "ablation.heads", "ablation.mlps"):
        check(name, example[name])
    pre = example.layers("mlp.pre")
    check("neurons.pre", np.take_along_axis(pre, example["neurons"], axis=-1))
    check("neurons.post", np.take_along_axis(example.layers("mlp.post"), example["neurons"], axis=-1))
    assert (arrays["pre.counts"].sum(axis=-1) == pre.shape[-1]).all()
    check("activation.y", model.gelu(arrays["activation.x"]))
    check("next.logits", -np.sort(-example["logits"][-1]))
    check("next.tokens", np.argsort(-example["logits"][-1], kind="stable")[:200])
    for name in ("resid_pre", "ln_1", "resid_mid", "ln_2"):
        check(f"mean.{name}", example.layers(name).mean(-1))
        check(f"std.{name}", example.layers(name).std(-1))
    assert arrays["next.tokens"][arrays["next.rank"]] == example.target[0]
    for name, letters, shape in data["steps"]:
        assert tuple(shape) == example[name].shape
        numbers = {**data["dimensions"], "n_inner": data["inner"]}
        assert [numbers[letter] for letter in re.findall(r"\w+", letters)] == shape


def test_page_shows_the_source_that_ran(example):
    page = example.page()
    sources = data_of(page)["sources"]
    assert sources["model.attention"]["code"] == inspect.getsource(model.attention)
    assert sources["activation"]["code"] == inspect.getsource(model.gelu)
    lines = (FOLDER.parents[1] / "numpy_gpt2" / "model.py").read_text().split("\n")
    for name, source in sources.items():
        file, line = source["where"].split(", line ")
        if file == "numpy_gpt2/model.py":
            assert lines[int(line) - 1] == source["code"].split("\n")[0], name
        assert source["equation"] in source["code"].replace("`", "")
    shown = {name.partition(".")[2] for name in sources}
    functions = {
        "layer_norm",
        "softmax",
        "linear",
        "causal_mask",
        "attention",
        "mlp",
        "block",
        "hidden_states",
        "logits",
    }
    assert functions | {"forward", "cross_entropy", "probabilities"} <= shown
    assert set(re.findall(r'data-equation="([\w.]+)"', page)) <= sources.keys()


def test_prompt_adds_no_tags_to_the_page(bundled):
    plain, hostile = explain("a", bundled).page(), explain(HOSTILE, bundled, target="</script>").page()
    assert data_of(hostile)["text"] == HOSTILE

    def tags(page):
        return [tag for tag in re.findall(r"<[!/]?[a-zA-Z-]*", page) if tag != "<"]

    assert tags(hostile) == tags(plain)


def test_page_links_to_nothing(example):
    page = example.page()
    data = re.search(r'<script id="data".*?</script>', page, re.DOTALL)[0]
    rest = page.replace(data, "")
    assert not re.findall(r"https?://(?!www\.w3\.org/(?:2000/svg|1999/xhtml)\")", rest)
    assert not re.findall(r"@import|url\(|<link (?!rel=\"icon\" href=\"data:,\")|\bsrc=", rest)
    assert "default-src 'none'" in rest


@pytest.mark.parametrize(("name", "T"), [("one_channel_heads", 40), ("plain", 60), ("narrow_mlp", 1)])
def test_size_of_a_page_is_known_before(name, T, bundled):
    config = dataclasses.replace(variation(name), vocab_size=1024, n_positions=64)
    weights = init_weights(config, np.random.default_rng(0))
    e = explain("a b" * 60, gpt2.Model(weights, config, bundled.tokenizer), max_tokens=T)
    size, expected = len(e.page().encode()), page_bytes(config, T)
    assert len(e.tokens) == T
    assert size <= expected <= size + FIXED_BYTES + 0.1 * size


def test_page_above_the_limit_is_refused_with_the_number_of_tokens_that_fit(example, monkeypatch):
    config = GPT2Config.preset("gpt2")
    with pytest.raises(ValueError, match=r"for 840 tokens is 300 MB; it must be 100 MB at most; .*--max-tokens 370$"):
        check_size(config, 840)
    fits = next(T for T in range(840, 0, -1) if page_bytes(config, T) <= MAX_BYTES)
    check_size(config, fits)
    with pytest.raises(ValueError, match=f"--max-tokens {fits}$"):
        check_size(config, fits + 1)
    with pytest.raises(ValueError, match="choose a smaller model"):
        check_size(dataclasses.replace(config, n_layer=4096), 2)
    monkeypatch.setattr(page_module, "MAX_BYTES", 10_000)  # of the page itself, if the estimate was too low
    with pytest.raises(ValueError, match="the page is 1 MB; it must be"):
        example.page()


def test_large_page_stays_below_5_mb(bundled):
    config = GPT2Config(n_embd=96, vocab_size=50257)
    weights = init_weights(config, np.random.default_rng(0))
    tokenizer = bundled.tokenizer
    e = explain("and you " * 60, gpt2.Model(weights, config, tokenizer), ablate=False)
    assert len(e.tokens) == 64
    assert len(e.page().encode()) < 5_000_000


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([*VARIATIONS]), st.text(max_size=12), st.sampled_from([0.02, 1, 30]))
def test_any_model_and_any_text_can_be_explained(bundled, seed, name, text, scale):
    config = dataclasses.replace(variation(name), vocab_size=1024)
    rng = np.random.default_rng(seed)
    weights = {key: array * scale / 0.02 for key, array in init_weights(config, rng).items()}
    e = explain(text, gpt2.Model(weights, config, bundled.tokenizer), max_tokens=8, ablate=True)
    data = data_of(e.page())
    for key, array in data["arrays"].items():
        finite = array[1:] if key == "surprisal" else array
        assert np.isfinite(finite).all(), key
    assert data["sources"]["activation"]["code"] == inspect.getsource(model.ACTIVATIONS[config.activation_function])
    assert e.text(60)


def test_notebook_shows_the_page_in_a_frame(example):
    html = example._repr_html_()
    assert html.startswith("<iframe srcdoc=")
    assert html.count("<") == html.count(">") == 2
