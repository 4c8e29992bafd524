"""The backward pass on the explain page: against autograd's saved gradients, and what the page shows of it."""

import json
import re
import sys

import numpy as np
import pytest

import numpy_gpt2 as gpt2
from numpy_gpt2 import backward
from numpy_gpt2.explain import explain
from numpy_gpt2.explain.calls import watch
from numpy_gpt2.explain.gradients import named_gradients
from numpy_gpt2.explain.page import page_arrays
from numpy_gpt2.explain.size import FIXED_BYTES, page_bytes
from numpy_gpt2.explain.visible import token_text

from .browser import cells_of, data_of, minus, text_of, written
from .conftest import write_model
from .reference.seeded import EXPLAINED, FOLDER, explained_config, seeded_weights
from .test_explain_pictures import assert_affine, colors_of, root_color, select

LAYER, HEAD, POSITION, QUERY, KEY = 1, 2, 3, 4, 2


def explained(name, prompt, target, dtype, bundled, **options):
    config = explained_config(name)
    weights = {key: array.astype(dtype) for key, array in seeded_weights(config, 0, 0.3).items()}
    model = gpt2.Model(weights, config, bundled.tokenizer)
    return explain(prompt, model, target=target, gradients=True, **options)


@pytest.fixture(scope="module")
def e(bundled):
    """An explanation with gradients and ablation. Its numbers are large enough to be seen."""
    return explained("plain", "To be, or not", " to", np.float32, bundled, ablate=True)


@pytest.fixture(scope="module")
def page(browser, e, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(e.page(), encoding="utf-8")
    page = browser.open(file.as_uri(), width=1200)
    page.evaluate(f"choose({{ layer: {LAYER}, head: {HEAD}, position: {POSITION} }})")
    page.evaluate(f"choose({{ query: {QUERY}, key: {KEY} }})")
    yield page
    assert page.problems == []
    page.close()


# ---- the numbers


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "prompt", "target"), EXPLAINED)
def test_gradients_equal_autograd(name, prompt, target, dtype, bundled):
    with np.load(FOLDER / "explain_gradients.npz") as file:
        expected = {key: file[key] for key in file if key.startswith(f"{name}/")}
    found = explained(name, prompt, target, dtype, bundled)
    assert len(expected) == 4 + len(found.model.weights)
    for key, array in expected.items():
        actual = found[f"gradient.{key.removeprefix(f'{name}/')}"]
        tolerance = (1e-5 if dtype == np.float32 else 1e-11) * np.abs(array).max()
        np.testing.assert_allclose(actual, array, rtol=0, atol=tolerance, err_msg=key)
        assert actual.dtype == dtype


def test_every_named_result_has_a_gradient_of_its_shape(e):
    for name, _, array in e.forward_steps(e.model.config.n_layer):
        assert e[f"gradient.{name}"].shape == array.shape, name
    p = gpt2.softmax(e["logits"][-1])
    p[e.target[0]] -= 1
    np.testing.assert_allclose(e["gradient.logits"][-1], -p, atol=1e-6)


def test_small_changes_of_named_results_change_the_objective_by_the_gradient(bundled):
    e = explained("plain", "To be, or not", " to", np.float64, bundled)
    rng = np.random.default_rng(0)
    for name, _, array in e.forward_steps(2):
        if name.endswith("attn.scores"):
            continue
        change = 1e-6 * rng.standard_normal(array.shape)
        if name.endswith("attn.pattern"):
            change = np.tril(change)

        def log_p(sign, name=name, change=change):
            hook = lambda at, x: x + sign * change if at == name else x  # noqa: E731
            logits = gpt2.forward(e.tokens, e.model.weights, e.model.config, hook=hook)
            return -gpt2.model.cross_entropy(logits[-1:], e.target)

        expected = np.vdot(change, e[f"gradient.{name}"])
        assert log_p(1) - log_p(-1) == pytest.approx(2 * expected, rel=1e-5, abs=1e-11), name


def test_int8_weights_have_gradients(tmp_path):
    int8 = gpt2.load(write_model(tmp_path / "model"), "int8")
    exact = int8._replace(weights={name: np.asarray(weight) for name, weight in int8.weights.items()})
    expected = explain("the you", exact, gradients=True)["gradient.heads"]
    actual = explain("the you", int8, gradients=True)["gradient.heads"]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_functions_that_do_not_call_each_other_are_an_error():
    with pytest.raises(ValueError, match="leave out --gradients, or leave out --with"):
        named_gradients([], 1)


def test_gradients_of_a_pass_that_a_hook_changes_are_refused(bundled):
    with pytest.raises(ValueError, match="leave out gradients, or leave out the hook"):
        explain("To be", bundled, gradients=True, hook=lambda name, x: x)


def test_watch_records_calls_in_the_order_in_which_they_return(bundled):
    before, w = sys.getprofile(), np.ones((2, 2))
    with watch(backward) as calls:
        backward.mlp_backward(
            np.ones((1, 2)),
            np.ones((1, 2)),
            {"mlp.c_fc.weight": w, "mlp.c_fc.bias": w[0], "mlp.c_proj.weight": w, "mlp.c_proj.bias": w[0]},
            gpt2.relu,
            {"mlp.pre": np.ones((1, 2)), "mlp.post": np.ones((1, 2))},
        )
    assert [call.name for call in calls] == ["linear_backward", "relu_backward", "linear_backward", "mlp_backward"]
    assert calls[1].arguments[0] is calls[0].result[0]
    assert sys.getprofile() is before


# ---- the page


def test_page_has_the_gradients_only_if_they_were_computed(e, bundled):
    arrays = data_of(e.page())["arrays"]
    for name in ("stream", "embeddings", "heads", "mlps"):
        assert np.array_equal(arrays[f"gradient.{name}"], e[f"gradient.{name}"])
    rows, columns = np.tril_indices(len(e.tokens))
    low, step = np.moveaxis(arrays["gradient.h.1.attn.pattern.range"], -1, 0)
    decoded = low[:, rows] + step[:, rows] * arrays["gradient.h.1.attn.pattern"].astype(float)
    exact = e["gradient.h.1.attn.pattern"][0][:, rows, columns]
    np.testing.assert_allclose(decoded, exact, atol=1e-5 * np.abs(exact).max())
    assert not [name for name in page_arrays(explain("a", bundled)) if name.startswith("gradient")]


@pytest.mark.parametrize(("name", "T"), [("one_channel_heads", 30), ("narrow_mlp", 25), ("plain", 1)])
def test_size_of_a_page_with_gradients_is_known_before(name, T, bundled):
    e = explained(name, "a b" * 30, None, np.float32, bundled, max_tokens=T)
    size, expected = len(e.page().encode()), page_bytes(e.model.config, T, gradients=True)
    assert len(e.tokens) == T
    assert size <= expected <= size + FIXED_BYTES + 0.1 * size


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1200])
def test_section_fits_the_window(width, dark, shown, e):
    page = shown(e, width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.getElementById('no-gradients').hidden")
    tops = select(page, ".pair details", "x.getBoundingClientRect().top")
    assert (tops[0] == tops[1]) == (width > 900)  # the columns are side by side


def test_chart_shows_the_length_of_the_gradient_after_each_step(page, e):
    lengths = e["gradient.stream"][-1, :, POSITION]
    lengths = lengths[lengths > 0]  # in the end, only the position that predicts has a gradient
    places = [float(y) for y in select(page, "#gradient-chart circle", "x.getAttribute('cy')")]
    assert_affine(places, np.log(lengths), falling=True)
    assert text_of(page, "#objective-output").startswith(
        "The objective is ln p(·to), given the tokens up to position 4"
    )
    page.evaluate("choose({ objective: 1 })")
    assert select(page, "#gradient-chart circle", "1") == []  # position 3 comes later
    page.evaluate("choose({ objective: 4 })")


def test_tokens_have_gradient_times_embedding(page, e):
    for objective in (2, 4):
        page.evaluate(f"choose({{ objective: {objective} }})")
        products = e["gradient.embeddings"][objective]
        assert np.abs(colors_of(page, "#gradient-strip button") - root_color(products.sum(0))).max() <= 1.5
        for t, row in enumerate(cells_of(page, "#gradient-table")[1:]):
            assert row[:2] == [str(t), token_text(e.tokens[t], e.model)]
            numbers = [*products[:, t], products[:, t].sum()]
            assert [float(x.replace("−", "-")) for x in row[2:5]] == pytest.approx(numbers, abs=6e-4)
            assert row[5] == written(e["gradient.stream"][objective, 0, t])


def test_parts_have_the_estimate_beside_the_removal(page, e):
    estimates = -np.column_stack([e["gradient.heads"][-1], e["gradient.mlps"][-1]])
    real = np.column_stack([e["ablation.heads"], e["ablation.mlps"]])
    assert [row[1:] for row in cells_of(page, "#estimate-table")[1:]] == [
        [minus(f"{x:+.3f}") for x in row] for row in estimates
    ]
    assert np.abs(colors_of(page, "#estimate-table td") - root_color(estimates.ravel())).max() <= 1.5
    tips = select(page, "#estimate-chart [data-tip]", "x.dataset.tip")
    expected = [minus(f"estimated {a:+.3f}, measured {b:+.3f}") for a, b in zip(estimates.flat, real.flat, strict=True)]
    assert [tip.split("\n")[1] for tip in tips] == expected
    root = lambda x: np.sign(x) * np.sqrt(np.abs(x))  # noqa: E731
    circles = select(page, "#estimate-chart circle", "[Number(x.getAttribute('cx')), Number(x.getAttribute('cy'))]")
    x, y = np.transpose(circles)
    assert_affine(x, root(estimates[:, -1]))
    assert_affine(y, root(real[:, -1]), falling=True)
    paths = select(page, "#estimate-chart path", "x.getAttribute('d').match(/[\\d.]+/g).slice(0, 2).map(Number)")
    assert_affine(np.transpose(paths)[0], root(estimates[:, :-1].ravel()))
    assert_affine(np.transpose(paths)[1], root(real[:, :-1].ravel()), falling=True)
    worst = np.unravel_index(np.abs(estimates - real).argmax(), real.shape)
    name = f"head {worst[1]}" if worst[1] < e.model.config.n_head else "the MLP"
    assert text_of(page, "#estimate-output").startswith(f"The estimate fails most for {name} of block {worst[0]} (")
    page.evaluate("choose({ objective: 0 })")
    assert "Choose the last position" in text_of(page, "#estimate-output")
    page.evaluate("choose({ objective: 4 })")


def test_steps_show_shapes_and_lengths_of_both_passes(page, e):
    rows = "[...y.rows].map(z => [...z.cells].map(c => c.textContent))"
    sides = f"[...document.querySelectorAll('.pair')].map(x => [...x.querySelectorAll('.numbers')].map(y => {rows}))"
    names = page.evaluate("[...document.querySelectorAll('.pair')].map(x => x.querySelector('.name').textContent)")
    steps = dict(zip(names, page.evaluate(sides), strict=True))
    prefix = f"h.{LAYER}."

    def length(x):
        return written(float(np.linalg.norm(x)))

    forward, back = steps["attention"]
    for row, d, name in zip(forward, back, ("attn.q", "attn.k", "attn.v", "attn.z"), strict=True):
        shape = str(e[prefix + name].shape)
        assert row == [prefix + name, shape, length(e[prefix + name][0, HEAD, POSITION])]
        assert d == [f"d {prefix}{name}", shape, length(e[f"gradient.{prefix}{name}"][0, HEAD, POSITION])]
    forward, back = steps["layer_norm"]
    assert forward[1][2] == length(e[f"{prefix}ln_2"][0, POSITION])
    assert back[0][2] == length(e[f"gradient.{prefix}resid_mid"][0, POSITION])
    assert forward[2] == [f"{prefix}ln_2.weight", "(24)", length(e.model.weights[f"{prefix}ln_2.weight"])]
    assert back[2][2] == written(float(e[f"gradient.weights.{prefix}ln_2.weight"]))
    assert steps["logits"][1][1] == ["d logits", "(5, 1024)", length(e["gradient.logits"][POSITION])]


def test_row_of_scores_can_be_checked_by_hand(page, e):
    name = f"h.{LAYER}.attn"
    y, dy = e[f"{name}.pattern"][0, HEAD, QUERY], e[f"gradient.{name}.pattern"][0, HEAD, QUERY]
    dx = e[f"gradient.{name}.scores"][0, HEAD, QUERY]
    table = cells_of(page, "#row-table")[1:]
    for key, row in enumerate(table[:-1]):
        numbers = [float(x.replace("−", "-")) for x in row[2:]]
        total = y @ dy
        expected = [y[key], dy[key], y[key] * dy[key], dy[key] - total, dx[key]]
        assert numbers == pytest.approx(expected, abs=6e-5)
    assert len(table) == QUERY + 2
    assert float(table[-1][6].replace("−", "-")) == pytest.approx(0, abs=1e-4)
    assert select(page, "#row-table .marked", "x.rowIndex - 1") == [KEY]


def test_logits_have_the_gradient_1_or_0_minus_p(page, e):
    p, tokens = gpt2.softmax(e["logits"][-1]), np.argsort(-e["logits"][-1], kind="stable")
    rows = cells_of(page, "#loss-table")[1:]
    shown = [*tokens[:6], *([e.target[0]] if e.target[0] in tokens[6:200] else [])]
    assert [row[0] for row in rows] == [token_text(token, e.model) for token in shown]
    for row, token in zip(rows, shown, strict=True):
        assert row[2] == str(int(token == e.target[0]))
        assert row[3:] == [minus(f"{x:.4f}") for x in (p[token], (token == e.target[0]) - p[token])]


def test_both_sources_of_a_step_open_together_and_links_keep_the_objective(page):
    page.evaluate("document.querySelector('.pair details').open = false")
    page.evaluate("new Promise(requestAnimationFrame)")
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    assert select(page, ".pair details", "x.open")[:2] == [False, False]
    page.evaluate("choose({ objective: 2 })")
    assert "objective=2" in page.evaluate("address")
    page.evaluate("choose({ objective: 4 })")


def test_page_without_gradients_says_how_to_get_them(shown, example):
    page = shown(example)
    assert page.evaluate("document.getElementById('backward').hidden")
    assert re.search("needs --gradients", text_of(page, "#no-gradients"))
    assert json.loads(page.evaluate("JSON.stringify(DATA.weights)")) == {}
