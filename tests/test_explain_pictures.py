"""The pictures of the explain page: colors, bars, marks and frames stand for the right numbers, at the right places."""

import json
import math
import re

import numpy as np
import pytest

import numpy_gpt2 as gpt2
from numpy_gpt2.explain.visible import token_text

from .browser import cells_of, minus, text_of, written

LAYER, HEAD, POSITION, QUERY, KEY = 3, 2, 7, 9, 4
STOPS = {
    "blue": [(251, 250, 248), (178, 208, 232), (60, 132, 188), (8, 48, 107)],
    "orange": [(251, 250, 248), (253, 208, 162), (230, 110, 30), (127, 39, 4)],
}


@pytest.fixture(scope="module")
def page(browser, example, tmp_path_factory):
    """The page of the example, with choices that are all different from each other."""
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(example.page(), encoding="utf-8")
    page = browser.open(file.as_uri())
    page.evaluate(f"choose({{ layer: {LAYER}, head: {HEAD}, position: {POSITION}, row: 2 }})")
    page.evaluate(f"choose({{ query: {QUERY}, key: {KEY}, channel: 5 }})")
    yield page
    assert page.problems == []
    page.close()


def ramp(hue, share):
    """The color of a number from 0 to 1, as in elements.js."""
    share = np.round(255 * np.clip(share, 0, 1)) / 255
    return np.stack([np.interp(3 * share, range(4), channel) for channel in zip(*STOPS[hue], strict=True)], axis=-1)


def sign_color(share):
    """The color of a number from −1 to 1."""
    share = np.asarray(share)
    sizes = 0.85 * np.abs(share)
    return np.where(share[..., None] < 0, ramp("orange", sizes), ramp("blue", sizes))


def root_color(values):
    """The colors of numbers with two signs: the square root of their share in the largest."""
    return sign_color(np.sign(values) * np.sqrt(np.abs(values) / np.abs(values).max()))


def select(page, selector, expression):
    """The value of a JavaScript expression for each element x that the selector finds."""
    return page.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map(x => {expression})")


def colors_of(page, selector):
    """The background colors of elements. (N, 3)."""
    found = select(page, selector, "getComputedStyle(x).backgroundColor")
    return np.array([[int(n) for n in re.findall(r"\d+", color)[:3]] for color in found])


def widths_of(page, selector):
    return np.array(select(page, selector, "x.getBoundingClientRect().width"))


def assert_proportional(widths, numbers, tolerance=0.02):
    """Check that bars are as long as their numbers, compared with the longest bar."""
    assert max(widths) > 20
    np.testing.assert_allclose(widths / max(widths), np.asarray(numbers) / np.max(numbers), atol=tolerance)


def assert_affine(places, numbers, falling=False):
    """Check that places on the screen are a linear function of the numbers. Returns this function."""
    slope, offset = np.polyfit(numbers, places, 1)
    np.testing.assert_allclose(places, np.multiply(slope, numbers) + offset, atol=0.2)
    assert (slope < 0) == falling
    return lambda x: slope * np.asarray(x) + offset


# ---- maps


PIXELS = """
function pixels(canvas) {
  const { width, height } = canvas;
  const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return [height, width, Array.from(copy.getImageData(0, 0, width, height).data)];
}
"""


def canvases_of(page, selector):
    """The pixels of each canvas that the selector finds. (height, width, 4) each."""
    page.evaluate(PIXELS)
    return [np.reshape(data, (height, width, 4)) for height, width, data in select(page, selector, "pixels(x)")]


@pytest.mark.parametrize("view", ["pattern", "scores"])
def test_map_shows_the_chosen_head(view, page, example):
    page.evaluate(f"document.querySelector('input[name=view][value={view}]').click()")
    cell, T = page.evaluate("MAP.cell"), len(example.tokens)
    drawn, allowed = canvases_of(page, "#map")[0], np.tri(T, dtype=bool)
    x = example[f"h.{LAYER}.attn.{view}"][0, HEAD]
    expected = ramp("blue", np.sqrt(x)) if view == "pattern" else sign_color(x / np.abs(x[allowed]).max())
    np.testing.assert_allclose(drawn[allowed][:, :3], expected[allowed], atol=2)
    assert (drawn[..., 3] == 255 * allowed).all()
    style = "(s => [s.width, s.height, s.imageRendering, s.backgroundImage])(getComputedStyle(x))"
    *shape, rendering, stripes = select(page, "#map", style)[0]
    assert shape == [f"{T * cell}px"] * 2
    assert rendering == "pixelated"
    assert "repeating-linear-gradient" in stripes  # behind masked cells

    bars = canvases_of(page, "#map-bars")[0][np.arange(T) * cell + cell // 2, :, 3] > 200
    assert_proportional(bars.sum(axis=1), example["heads.norm"][LAYER, HEAD], 0.04)
    place = "(b => [b.left, b.top])(x.getBoundingClientRect())"
    (left, top), (bars_left, bars_top) = (select(page, selector, place)[0] for selector in ("#map", "#map-bars"))
    assert bars_top == top
    assert bars_left == pytest.approx(left + T * cell + 10, abs=1)
    legend = text_of(page, "#map-legend")
    most = written(np.abs(x[allowed]).max(), 2)
    assert legend == ("weight 01masked" if view == "pattern" else f"score −{most}+{most}masked")
    ends = page.evaluate("document.querySelector('#map-legend .ramp').style.background").split("rgb(")
    first, last = ([int(n) for n in re.findall(r"\d+", ends[i])[:3]] for i in (1, -1))
    np.testing.assert_allclose(first, ramp("blue", 0) if view == "pattern" else sign_color(-1), atol=2)
    np.testing.assert_allclose(last, ramp("blue", 1) if view == "pattern" else sign_color(1), atol=2)


def test_labels_of_the_map_stand_beside_their_rows_and_columns(page, example):
    page.evaluate(
        "labels = []; fill = CanvasRenderingContext2D.prototype.fillText;"
        "CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {"
        "  const { x: left, y: top } = this.getTransform().transformPoint({ x, y });"
        "  labels.push([this.canvas.id, text, left, top]); };"
        "redraw(['width']); CanvasRenderingContext2D.prototype.fillText = fill"
    )
    page.evaluate("redraw(['width'])")
    cell, top = page.evaluate("[MAP.cell, MAP.top]")
    texts = [token_text(token, example.model) for token in example.tokens]
    middles = (np.arange(len(texts)) + 0.5) * cell
    labels = page.evaluate("labels")
    rows = [(text, y) for name, text, x, y in labels if name == "map-labels"]
    columns = [(text, x) for name, text, x, y in labels if name == "map-columns"]
    assert rows == [(text, pytest.approx(top + middle)) for text, middle in zip(texts, middles, strict=True)]
    assert columns == [(text, pytest.approx(middle)) for text, middle in zip(texts, middles, strict=True)]


def test_frames_surround_the_pinned_cell_its_row_and_its_column(page, example):
    cell, T = page.evaluate("MAP.cell"), len(example.tokens)
    left, top = page.evaluate("(b => [b.left, b.top])(document.getElementById('map').getBoundingClientRect())")
    boxes = select(
        page, "#cell, #row, #column", "[x.id, ...(b => [b.left, b.top, b.width, b.height])(x.getBoundingClientRect())]"
    )
    found = {name: np.subtract(box, [left, top, 0, 0]) for name, *box in boxes}
    np.testing.assert_allclose(found["cell"], [KEY * cell, QUERY * cell, cell, cell], atol=1)
    np.testing.assert_allclose(found["row"], [0, QUERY * cell, T * cell, cell], atol=1)
    np.testing.assert_allclose(found["column"], [KEY * cell, 0, cell, T * cell], atol=1)


def luminance(rgb):
    x = np.asarray(rgb) / 255
    return np.where(x <= 0.04, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_frames_are_visible_on_every_color(scheme, page):
    """WCAG 2.2, 1.4.11: 3 to 1. A frame has two lines, and one of them contrasts with each color of the maps."""
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    rgb = "(color => color.match(/\\d+/g).slice(0, 3).map(Number))"
    pairs = [
        page.evaluate(
            f"(s => [{rgb}(s.borderColor), {rgb}(s.boxShadow)])(getComputedStyle(document.getElementById('{name}')))"
        )
        for name in ("cell", "row", "column")
    ]
    pairs += [
        page.evaluate(
            f"(s => [{rgb}(s.{line}Color), {rgb}(s.boxShadow)])(getComputedStyle(document.querySelector('{name}')))"
        )
        for name, line in [
            ("#lens-table [aria-pressed=true]", "outline"),
            ("#lens-table .right:not([aria-pressed=true])", "border"),
            ("#head-grid [aria-pressed=true]", "outline"),
        ]
    ]
    colors = page.evaluate("Object.values(RAMPS).flatMap(ramps => ramps[theme])")
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    for lines in pairs:
        assert min(max(contrast(line, color) for line in lines) for color in colors[::5]) >= 3


@pytest.mark.parametrize(
    "selector", ["#token-strip label", "#lens-table td button", "#head-grid small", "td[data-tip]"]
)
def test_text_on_colors_is_readable(selector, page):
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    rgb = "(color => color.match(/\\d+/g).map(Number))"
    pairs = select(page, selector, f"(s => [{rgb}(s.color), {rgb}(s.backgroundColor)])(getComputedStyle(x))")
    assert min(contrast(*pair) for pair in pairs if len(pair[1]) == 3) > 4.5


# ---- heads


def test_grid_shows_every_head(page, example):
    T, pattern = len(example.tokens), example.layers("attn.pattern")
    pictures = np.reshape(canvases_of(page, "#head-grid canvas"), (6, 4, T, T, 4))
    allowed = np.tri(T, dtype=bool)
    np.testing.assert_allclose(pictures[..., allowed, :3], ramp("blue", np.sqrt(pattern))[..., allowed, :], atol=3)
    assert (pictures[..., 3] == 255 * allowed).all()
    pressed = select(page, "#head-grid button", "x.ariaPressed === 'true'")
    assert np.flatnonzero(pressed).tolist() == [4 * LAYER + HEAD]
    assert select(page, "#head-grid tbody tr", "x.cells[0].textContent") == [f"h.{layer}" for layer in range(6)]


@pytest.mark.parametrize("kind", ["logit", "length", "previous", "first", "duplicate", "induction"])
def test_grid_colors_and_numbers_follow_the_chosen_score(kind, page, example):
    page.evaluate(f"document.querySelector('input[name=kind][value={kind}]').click()")
    texts = select(page, "#head-grid small", "x.textContent")
    if kind == "logit":
        values = example["direct.heads"][..., POSITION].ravel()
        expected, colors = [minus(f"{x:+.3f}") for x in values], root_color(values)
        expected = [text if re.search("[1-9]", text) else "0.000" for text in expected]
    elif kind == "length":
        values = example["heads.norm"][..., POSITION].ravel()
        expected, colors = [written(x, 2) for x in values], ramp("blue", values / values.max())
    else:
        values = example["heads.kinds"][..., ["previous", "first", "duplicate", "induction"].index(kind)].ravel()
        expected, colors = [f"{100 * x:.0f} %" for x in values], ramp("blue", values)
    assert texts == expected
    np.testing.assert_allclose(colors_of(page, "#head-grid small"), colors, atol=3)


def test_chosen_head_is_described(page, example):
    text = text_of(page, "#head-output")
    assert text.startswith(f"Head {HEAD} of block {LAYER} looks at: previous ")
    target = example.tokens[POSITION + 1]
    added, logit = example["direct.heads"][LAYER, HEAD, POSITION], example["logits"][POSITION, target]
    numbers = (
        f"{minus(f'{added:+.3f}')} to the logit of {token_text(target, example.model)}, which is {written(logit)}."
    )
    assert f"At position {POSITION} it adds {numbers}" in text
    promoted = " ".join(token_text(token, example.model) for token in example["heads.tokens"][LAYER, HEAD])
    assert text.endswith(f"Its output at the last position, 10, promotes {promoted}.")


# ---- numbers to check by hand


def numbers_of(page, selector, columns):
    rows = [[row[i] for i in columns] for row in cells_of(page, selector)]
    return np.array([[float(text.replace("−", "-").replace(",", "")) for text in row] for row in rows])


def test_products_add_up_to_the_score(page, example):
    q, k = (example[f"h.{LAYER}.attn.{name}"][0, HEAD, t] for name, t in [("q", QUERY), ("k", KEY)])
    table = numbers_of(page, "#product-table tbody", range(5))
    expected = np.column_stack([range(64), q, k, q * k, example[f"h.{LAYER}.attn.z"][0, HEAD, QUERY]])
    np.testing.assert_allclose(table, expected, atol=6e-4)
    score, scale = example[f"h.{LAYER}.attn.scores"][0, HEAD, QUERY, KEY], example.model.config.attention_scale(LAYER)
    numbers = re.search(
        r"products is (\S+), times (\S+) is the score (\S+)\.$", text_of(page, "#product-output")
    ).groups()
    np.testing.assert_allclose([float(x.replace("−", "-")) for x in numbers], [score / scale, scale, score], atol=2e-3)
    assert text_of(page, "#product-sum") == numbers[0]
    assert select(page, "#product-table tr", "x.className") == [
        "",
        *("marked" if i == 5 else "" for i in range(64)),
        "",
    ]
    page.evaluate(f"choose({{ key: {QUERY + 1} }})")
    assert text_of(page, "#product-output").endswith("so the mask replaces the score by −∞.")
    page.evaluate(f"choose({{ key: {KEY} }})")


def test_softmax_row_and_weighted_values(page, example):
    scores = example[f"h.{LAYER}.attn.scores"][0, HEAD, QUERY, : QUERY + 1]
    weights = example[f"h.{LAYER}.attn.pattern"][0, HEAD, QUERY, : QUERY + 1]
    v = example[f"h.{LAYER}.attn.v"][0, HEAD, : QUERY + 1, 5]
    expected = np.column_stack([scores, np.exp(scores - scores.max()), weights, v, weights * v])
    np.testing.assert_allclose(numbers_of(page, "#softmax-table tbody", range(2, 7)), expected, atol=7e-4)
    assert [row[:2] for row in cells_of(page, "#softmax-table tbody")] == [
        [str(t), token_text(example.tokens[t], example.model)] for t in range(QUERY + 1)
    ]
    marked = select(page, "#softmax-table tbody tr", "x.className === 'marked'")
    assert np.flatnonzero(marked).tolist() == [KEY]
    sums = [text_of(page, f"#{name}").replace("−", "-") for name in ("exponential-sum", "weight-sum", "value-sum")]
    np.testing.assert_allclose([*map(float, sums)], [*expected.sum(axis=0)[[1, 2]], expected[:, 4].sum()], atol=2e-3)
    assert {*select(page, ".channel", "x.textContent")} == {"5"}


@pytest.mark.parametrize(("norm", "before"), [("ln_1", "resid_pre"), ("ln_2", "resid_mid")])
def test_layer_norm_shows_every_channel(norm, before, page, example):
    page.evaluate(f"document.querySelector('input[name=norm][value={norm}]').click()")
    x = example[f"h.{LAYER}.{before}"][0, POSITION]
    w, b = (example.model.weights[f"h.{LAYER}.{norm}.{part}"] for part in ("weight", "bias"))
    normalised = (x - x.mean()) / np.sqrt(x.var() + example.model.config.layer_norm_epsilon)
    expected = np.column_stack([np.arange(256), x, normalised, w, b, example[f"h.{LAYER}.{norm}"][0, POSITION]])
    np.testing.assert_allclose(numbers_of(page, "#norm-values tbody", range(6)), expected, atol=6e-4)


# ---- tokens, stream, MLP


def test_colors_of_tokens_are_their_surprisal(page, example):
    shares = np.append(0, example["surprisal"][1:] / 16)
    np.testing.assert_allclose(colors_of(page, "#token-strip label"), ramp("orange", shares), atol=2)
    checked = select(page, "#token-strip input", "x.checked")
    assert np.flatnonzero(checked).tolist() == [POSITION]


def test_merged_parts_are_as_wide_as_their_bytes(page, example):
    piece = next(piece for piece in example.pieces[::-1] if piece.start <= POSITION)
    cells = "Array.from(x.cells).slice(1)"
    spans = select(page, "#merge-table tr", f"{cells}.map(cell => cell.colSpan)")
    assert spans == [[len(part) for part in step] for step in piece.steps]
    merged = select(page, "#merge-table tr", f"{cells}.findIndex(cell => cell.matches('.merged'))")
    firsts = [
        next(i for i, (a, b) in enumerate(zip(x, y, strict=False)) if a != b)
        for x, y in zip(piece.steps[1:], piece.steps[:-1], strict=True)
    ]
    assert merged == [-1, *firsts]


def test_bars_of_embeddings_are_their_lengths(page, example):
    names = ("embed", "pos_embed", "h.0.resid_pre")
    lengths = np.column_stack([np.linalg.norm(example[name].reshape(11, -1), axis=-1) for name in names])
    assert_proportional(widths_of(page, "#embedding-table .bar"), lengths.ravel())


def points_of(page, selector):
    """The points of polylines. (N, points, 2)."""
    lines = select(page, selector, "x.getAttribute('points')")
    return np.array([[[*map(float, point.split(","))] for point in line.split()] for line in lines])


def test_chart_of_the_stream_shows_all_lengths(page, example):
    lengths = [np.linalg.norm(example["h.0.resid_pre"][0], axis=-1)]
    for layer in range(6):
        lengths += [np.linalg.norm(example[f"h.{layer}.{name}"][0], axis=-1) for name in ("resid_mid", "resid_post")]
    lengths = np.log10(lengths).T  # (T, 2L + 1)
    lines = points_of(page, "#stream-chart polyline")
    order = [*(t for t in range(11) if t != POSITION), POSITION]
    assert float(select(page, "#stream-chart polyline:last-of-type", "x.getAttribute('stroke-width')")[0]) > 2
    y = assert_affine(lines[..., 1].ravel(), lengths[order].ravel(), falling=True)
    x = assert_affine(lines[0, :, 0], range(13))
    dots = np.array(select(page, "#stream-chart circle[r='4']", "[+x.getAttribute('cx'), +x.getAttribute('cy')]"))
    np.testing.assert_allclose(dots, lines[-1], atol=0.1)
    added = [
        [np.log10(np.linalg.norm(example[f"h.{layer}.{name}"][0, POSITION])) for layer in range(6)]
        for name in ("attn_out", "mlp_out")
    ]
    mlp = np.array(select(page, "#stream-chart circle[r='5']", "[+x.getAttribute('cx'), +x.getAttribute('cy')]"))
    np.testing.assert_allclose(mlp, np.column_stack([x(2 * np.arange(6) + 2), y(added[1])]), atol=0.2)
    paths = select(page, "#stream-chart path", "x.getAttribute('d').match(/[\\d.]+/g).slice(0, 2).map(Number)")
    np.testing.assert_allclose(paths, np.column_stack([x(2 * np.arange(6) + 1), y(added[0]) - 6]), atol=0.2)
    fills = [select(page, f"#stream-chart {mark}", "x.getAttribute('fill')")[0] for mark in ("path", "circle[r='5']")]
    assert fills == page.evaluate("[themed('--blue'), themed('--orange')]")
    block = select(page, "#stream-chart rect", "[+x.getAttribute('x'), +x.getAttribute('width')]")[0]
    np.testing.assert_allclose(block, [x(2 * LAYER), x(2) - x(0)], atol=0.2)
    for label, place in select(page, "#stream-chart text[text-anchor=end]", "[x.textContent, +x.getAttribute('y')]"):
        assert place == pytest.approx(y(math.log10(float(label))) + 4, abs=0.3)
    names = select(page, "#stream-chart text[text-anchor=middle]", "[x.textContent, +x.getAttribute('x')]")
    assert names == [[f"h.{layer}", pytest.approx(x(2 * layer + 1), abs=0.2)] for layer in range(6)]


def test_chart_of_the_mlp_shows_the_curve_the_neurons_and_the_histogram(page, example):
    pre, post = example[f"h.{LAYER}.mlp.pre"][0, POSITION], example[f"h.{LAYER}.mlp.post"][0, POSITION]
    all_pre = example.layers("mlp.pre")
    bins = np.linspace(all_pre.min(), all_pre.max(), 49)
    curve = points_of(page, "#mlp-chart polyline")[0]
    x = assert_affine(curve[:, 0], bins)
    y = assert_affine(curve[:, 1], gpt2.model.gelu(bins), falling=True)
    dots = select(page, "#mlp-chart circle", "[+x.getAttribute('cx'), +x.getAttribute('cy')]")
    strongest = example["neurons"][LAYER, POSITION]
    np.testing.assert_allclose(dots, np.column_stack([x(pre[strongest]), y(post[strongest])]), atol=0.3)
    bars = "#mlp-chart rect:not([data-tip])"
    heights, lefts, bottoms = np.array(
        select(page, bars, "(([a, b, c]) => [b, a, c + b])(['x', 'height', 'y'].map(name => +x.getAttribute(name)))")
    ).T
    assert_proportional(heights, np.histogram(pre, bins)[0])
    np.testing.assert_allclose(lefts, x(bins[:-1]), atol=0.3)
    np.testing.assert_allclose(bottoms, y(0), atol=0.3)


def test_neurons_show_what_they_add_and_promote(page, example):
    rows = cells_of(page, "#neuron-table tbody")
    for i, row in enumerate(rows):
        added = example["direct.neurons"][LAYER, POSITION, i]
        assert float(row[3].replace("−", "-")) == pytest.approx(added, abs=6e-4)
        tokens = example["neurons.tokens"][LAYER, POSITION, i]
        assert row[4].split() == [token_text(token, example.model) for token in tokens]
    assert text_of(page, "#neuron-target") == token_text(example.tokens[POSITION + 1], example.model)


# ---- lens, next token, what mattered


def test_colors_and_bars_of_the_lens_are_probabilities(page, example):
    p = example["lens.probabilities"]
    np.testing.assert_allclose(colors_of(page, "#lens-table tbody button"), ramp("blue", p[..., 0].ravel()), atol=2)
    assert_proportional(widths_of(page, "#lens-top .bar"), p[2, POSITION])
    assert_proportional(widths_of(page, "#target-rise .bar"), example["lens.target"])
    pressed = select(page, "#lens-table tbody button", "x.ariaPressed === 'true'")
    assert np.flatnonzero(pressed).tolist() == [2 * 11 + POSITION]


def test_bars_of_candidates_are_probabilities(page, example):
    logits = -np.sort(-example["logits"][-1])
    page.evaluate("choose({ temperature: 0.5 })")
    cooled, plain = gpt2.softmax(2 * logits), gpt2.softmax(logits)
    assert_proportional(widths_of(page, "#next-table .bar")[:20], cooled[:20])
    ratio = widths_of(page, "#next-table .was")[0] / widths_of(page, "#next-table .bar")[0]
    assert ratio == pytest.approx(plain[0] / cooled[0], abs=0.02)
    assert_proportional(
        widths_of(page, "#next-table .was")[:20] + 20,
        plain[:20] / plain[0] + 20 / widths_of(page, "#next-table .was")[0],
    )
    page.evaluate("choose({ temperature: 1 })")
    best = cells_of(page, "#best-table tbody")
    assert [row[0] for row in best] == [
        token_text(token, example.model) for token in np.argsort(-example["logits"][-1])[:5]
    ]
    assert [float(row[2].removesuffix(" %")) for row in best] == pytest.approx(100 * plain[:5], abs=0.06)
    assert_proportional(widths_of(page, "#best-table .bar"), plain[:5])


@pytest.mark.parametrize("name", ["direct", "ablation"])
def test_tables_of_parts_have_their_numbers_and_colors(name, page, example):
    if name == "direct":
        values = np.column_stack([example["direct.heads"][..., -1], example["direct.mlps"][:, -1]])
    else:
        values = np.column_stack([example["ablation.heads"], example["ablation.mlps"]])
    shown = np.array([[float(x.replace("−", "-")) for x in row[1:]] for row in cells_of(page, f"#{name}-table tbody")])
    np.testing.assert_allclose(shown, values, atol=6e-4)
    np.testing.assert_allclose(colors_of(page, f"#{name}-table td"), root_color(values).reshape(-1, 3), atol=3)
    most = written(np.abs(values).max(), 2)
    assert text_of(page, f"#{name}-legend") == f"−{most}+{most}"


def test_direct_contributions_add_up_on_the_page(page, example):
    numbers = re.findall(r"[+−]?\d+\.\d{3}", text_of(page, "#direct-output"))
    *rest, total = (float(x.replace("−", "-")) for x in numbers)
    expected = [example[f"direct.{name}"][-1] for name in ("embed", "pos_embed", "biases")]
    assert rest == pytest.approx(expected, abs=6e-4)
    assert total == pytest.approx(example["logits"][-1, example.target[0]], abs=6e-4)


def test_charts_have_the_colors_of_the_theme(page):
    names = "['--ink', '--blue', '--orange', '--line']"
    defined = f"{names}.map((x) => getComputedStyle(document.documentElement).getPropertyValue(x).trim())"
    found = []
    for theme in ("dark", "light"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        page.evaluate(f"(async () => {{ while (theme !== '{theme}') await new Promise(requestAnimationFrame); }})()")
        found.append(page.evaluate(f"{names}.map((x) => themed(x))"))
        assert found[-1] == page.evaluate(defined)
    assert not set(found[0]) & set(found[1])
