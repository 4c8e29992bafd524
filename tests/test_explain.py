"""The explanation: against transformers, by the saved outputs of tests/reference/, and against the code itself."""

import base64
import dataclasses
import inspect
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import numpy_gpt2 as gpt2
from numpy_gpt2 import GPT2Config, init_weights, load, model
from numpy_gpt2 import explain as MODULE
from numpy_gpt2.hub import bundled_folder

from .conftest import PROMPT, run_in_process, write_model
from .reference.seeded import FOLDER, VARIATIONS, variation

explain = MODULE.explain


@pytest.fixture(scope="module")
def references():
    with np.load(FOLDER / "explain.npz") as file:
        return dict(file)


def page_data(page: str) -> dict:
    """What the page's element "data" holds, arrays decoded."""
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])
    for name, array in data["arrays"].items():
        values = np.frombuffer(base64.b64decode(array["data"]), array["dtype"]).reshape(array["shape"])
        data["arrays"][name] = values
    return data


# ---- the numbers


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("i", [0, 1])
def test_it_equals_transformers(i, dtype, references):
    expected = {name.removeprefix(f"{i}/"): value for name, value in references.items() if name.startswith(f"{i}/")}
    e = explain(str(expected["prompt"]), load(bundled_folder(), dtype), target=str(expected["target"]), ablate=True)
    tolerance = 1e-5 if dtype == np.float32 else 1e-11

    def check(actual, name):
        largest = np.abs(expected[name]).max(initial=1)
        np.testing.assert_allclose(actual, expected[name], rtol=0, atol=tolerance * largest)

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


def test_the_arrays_are_what_the_hook_recorded(example, bundled):
    trace = {}
    logits = gpt2.forward(example.tokens, bundled.weights, bundled.config, hook=gpt2.record(trace))
    assert np.array_equal(example["logits"], logits)
    assert len(trace) == 15 * bundled.config.n_layer + 3
    for name, array in trace.items():
        assert np.array_equal(example[name], array), name


def test_the_last_row_of_the_lens_is_the_model(example):
    p = gpt2.softmax(example["logits"])
    assert np.array_equal(example["lens.tokens"][-1], np.argsort(-example["logits"], axis=-1, kind="stable")[:, :10])
    assert np.array_equal(example["lens.probabilities"][-1], -np.sort(-p, axis=-1)[:, :10])
    assert example["lens.target"][-1] == p[-1, example.target[0]]


def test_what_the_heads_write_adds_up(example, bundled):
    w, D = bundled.weights, bundled.config.n_embd // bundled.config.n_head
    for layer in range(bundled.config.n_layer):
        projection = w[f"h.{layer}.attn.c_proj.weight"]
        heads = [z @ projection[i * D : (i + 1) * D] for i, z in enumerate(example[f"h.{layer}.attn.z"][0])]
        np.testing.assert_allclose(example["heads.norm"][layer], np.linalg.norm(heads, axis=-1), rtol=1e-5)
        total = sum(heads) + w[f"h.{layer}.attn.c_proj.bias"]
        np.testing.assert_allclose(total, example[f"h.{layer}.attn_out"][0], rtol=0, atol=1e-5)


def test_the_strongest_neurons(example):
    post = np.abs(example.layers("mlp.post"))
    assert np.array_equal(example["neurons"], np.argsort(-post, axis=-1, kind="stable")[..., :8])


def test_without_a_target_it_is_the_most_probable_token(bundled):
    e = explain("ROMEO", bundled)
    assert e.target == [int(e["logits"][-1].argmax())]
    assert "ablation.heads" not in e.arrays


def test_removing_something_else_changes_nothing(bundled):
    tokens, weights, config = [1, 2, 3], bundled.weights, bundled.config
    whole = gpt2.hidden_states(tokens, weights, config)
    for name in ("h.9.attn.z", "attn.z", "mlp_out", "h.1.mlp"):
        assert np.array_equal(gpt2.hidden_states(tokens, weights, config, hook=MODULE.without(name)), whole)
    trace = {}
    hook = MODULE.without("h.1.attn.z", 2)
    gpt2.hidden_states(tokens, weights, config, hook=lambda name, x: gpt2.record(trace)(name, hook(name, x)))
    assert not trace["h.1.attn.z"][:, 2].any()
    assert trace["h.1.attn.z"][:, [0, 1, 3]].all()


@pytest.mark.parametrize("dtype", ["float64", "int8"])
def test_other_weights(dtype, example):
    e = explain(PROMPT, load(bundled_folder(), dtype), target=" question", ablate=True)
    tolerance = 1e-4 if dtype == "float64" else 0.1
    for name in ("lens.target", "heads.norm", "nearest.cosines", "ablation.heads"):
        np.testing.assert_allclose(e[name], example[name], rtol=tolerance, atol=tolerance, err_msg=name)
    assert page_data(e.page())


def test_the_name_of_a_model_will_do(tiny, monkeypatch):
    e = explain("the you", str(tiny))
    assert np.array_equal(e["logits"], explain("the you", load(tiny))["logits"])
    assert e.facts.startswith("tiny: 2 blocks of 4 heads")
    monkeypatch.chdir(tiny)
    assert explain("the", ".").facts.startswith("tiny: ")


def test_a_folder_of_any_name(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/w\xe9b")
    try:
        e = explain("the", write_model(Path(folder)))
    except OSError:
        pytest.skip("this file system takes no such name")
    assert page_data(e.page())["facts"].startswith("w\ufffdb: ")


def test_a_head_of_its_own_counts(bundled):
    head = bundled.weights["wte.weight"] * 2
    own = bundled._replace(weights=bundled.weights | {"lm_head.weight": head})
    n = bundled.config.num_parameters() + head.size
    assert explain("a", own).facts.endswith(f" {n:,} parameters")


def test_damaged_weights(bundled):
    weights = bundled.weights | {"wpe.weight": np.full_like(bundled.weights["wpe.weight"], np.nan)}
    with pytest.raises(ValueError, match="not finite"):
        explain("a", bundled._replace(weights=weights))


def test_a_long_prompt_is_cut_from_the_left(bundled):
    ids = bundled.tokenizer.encode_ordinary("and " * 300)
    e = explain("and " * 300, bundled)
    assert e.tokens.tolist() == ids[-64:]
    assert e.notice == f"the prompt has {len(ids)} tokens; this is about the last 64"
    assert len(explain("and " * 300, bundled, max_tokens=10_000).tokens) == bundled.config.n_positions
    assert explain("and", bundled).notice == ""
    several = explain("and " * 300, bundled, target=" and and and and", max_tokens=10_000, ablate=False)
    assert len(several.tokens) == bundled.config.n_positions - 3
    whole = explain("and", bundled, target=" and" * 256, ablate=True)
    assert (len(whole.tokens), len(whole.target)) == (1, 256)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ""}, "the target is empty"),
        ({"target": " and" * 257}, "the target has 257 tokens, the model's window only 256"),
        ({"max_tokens": 0}, "max_tokens is 0"),
    ],
)
def test_wrong_arguments(options, message, bundled):
    with pytest.raises(ValueError, match=message):
        explain("a", bundled, **options)


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_the_largest(seed, n, size, ties):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (3, 2, size)) if ties else rng.permutation(6 * size).reshape(3, 2, size)
    places, values = MODULE.largest(x, n)
    assert np.array_equal(values, -np.sort(-x, axis=-1)[..., :n])
    assert np.array_equal(np.take_along_axis(x, places, axis=-1), values)
    if not ties or n >= size:
        assert np.array_equal(places, np.argsort(-x, axis=-1, kind="stable")[..., :n])


# ---- tokens as text


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (b" the", "·the"),
        (b"\n\n", "⏎⏎"),
        (b"\r\n\t", "␍⏎⇥"),
        (b"\xe6\x97", "⟨E6⟩⟨97⟩"),
        ("日本".encode(), "日本"),
        (b"\x00\x1b[31m", "⟨U+0000⟩⟨U+001B⟩[31m"),
        ("\u200b\u202e\xa0".encode(), "⟨U+200B⟩⟨U+202E⟩⟨U+00A0⟩"),
        ("\u0301".encode(), "◌\u0301"),
        ("\ue000\U0010ffff".encode(), "⟨U+E000⟩⟨U+10FFFF⟩"),
        ("\u0489\u0a3e".encode(), "◌\u0489\u0a3e"),
        ("❤\ufe0f\U000e0100\u3164\u2800".encode(), "❤⟨U+FE0F⟩⟨U+E0100⟩⟨U+3164⟩⟨U+2800⟩"),
        ("·⏎".encode(), "⟨U+00B7⟩⟨U+23CE⟩"),
        (b"", ""),
        (b"<|endoftext|>", "<|endoftext|>"),
    ],
)
def test_a_token_is_visible(token, expected):
    assert MODULE.visible(token) == expected


@given(st.binary(min_size=1, max_size=12))
def test_any_bytes_are_visible(token):
    text = MODULE.visible(token)
    assert text.isprintable()
    assert " " not in text


def test_ids_that_stand_for_nothing(tmp_path):
    padded = load(write_model(tmp_path / "padded", vocab_size=300))
    e = explain("the you", padded)
    unused = e["lens.tokens"][e["lens.tokens"] >= padded.tokenizer.n_vocab].tolist()
    assert unused
    pieces = page_data(e.page())["pieces"]
    for token in unused:
        assert MODULE.token_text(token, padded) == pieces[str(token)] == f"⟨unused {token}⟩"
    assert "⟨unused" in e.text()


# ---- the page


def test_the_page_holds_what_was_recorded(example):
    data, T = page_data(example.page()), len(example.tokens)
    arrays, lower = data["arrays"], np.tril_indices(T)

    def check(name, expected, tolerance=1e-6):
        assert arrays[name].shape == expected.shape
        np.testing.assert_allclose(arrays[name], expected, rtol=tolerance, atol=tolerance / 10, err_msg=name)

    check("pattern", example.layers("attn.pattern")[..., *lower], 0)
    check("scores", example.layers("attn.scores")[..., *lower], 0)
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


def test_the_page_shows_the_code_that_ran(example):
    page = example.page()
    sources = page_data(page)["sources"]
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


HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>__DATA__ & \"'"


def test_text_stays_text(bundled):
    plain, hostile = explain("a", bundled).page(), explain(HOSTILE, bundled, target="</script>").page()
    assert page_data(hostile)["text"] == HOSTILE

    def tags(page):
        return [tag for tag in re.findall(r"<[!/]?[a-zA-Z-]*", page) if tag != "<"]

    assert tags(hostile) == tags(plain)


def test_nothing_is_loaded_from_elsewhere(example):
    page = example.page()
    data = re.search(r'<script id="data".*?</script>', page, re.DOTALL)[0]
    rest = page.replace(data, "")
    assert not re.findall(r"https?://(?!www\.w3\.org/(?:2000/svg|1999/xhtml)\")", rest)
    assert not re.findall(r"@import|url\(|<link (?!rel=\"icon\" href=\"data:,\")|\bsrc=", rest)
    assert "default-src 'none'" in rest


def test_the_size_of_a_large_page(bundled):
    config = GPT2Config(n_embd=96, vocab_size=50257)
    weights = init_weights(config, np.random.default_rng(0))
    tokenizer = bundled.tokenizer
    e = explain("and you " * 60, gpt2.Model(weights, config, tokenizer), ablate=False)
    assert len(e.tokens) == 64
    assert len(e.page().encode()) < 5_000_000


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([*VARIATIONS]), st.text(max_size=12), st.sampled_from([0.02, 1, 30]))
def test_any_model_and_any_text(seed, name, text, scale):
    config = dataclasses.replace(variation(name), vocab_size=1024)
    rng = np.random.default_rng(seed)
    weights = {key: array * scale / 0.02 for key, array in init_weights(config, rng).items()}
    e = explain(text, gpt2.Model(weights, config, load(bundled_folder()).tokenizer), max_tokens=8, ablate=True)
    data = page_data(e.page())
    for key, array in data["arrays"].items():
        finite = array[1:] if key == "surprisal" else array
        assert np.isfinite(finite).all(), key
    assert data["sources"]["activation"]["code"] == inspect.getsource(model.ACTIVATIONS[config.activation_function])
    assert e.text(60)


def test_in_a_notebook(example):
    html = example._repr_html_()
    assert html.startswith("<iframe srcdoc=")
    assert html.count("<") == html.count(">") == 2


# ---- the terminal


def test_the_story(example):
    text = example.text(width=100)
    assert "shakespeare: 6 blocks of 4 heads, 256 channels, a vocabulary of 1,024 tokens, 5,066,752 parameters" in text
    for position in range(1, len(example.tokens)):
        piece = MODULE.token_text(example.tokens[position], example.model)
        bits = example["surprisal"][position]
        number, data = (
            example.tokens[position],
            example.model.tokenizer.decode_single_token_bytes(example.tokens[position]),
        )
        assert re.search(rf"^ +{position} +{number}  {re.escape(piece)} +{data.hex(' ')} +{bits:.2f} ", text, re.M)
    for name in ("embed", "h.0.attn.pattern", "h.5.resid_post", "ln_f"):
        shape = " × ".join(map(str, example[name].shape))
        mean = np.linalg.norm(example[name], axis=-1).mean()
        assert re.search(rf"^{re.escape(name)} +\([\w, ]+\) +{shape} +{mean:,.4g}$", text, re.M)
    p = example["lens.probabilities"][-1, -1]
    for token, share in zip(example["lens.tokens"][-1, -1], p, strict=True):
        piece = re.escape(MODULE.token_text(token, example.model))
        assert re.search(rf"^ +{token}  {piece} +{share:.2%}", text, re.M)
    assert f"{example['lens.target'][-1]:.2%}    ← the target, its first token" in text
    assert f"ln p(·question) = {example['target.log_probability']:.3f} nats" in text
    assert "ln p(·question)" in text
    for layer in range(6):
        numbers = [*example["ablation.heads"][layer], example["ablation.mlps"][layer]]
        assert re.search(rf"^h\.{layer} +" + " +".join(re.escape(f"{x:+.3f}") for x in numbers) + "$", text, re.M)


@pytest.mark.parametrize("width", [20, 40, 80, 100, 200])
def test_the_lens_fits_the_terminal(width, example):
    lens = example.text(width).partition("LOGIT LENS")[2].partition("THE NEXT TOKEN")[0].split("\n")[3:]
    assert max(map(len, lens)) <= max(width, 30)
    n = min(len(example.tokens), max(1, (width - 12) // 18))
    assert (f"the last {n} of 11 positions" in example.text(width)) == (n < 11)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abc", "abc     "),
        ("日本", "日本    "),
        ("abcdefghij", "abcdef… "),
        ("日本日本日", "日本日… "),
        ("e\u0301", "e\u0301       "),
    ],
)
def test_a_column_of_text(text, expected):
    assert MODULE.fit(text, 8) == expected


def test_the_example_of_the_readme(bundled):
    """Word for word, but for the last digits, which depend on the processor."""
    readme = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    expected = readme.partition("THE NEXT TOKEN\n")[2].partition("```")[0]
    e = explain("KING RICHARD III:\nA horse! a horse! my kingdom for a", bundled, ablate=True)
    actual = e.text().partition("THE NEXT TOKEN\n")[2]
    number = r"[-+]?\d+\.\d+"
    assert re.sub(number, "", actual).split() == re.sub(number, "", expected).split()
    np.testing.assert_allclose(
        [float(x) for x in re.findall(number, actual)], [float(x) for x in re.findall(number, expected)], atol=0.011
    )


# ---- the command


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_in_process(MODULE.main, capsys, *arguments)


def test_the_page_is_written(cli, tiny, tmp_path):
    result = cli("-m", tiny, "the you")
    assert (result.status, result.out, result.err) == (0, f"{tmp_path / 'explain.html'}\n", "")
    assert page_data((tmp_path / "explain.html").read_text(encoding="utf-8"))["text"] == "the you"
    assert list(tmp_path.iterdir()) == [tmp_path / "explain.html"]
    before = (tmp_path / "explain.html").stat().st_ino
    result = cli("-m", tiny, "-o", "new/page.html", "the you", "--ablate", "--target", " a")
    assert result.status == 0
    assert "ablation" in result.err
    data = page_data((tmp_path / "new" / "page.html").read_text(encoding="utf-8"))
    assert "ablation.heads" in data["arrays"]
    assert data["target"] == [load(tiny).tokenizer.encode_single_token(" a")]
    assert (tmp_path / "explain.html").stat().st_ino == before


def test_a_notice_of_a_cut(cli, tiny, tmp_path):
    result = cli("-m", tiny, "--max-tokens", "1000", "the " * 100)
    assert re.fullmatch(
        r"note: the prompt has \d+ tokens; this is about the last 64; it fills the window\n", result.err
    )
    result = cli("-m", tiny, "--max-tokens", "3", "the you the you")
    n = len(load(tiny).tokenizer.encode_ordinary("the you the you"))
    notice = f"the prompt has {n} tokens; this is about the last 3"
    assert result.err == f"note: {notice}; --max-tokens changes that\n"
    assert page_data((tmp_path / "explain.html").read_text(encoding="utf-8"))["notice"] == notice


def test_text_in_place_of_a_page(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    result = cli("-m", tiny, "--text", "the you the you")
    assert result.status == 0
    assert "the last 2 of" in result.out
    assert result.out == explain("the you the you", load(tiny)).text(60)
    assert not list(tmp_path.iterdir())


def test_it_opens_the_page(cli, tiny, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(MODULE.webbrowser, "open", lambda url: opened.append(url) or True)
    assert cli("-m", tiny, "--open", "-o", "a b.html", "the").err == ""
    assert opened == [(tmp_path / "a b.html").as_uri()]
    monkeypatch.setattr(MODULE.webbrowser, "open", lambda url: False)
    result = cli("-m", tiny, "--open", "the")
    assert (result.status, result.err) == (0, "note: no browser was found to open it with\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "-o", "x.html", "a"], "--text makes no page"),
        (["--text", "--open", "a"], "--text makes no page"),
        (["--target", "", "a"], "--target: '' is not UTF-8 text of one character or more"),
        (["--max-tokens", "0", "a"], "--max-tokens: '0' is not a whole number"),
        (["a", "b"], "a prompt of several words needs quotes"),
    ],
)
def test_a_wrong_command_line(arguments, message, cli, tiny, tmp_path):
    result = cli("-m", tiny, *arguments)
    assert result.status == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_where_no_page_can_be_written(cli, tiny, tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    for name in ("file/page.html", "folder", "/dev/null"):
        result = cli("-m", tiny, "-o", name, "the")
        assert result.status == 1
        assert re.fullmatch(r"error: .*\n", result.err)
        assert result.out == ""
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", tmp_path / "folder"]


def test_a_link_to_a_page(cli, tiny, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.html").symlink_to("there/page.html")
    assert cli("-m", tiny, "-o", "link.html", "the").status == 0
    assert (tmp_path / "link.html").is_symlink()
    assert page_data((tmp_path / "there" / "page.html").read_text(encoding="utf-8"))["text"] == "the"
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    result = cli("-m", tiny, "-o", "a", "the")
    assert result.status in (0, 1)
    assert result.status == 0 or result.err.startswith("error: ")


def test_a_failure_makes_no_folders(cli, tiny, tmp_path):
    result = cli("-m", tiny, "-o", "new/folder/page.html", "--target", "the " * 100, "the")
    assert result.status == 1
    assert result.err.startswith("error: the target has ")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_known_at_once(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE.os, "access", lambda path, mode: path != tmp_path)  # as for users that are not root
    monkeypatch.setattr(MODULE, "explain", None)
    result = cli("-m", tiny, "-o", "new/page.html", "the")
    assert (result.status, result.err) == (
        1,
        f"error: {tmp_path / 'new' / 'page.html'} cannot be written; give the page another place with -o\n",
    )


def test_ctrl_c(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "ablation", lambda *_: signal.raise_signal(signal.SIGINT))
    assert cli("-m", tiny, "--ablate", "-o", "new/page.html", "the").status == 130
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_page(cli, tiny, tmp_path, monkeypatch):
    (tmp_path / "explain.html").write_text("the old one")

    def fail(*arguments, **options):
        raise ValueError("the logits are not finite")

    monkeypatch.setattr(MODULE, "explain", fail)
    assert cli("-m", tiny, "the").err == "error: the logits are not finite\n"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the old one"]


def test_from_the_shell(tiny, tmp_path):
    """As a process of its own, with the prompt from a pipe; an empty one is the beginning of a text."""
    command = [sys.executable, "-m", "numpy_gpt2.explain", "-m", str(tiny), "--text"]
    result = subprocess.run(command, input=b"the you\n", capture_output=True, cwd=tmp_path, timeout=60)
    assert (result.returncode, result.stderr) == (0, b"")
    assert "·you" in result.stdout.decode()
    piped = subprocess.run(f"{shlex.join([*command, 'a'])} | true", shell=True, capture_output=True, timeout=60)
    assert piped.stderr == b""
    plain = subprocess.run([*command, "the"], capture_output=True, env={**os.environ, "LC_ALL": "C"}, timeout=60)
    assert "█" in plain.stdout.decode("utf-8")
    result = subprocess.run([*command, ""], capture_output=True, cwd=tmp_path, timeout=60)
    assert result.returncode == 0
    assert "<|endoftext|>" in result.stdout.decode()


def test_without_a_model_the_bundled_one_answers(tmp_path):
    command = [sys.executable, "-m", "numpy_gpt2.explain", "--text", "ROMEO:"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NUMPY_GPT2_WEIGHTS": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    assert result.returncode == 0
    assert result.stdout.startswith(b"shakespeare: ")
    assert result.stderr.startswith(b"note: the bundled model shakespeare answers")
