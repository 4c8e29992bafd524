"""The page in a browser: it shows the computed numbers, the keyboard reaches everything, and nothing is loaded."""

import dataclasses
import json
import re

import numpy as np
import pytest

import numpy_gpt2 as gpt2
from numpy_gpt2 import init_weights
from numpy_gpt2.explain import explain
from numpy_gpt2.explain.page import asset, page_arrays, page_data
from numpy_gpt2.explain.visible import token_text, visible
from numpy_gpt2.sampling import probabilities

from .browser import cells_of, change, minus, text_of, written
from .conftest import PROMPT
from .reference.seeded import variation

HOSTILE = "</script><img src=x onerror=alert(1)>\n<b>&amp;\u200b日本 \x1b"


@pytest.fixture(scope="module")
def long(bundled):
    """The explanation of a long prompt with a long target and with ablation."""
    return explain(PROMPT * 8, bundled, target=" and" * 80, ablate=True)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1280])
def test_page_fits_the_window_in_both_themes(width, dark, shown, long):
    page = shown(long, width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 150) == dark
    assert page.evaluate(
        "[...document.querySelectorAll('section:not(#gradients)')].every(x => x.getBoundingClientRect().height > 300)"
    )


def test_page_decodes_all_arrays(shown, example):
    page = shown(example)
    expected = page_arrays(example)
    for name, array in expected.items():
        actual = page.evaluate(f"Array.from(array({json.dumps(name)}).values, x => Number.isFinite(x) ? x : null)")
        values = [np.nan if x is None else x for x in actual]
        np.testing.assert_allclose(values, array.ravel(), rtol=1e-6, atol=1e-30, err_msg=name)


def test_page_shows_every_source_with_its_sizes(shown, example):
    page = shown(example)
    data = page_data(example, page_arrays(example), asset("gradients.html"))
    code = page.evaluate("[...document.querySelectorAll('details.source code')].map(x => x.textContent)")
    names = re.findall(r'data-source="([\w.]+)"', asset("page.html") + asset("gradients.html"))
    assert sorted(code) == sorted(data["sources"][name]["code"] for name in names)
    numbers = page.evaluate(
        "[...document.querySelectorAll('[data-numbers]')].map(x => [x.textContent, x.dataset.numbers])"
    )
    found = dict(numbers)
    T = len(example.tokens)
    assert found["# (B, H, T, S)"] == f"(1, 4, {T}, {T})"
    assert found["# (B, T, 3C)"] == f"(1, {T}, 768)"
    assert found["# (..., 4C), or n_inner"] == "(..., 1024)"
    assert found["# (V, C)"] == "(1024, 256)"
    assert found["# (B, T, C)"] == f"(1, {T}, 256)"
    assert f"(T, V) = ({T}, 1024)" in text_of(page, "#lens p")
    assert not any("NaN" in number or "undefined" in number for number in found.values())
    assert page.evaluate("document.querySelectorAll('[data-source], [data-equation]:empty').length") == 0


def test_4c_is_replaced_by_the_models_inner_size(shown, bundled):
    config = dataclasses.replace(variation("narrow_mlp"), vocab_size=1024)
    weights = init_weights(config, np.random.default_rng(0))
    page = shown(explain("a b c", gpt2.Model(weights, config, bundled.tokenizer)))
    assert "(..., 10)" in page.evaluate("[...document.querySelectorAll('[data-numbers]')].map(x => x.dataset.numbers)")


def test_token_strip_shows_id_bytes_and_surprisal(shown, example):
    page = shown(example)
    pieces = page.evaluate("[...document.querySelectorAll('#token-strip label')].map(x => x.textContent)")
    assert pieces == [token_text(token, example.model) for token in example.tokens]
    page.evaluate("document.querySelectorAll('#token-strip input')[4].click()")
    output = text_of(page, "#token-output")
    assert output.startswith("Position 4: ·not is token 321, bytes 20 6e 6f 74; ")
    assert f"surprisal: {example['surprisal'][4]:.2f} bits" in output
    mean = example["surprisal"][1:].mean()
    assert f"The average of the prompt is {mean:.2f} bits, a loss of {mean * np.log(2):.2f} nats" in output
    assert page.evaluate("document.getElementById('position').value") == "4"
    page.evaluate("document.querySelector('#token-strip input:checked').focus()")
    page.press("ArrowLeft")
    assert text_of(page, "#token-output").startswith("Position 3: ·or ")
    colors = page.evaluate("[...document.querySelectorAll('#token-strip label')].map(x => x.style.backgroundColor)")
    brightness = [sum(map(int, re.findall(r"\d+", color))) for color in colors]
    assert np.array_equal(
        np.argsort(brightness[1:]), np.argsort(-example["surprisal"][1:])
    )  # a darker color is more unexpected


def test_merge_table_shows_the_steps_of_the_chosen_piece(shown, bundled):
    e = explain("my kingdom é!", bundled)
    page = shown(e)
    for piece in e.pieces:
        for position in range(piece.start, piece.start + len(piece.steps[-1])):
            change(page, "#position", position)
            rows = [row[1:] for row in cells_of(page, "#merge-table")]
            assert rows == [[visible(part) for part in step] for step in piece.steps]
            n_bytes, n_merges, n_tokens = len(piece.steps[0]), len(piece.steps) - 1, len(piece.steps[-1])
            text = text_of(page, "#merge-output")
            assert text.startswith(f"The piece {visible(piece.data)}: ")
            assert re.search(rf": {n_bytes} bytes?, {n_merges} merges?, {n_tokens} tokens?\.", text)
            assert ("merging ends" in text) == (n_tokens > 1)
    change(page, "#position", e.pieces[1].start)
    merged = page.evaluate(
        "[...document.querySelectorAll('#merge-table .merged')].map(x => [x.textContent, x.colSpan])"
    )
    assert merged == [["in", 2], ["ing", 3], ["om", 2], ["·k", 2], ["·king", 5]]
    page.evaluate("document.getElementById('merge-table').focus()")
    page.press("ArrowRight")
    assert text_of(page, "#tip") == f"token {bundled.tokenizer.encode_single_token(' ')}, 1 byte"


def test_merge_table_is_empty_without_a_piece(shown, bundled):
    for prompt, reason in [("", "There are no merges"), ("x" * 65, "too long to show its merges")]:
        page = shown(explain(prompt, bundled))
        assert cells_of(page, "#merge-table") == []
        assert reason in text_of(page, "#merge-output")


def test_embedding_table_shows_lengths_and_neighbors(shown, example):
    rows = shown(example).evaluate("[...document.querySelector('#embedding-table tbody').rows].map(x => x.textContent)")
    for t, row in enumerate(rows):
        numbers = [example[name][t] for name in ("embed", "pos_embed")] + [example["h.0.resid_pre"][0, t]]
        for vector in numbers:
            assert f"{np.linalg.norm(vector):.2f}" in row
        for token, cosine in zip(example["nearest.tokens"][t], example["nearest.cosines"][t], strict=True):
            assert f"{token_text(token, example.model)} {cosine:.2f}" in row


def test_pickers_choose_block_head_and_position(shown, example):
    page = shown(example)
    change(page, "#layer", 3)
    change(page, "#position", 7)
    page.evaluate("document.querySelectorAll('#head-grid button')[3 * 4 + 2].click()")
    pressed = page.evaluate("[...document.querySelectorAll('#head-grid button')].map(x => x.ariaPressed === 'true')")
    assert np.flatnonzero(pressed).tolist() == [3 * 4 + 2]
    values = page.evaluate("['layer', 'head', 'position'].map(id => document.getElementById(id).value)")
    assert values == ["3", "2", "7"]
    rows = cells_of(page, "#trace-table tbody")
    for name, length, letters, shape in rows:
        array = example[name]
        vector = array[0, 2, 7] if array.ndim == 4 else array.reshape(len(example.tokens), -1)[7]
        assert shape == f"({', '.join(map(str, array.shape))})"
        assert len(letters.split(",")) == array.ndim
        assert length == minus(f"{np.linalg.norm(vector[np.isfinite(vector)]):,.3f}")
    assert {name.rpartition(".")[0] for name, *_ in rows} == {"", "h.3", "h.3.attn", "h.3.mlp"}
    strongest = cells_of(page, "#neuron-table tbody")
    for (neuron, pre, post, *_), expected in zip(strongest, example["neurons"][3, 7], strict=True):
        assert int(neuron) == expected
        assert pre == minus(f"{example['h.3.mlp.pre'][0, 7, expected]:.3f}")
        assert post == minus(f"{example['h.3.mlp.post'][0, 7, expected]:.3f}")
    head = page.evaluate("[...document.querySelector('#norm-table thead').rows[0].cells].map(x => x.textContent)")
    assert head == ["layer norm", "mean, in", "mean, out", "deviation, in", "deviation, out"]
    norms = cells_of(page, "#norm-table tbody")
    for row, (before, after) in zip(norms, [("resid_pre", "ln_1"), ("resid_mid", "ln_2")], strict=True):
        x, y = example[f"h.3.{before}"][0, 7], example[f"h.3.{after}"][0, 7]
        assert row == [f"h.3.{after}", *(minus(f"{z:.3f}") for z in (x.mean(), y.mean(), x.std(), y.std()))]
    assert f"{np.linalg.norm(example['h.3.attn.q'][0, 2, 7]):.3f}" in text_of(page, "#qkv-output")


def cell_at(page, query, key):
    """The center of a cell of the attention map in the window. Row −1 and column −1 are the labels."""
    page.evaluate("document.getElementById('map').scrollIntoView({block: 'center'})")
    x, y, size = page.evaluate("(b => [b.x, b.y, MAP.cell])(document.getElementById('map').getBoundingClientRect())")
    return x + (key + 0.5) * size, y + (query + 0.5) * size


def test_attention_map_describes_the_cell_under_the_pointer(shown, example):
    page = shown(example)
    change(page, "#layer", 2)
    change(page, "#head", 1)
    pattern, scores = example["h.2.attn.pattern"][0, 1], example["h.2.attn.scores"][0, 1]
    tip = lambda: text_of(page, "#tip")  # noqa: E731
    for query, key in [(5, 3), (10, 0), (7, 7)]:
        page.point(*cell_at(page, query, key))
        assert f"Block 2, head 1: position {query} " in tip()
        assert f" looks at {key} {token_text(example.tokens[key], example.model)}: " in tip()
        assert tip().endswith(f"score {written(scores[query, key])}, weight {written(pattern[query, key], 4)}.")
    page.point(*cell_at(page, 3, 8))
    assert "it comes later, so the score is −∞ and the weight 0" in tip()
    page.point(*cell_at(page, 6, -1))
    strongest = token_text(example.tokens[pattern[6].argmax()], example.model)
    assert f"position 6 ·be looks most at {strongest} ({pattern[6].argmax()})" in tip()
    assert f"of length {example['heads.norm'][2, 1, 6]:.3f}" in tip()
    by = token_text(example.tokens[pattern[:, 6].argmax()], example.model)
    assert f"it gets the largest weights from {by} ({pattern[:, 6].argmax()}) " in tip()
    description = tip()
    page.point(*cell_at(page, -1, 6))
    assert tip() == description
    page.point(*cell_at(page, -1, -1))
    assert page.evaluate("document.getElementById('tip').hidden")


def test_a_clicked_cell_stays_until_another_is_chosen(shown, example):
    page = shown(example)
    change(page, "#layer", 2)
    change(page, "#head", 1)
    page.click(*cell_at(page, 5, 3))
    pinned = text_of(page, "#map-output")
    assert pinned.startswith("Block 2, head 1: position 5 ·to looks at 3 ")
    page.point(*cell_at(page, 9, 1))
    assert text_of(page, "#map-output") == pinned
    change(page, "#head", 2)
    assert text_of(page, "#map-output").startswith("Block 2, head 2: position 5 ·to looks at 3 ")
    page.evaluate("document.getElementById('map').focus()")
    for key in ("ArrowDown", "ArrowLeft", "ArrowLeft"):
        page.press(key)
        assert text_of(page, "#tip") == text_of(page, "#map-output") == text_of(page, "#announcement")
    assert "position 6 ·be looks at 1 ·be: " in text_of(page, "#map-output")


def test_map_reads_every_weight_and_score(shown, example):
    """The test calls the functions that the map and its tips call."""
    page = shown(example)
    for name, function, digits in [("pattern", "weight", 4), ("scores", "score", 3)]:
        actual = page.evaluate(f"positions.flatMap(q => range(q + 1).map(k => show({function}(3, 1, q, k), {digits})))")
        allowed = example[f"h.3.attn.{name}"][0, 1][np.tri(11, dtype=bool)]
        assert actual == [written(x, digits) for x in allowed]


@pytest.mark.parametrize("size", [[100, 11_000], [11_000, 100]])
def test_long_map_stays_below_the_largest_canvas(size, shown, example):
    """1,000 rows on a screen of high resolution. A canvas above the limit of browsers would stay empty."""
    page = shown(example)
    page.call("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=2, mobile=False)
    page.evaluate(f"canvas = document.createElement('canvas'); context = cleared(canvas, ...{size})")
    page.evaluate(f"context.fillRect(0, 0, ...{size})")
    assert max(page.evaluate("[canvas.width, canvas.height]")) <= 16_000
    assert page.evaluate("context.getImageData(canvas.width - 1, canvas.height - 1, 1, 1).data[3]") == 255


def test_tips_stay_in_the_window(shown, long):
    page = shown(long, width=400, height=700)
    change(page, "#position", 63)
    page.evaluate("document.getElementById('map').scrollIntoView({block: 'end'})")
    box = "(b => [b.left, b.top, b.right, b.bottom])(document.getElementById('tip').getBoundingClientRect())"
    page.point(300, 690)
    left, top, right, bottom = page.evaluate(box)
    assert 0 <= left < right <= 400
    assert 0 <= top < bottom <= 690

    page.evaluate("document.getElementById('map').focus()")
    for key in ["ArrowUp"] * 40 + ["ArrowRight"] * 63:
        page.press(key)
    cell = "(b => [b.left, b.top, b.right, b.bottom])(document.getElementById('cell').getBoundingClientRect())"
    left, top, right, bottom = page.evaluate(cell)
    assert 0 <= left < right <= 400
    assert 0 <= top < bottom <= 700
    assert "position 23 " in text_of(page, "#tip")
    labels = page.evaluate("document.getElementById('map-labels').getBoundingClientRect().left")
    assert 0 <= labels < 20  # stays in place when the map scrolls
    assert page.evaluate("document.getElementById('map-frame').scrollLeft") > 200
    page.point(30, (top + bottom) / 2)
    assert "looks most at" in text_of(page, "#tip")
    page.press("Escape")
    assert page.evaluate("document.getElementById('tip').hidden")


def test_chosen_position_is_scrolled_into_the_lens(shown, long):
    page = shown(long, width=400)
    change(page, "#position", 3)
    assert "position 3 " in text_of(page, "#lens-title")
    cell, frame = page.evaluate(
        "['[data-row=\"6\"][data-position=\"3\"]', '#lens-scroll'].map(x => document.querySelector(x))"
        ".map(x => x.getBoundingClientRect()).map(b => [b.left, b.right])"
    )
    assert frame[0] <= cell[0] < cell[1] <= frame[1]


def test_touch_and_keyboard_show_tips(shown, example):
    page = shown(example)
    page.evaluate("document.getElementById('stream-chart').scrollIntoView({block: 'center'})")
    mark = "document.querySelectorAll('#stream-chart circle')[3].getBoundingClientRect()"
    x, y = page.evaluate(f"(b => [(b.left + b.right) / 2, (b.top + b.bottom) / 2])({mark})")
    page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    length = np.linalg.norm(example["h.1.resid_mid"][0, -1])
    assert text_of(page, "#tip") == f"after attention of block 1\nlength {written(length)}"
    page.evaluate("document.querySelector('#mlp-chart svg').focus()")
    page.press("ArrowRight")
    first = text_of(page, "#tip")
    page.press("ArrowRight")
    assert first.endswith(" of 1,024 neurons")
    assert text_of(page, "#tip") != first
    page.evaluate("document.getElementById('ablation-table').focus()")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.press(key)
    change = example["ablation.heads"][1, 1]
    assert text_of(page, "#tip").startswith(f"without head 1 of block 1: {minus(f'{change:+.3f}')} nats")
    page.evaluate("document.getElementById('next-table').focus()")
    page.press("ArrowDown")
    assert text_of(page, "#tip").startswith(f"token {example['logits'][-1].argmax()}, number 1 by probability")


def test_lens_shows_the_best_tokens(shown, example):
    page = shown(example)
    table = cells_of(page, "#lens-table tbody")
    assert [row[0] for row in table] == ["embeddings", *(f"after h.{layer}" for layer in range(6))]
    for row, tokens, shares in zip(table, example["lens.tokens"], example["lens.probabilities"], strict=True):
        for text, token, p in zip(row[1:], tokens[:, 0], shares[:, 0], strict=True):
            piece = token_text(token, example.model)
            assert text.startswith(piece)
            assert float(text.removeprefix(piece).removesuffix(" %")) == pytest.approx(100 * p, rel=0.06, abs=0.006)
    right = page.evaluate(
        "[...document.querySelectorAll('#lens-table .right')].map(x => [x.dataset.row, x.dataset.position])"
    )
    expected = np.argwhere(example["lens.tokens"][:, :-1, 0] == example.tokens[1:]).astype(str)
    assert right == expected.tolist()

    def check(row, position):
        title = text_of(page, "#lens-title")
        assert title.startswith(f"{'After h.' + str(row - 1) if row else 'Embeddings'}, position {position} ")
        rows = cells_of(page, "#lens-top")
        pieces = [token_text(token, example.model) for token in example["lens.tokens"][row, position]]
        assert [piece for piece, _, _ in rows] == pieces
        for (_, _, value), p in zip(rows, example["lens.probabilities"][row, position], strict=True):
            assert float(value.removesuffix(" %").replace("−", "-")) == pytest.approx(100 * p, rel=0.06, abs=0.006)

    check(6, 10)
    page.evaluate('document.querySelector(\'[data-row="2"][data-position="4"]\').click()')
    check(2, 4)
    page.evaluate("document.querySelector('#lens-table [tabindex=\"0\"]').focus()")
    page.press("ArrowUp")
    page.press("ArrowRight")
    check(1, 5)
    assert page.evaluate("document.activeElement.dataset.position") == "5"
    assert text_of(page, "#lens-target") == "·qu"
    rise = page.evaluate("[...document.querySelector('#target-rise').rows].map(x => x.cells[2].textContent)")
    for value, p in zip(rise, example["lens.target"], strict=True):
        assert float(value.removesuffix(" %").replace("−", "-")) == pytest.approx(100 * p, rel=0.06, abs=0.006)


SETTINGS = [
    (temperature, top_k, top_p)
    for temperature in (0, 0.01, 0.3, 0.8, 1, 1.7, 2)
    for top_k in (0, 1, 2, 17, 40, 200, 5000)
    for top_p in (0.01, 0.3, 0.9, 0.95, 1)
]


@pytest.mark.parametrize("seed", range(3))
def test_sliders_compute_what_sampling_does(seed, shown, bundled, example):
    """The bundled model's logits, and random logits of 50,257 tokens, once with many ties."""
    e = example
    if seed:
        rng = np.random.default_rng(seed)
        logits = (3 * rng.standard_normal(50257)).astype(np.float32)
        logits = np.round(logits, 1) if seed == 2 else logits
        config = dataclasses.replace(bundled.config, vocab_size=50257)
        arrays = {**example.arrays, "logits": np.tile(logits, (len(example.tokens), 1))}
        e = dataclasses.replace(example, model=bundled._replace(config=config), arrays=arrays)
    page = shown(e)
    logits = e["logits"][-1]
    results = page.evaluate(
        f"{json.dumps(SETTINGS)}.map(settings => {{ const {{ p, afterTopK, afterTopP }} = "
        "probabilities(at('next.logits'), ...settings); "
        "return [afterTopK, afterTopP, Array.from(p.subarray(0, 300)), p.reduce((a, b) => a + b, 0)]; })"
    )
    for (temperature, top_k, top_p), (after_k, after_p, p, total) in zip(SETTINGS, results, strict=True):
        expected = -np.sort(-probabilities(logits.astype(np.float64), temperature, top_k, top_p))
        np.testing.assert_allclose(p, expected[:300], rtol=1e-5, atol=1e-12)
        assert total == pytest.approx(1)
        assert after_p == np.count_nonzero(expected) or temperature < 0.1  # exp underflows
        if temperature:
            kept = probabilities(logits.astype(np.float64), 2, top_k)
            assert after_k == np.count_nonzero(kept)


def test_sliders_update_the_candidates(shown, example):
    page = shown(example)
    order = np.argsort(-example["logits"][-1], kind="stable")

    def check(temperature, top_k, top_p):
        for name, value in zip(("temperature", "top-k", "top-p"), (temperature, top_k, top_p), strict=True):
            change(page, f"#{name}", value, "input")
        rows = cells_of(page, "#next-table")
        expected = probabilities(example["logits"][-1], temperature, top_k, top_p)[order]
        rank = np.flatnonzero(order == example.target[0])[0]
        assert 20 < rank < 200
        if len(rows) == 22:
            target = rows.pop(-2)
            assert target[0] == "·qu"
            cut = "not the first" if temperature == 0 else "cut by top-k" if top_k and rank >= top_k else "cut by top-p"
            assert target[2] == cut if not expected[rank] else target[2].endswith(" %")
        assert page.evaluate("document.querySelector('#next-table .target').cells[0].textContent") == "·qu"
        for i, (piece, _, value) in enumerate(rows[:-1]):
            assert piece == token_text(order[i], example.model)
            if expected[i]:
                assert float(value.removesuffix(" %")) == pytest.approx(100 * expected[i], rel=0.06, abs=0.006)
            elif temperature == 0:
                assert value == "not the first"
            else:
                assert value == ("cut by top-k" if top_k and i >= top_k else "cut by top-p")
        listed = {*range(len(rows) - 1), rank}
        assert rows[-1][0] == f"{1024 - len(listed):,} more"
        rest = 1 - expected[[*listed]].sum()
        assert float(rows[-1][2].removesuffix(" %").replace("−", "-")) == pytest.approx(100 * rest, rel=0.06, abs=0.06)
        assert text_of(page, "#next-output").startswith(f"{np.count_nonzero(expected):,} of 1,024 tokens remain.")

    for setting in [(1, 0, 1), (0.8, 40, 1), (1.5, 12, 0.3), (0.5, 0, 0.5), (0, 0, 1)]:
        check(*setting)
    page.evaluate("document.getElementById('more').click()")
    assert page.evaluate("document.querySelector('#next-table').rows.length") == 201
    check(0.7, 150, 0.97)
    page.evaluate("document.getElementById('temperature').focus()")
    page.press("ArrowRight")
    assert text_of(page, "#temperature-value") == "0.71"


def test_ablation_table_shows_every_change(shown, example, bundled):
    page = shown(example)
    rows = cells_of(page, "#ablation-table tbody")
    assert [row[0] for row in rows] == [f"h.{layer}" for layer in range(6)]
    changes = np.column_stack([example["ablation.heads"], example["ablation.mlps"]])
    assert [row[1:] for row in rows] == [[minus(f"{x:+.3f}") for x in row] for row in changes]
    assert text_of(page, "#ablation-target") == "·question"
    assert text_of(page, "#ablation-whole") == written(example["target.log_probability"])
    layer, part = np.unravel_index(changes.argmin(), changes.shape)
    most = f"the MLP of block {layer}" if part == 4 else f"head {part} of block {layer}"
    assert f"Most helpful: {most} ({minus(f'{changes.min():.3f}')})" in text_of(page, "#ablation-output")
    colors = page.evaluate("[...document.querySelectorAll('#ablation-table td')].map(x => x.style.backgroundColor)")
    paper_red, _, paper_blue = page.evaluate("signColor(0)")
    for color, x in zip(colors, changes.ravel(), strict=True):
        red, _, blue = map(int, re.findall(r"\d+", color))
        assert (blue - red > paper_blue - paper_red) == (x > 0)

    without = shown(explain(PROMPT, bundled))
    hidden = without.evaluate("['ablation', 'no-ablation'].map(id => document.getElementById(id).hidden)")
    assert hidden == [True, False]


def test_hostile_prompt_is_shown_as_text(shown, bundled):
    e = explain(HOSTILE, bundled, target="</script><b>", ablate=True)
    page = shown(e)
    assert text_of(page, "#prompt") == HOSTILE
    assert page.evaluate("document.querySelectorAll('img, b b, section section').length") == 0
    assert page.evaluate("document.querySelectorAll('script:not([type])').length") == 1
    pieces = page.evaluate("[...document.querySelectorAll('#token-strip label')].map(x => x.textContent)")
    assert "".join(pieces).startswith("</script><img·src=x·onerror=alert(1)>⏎<b>&amp;")
    assert "⟨E2⟩⟨80⟩⟨8B⟩" in "".join(pieces)
    page.evaluate("document.querySelectorAll('#token-strip input')[1].focus({focusVisible: true})")
    assert page.evaluate("!document.getElementById('tip').hidden")


@pytest.mark.parametrize("name", ["one_head_one_layer", "one_channel_heads", "relu", "untied"])
@pytest.mark.parametrize("text", ["", "a b c d e"])
def test_page_works_for_other_models(name, text, shown, bundled):
    config = dataclasses.replace(variation(name), vocab_size=1024)
    weights = init_weights(config, np.random.default_rng(0))
    page = shown(explain(text, gpt2.Model(weights, config, bundled.tokenizer), ablate=True))
    change(page, "#layer", config.n_layer - 1)
    change(page, "#head", config.n_head - 1)
    change(page, "#position", 0)
    assert f"Block {config.n_layer - 1}, head {config.n_head - 1}: " in text_of(page, "#map-output")


def test_page_works_for_weights_of_zero(shown, bundled):
    config = dataclasses.replace(variation("plain"), vocab_size=1024)
    weights = {name: np.zeros_like(array) for name, array in init_weights(config, np.random.default_rng(0)).items()}
    shown(explain("a b c", gpt2.Model(weights, config, bundled.tokenizer), ablate=True))


def test_page_follows_a_change_of_theme_and_width(shown, example):
    page = shown(example)
    color = "getComputedStyle(document.querySelector('#lens-table button')).backgroundColor"
    before = page.evaluate(color), page.evaluate("document.querySelector('#stream-chart svg').clientWidth")
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    page.call("Emulation.setDeviceMetricsOverride", width=500, height=900, deviceScaleFactor=2, mobile=False)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    after = page.evaluate(color), page.evaluate("document.querySelector('#stream-chart svg').clientWidth")
    assert after[0] != before[0]
    assert after[1] < before[1]
    assert page.evaluate("document.documentElement.scrollWidth") <= 500


def test_keyboard_reaches_every_control(shown, example):
    page = shown(example)
    reached = set()
    page.evaluate("document.querySelectorAll('#head-grid button').forEach(x => x.name = 'head')")
    page.evaluate("document.querySelectorAll('#lens-table button').forEach(x => x.name = 'lens')")
    for _ in range(200):
        page.press("Tab")
        place = page.evaluate(
            "document.activeElement.id || document.activeElement.tagName + (document.activeElement.name ?? '')"
        )
        if place == "BODY":
            break
        reached.add(place)
    controls = {"layer", "head", "position", "map", "temperature", "top-k", "top-p", "more", "svg"}
    controls |= {
        "SUMMARY",
        "INPUTtoken",
        "INPUTview",
        "INPUTkind",
        "INPUTnorm",
        "BUTTONhead",
        "BUTTONlens",
        "code",
        "A",
    }
    assert controls <= reached


def test_page_works_inside_a_notebook(browser, tmp_path, example):
    file = tmp_path / "notebook.html"
    file.write_text(f"<!DOCTYPE html><meta charset=utf-8><link rel=icon href='data:,'>{example._repr_html_()}", "utf-8")
    page = browser.open(file.as_uri())
    frame = "document.querySelector('iframe').contentDocument"
    assert page.evaluate(f"{frame}.querySelectorAll('#token-strip label').length") == len(example.tokens)
    assert page.evaluate(f"{frame}.querySelector('#prompt').textContent") == PROMPT
    page.evaluate(f"{frame}.querySelector('nav a[href=\"#lens\"]').click()")
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    assert page.evaluate(f"Math.abs({frame}.getElementById('lens').getBoundingClientRect().top)") < 200
    assert page.problems == []
    assert set(page.requests) <= {file.as_uri(), "about:srcdoc"}
    page.close()
