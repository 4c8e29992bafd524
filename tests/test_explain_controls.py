"""The controls of the explain page: links that restore choices, ways through the page, print, touch, and failures."""

import json
import re

import numpy as np
import pytest

from numpy_gpt2.explain import explain

from .browser import change, shown_text, text_of
from .conftest import PROMPT

CHOICES = {"layer": 4, "head": 1, "position": 9, "query": 6, "key": 2, "channel": 3, "row": 5, "view": "scores"}
CHOICES |= {
    "kind": "induction",
    "norm": "ln_2",
    "temperature": 0.7,
    "topK": 12,
    "topP": 0.8,
    "more": True,
    "code": False,
}


@pytest.fixture(scope="module")
def opened(browser, example, tmp_path_factory):
    """The page of the example."""
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(example.page(), encoding="utf-8")
    page = browser.open(file.as_uri())
    yield page
    page.close()


@pytest.fixture
def page(opened):
    """The page of the example, with the choices that it opens with."""
    opened.evaluate("choose({ ...OPENING }); scrollTo(0, 0)")
    yield opened
    opened.call("Emulation.setEmulatedMedia", media="", features=[])
    assert opened.problems == []


def chosen(page):
    return page.evaluate("chosen")


def test_link_restores_every_choice(page, browser):
    for name, value in CHOICES.items():
        page.evaluate(f"choose({{ {name}: {json.dumps(value)} }})")
    address = page.evaluate("location.href.split('#')[0] + address")
    again = browser.open(address)
    assert chosen(again) == {**chosen(page), "step": ""}
    for selector in ("main", "#map-output", "#product-output", "#norm-output", "#next-output", "#lens-title"):
        assert text_of(again, selector) == text_of(page, selector)
    controls = (
        "['layer', 'head', 'position', 'temperature', 'top-k', 'top-p'].map(id => document.getElementById(id).value)"
    )
    assert again.evaluate(controls) == ["4", "1", "9", "0.7", "12", "0.8"]
    checked = "[...document.querySelectorAll(':checked')].map(x => x.value)"
    assert again.evaluate(checked) == page.evaluate(checked)
    assert again.evaluate("document.querySelector('.source').checkVisibility()") is False
    again.evaluate("location.hash = 'layer=2&head=3&key=1'")
    again.evaluate("new Promise(done => setTimeout(done, 50))")
    assert text_of(again, "#map-output").startswith("Block 2, head 3: position 10 ·the looks at 1 ")
    again.close()


@pytest.mark.parametrize(
    "hash",
    [
        *("#layer=99&head=-1&view=x&temperature=9&key=1.5&nothing=3", "#%", "#lens", "#step=<b>"),
        "#__proto__=1&constructor=2",
    ],
)
def test_address_that_makes_no_sense_changes_nothing(hash, page):
    before = chosen(page)
    page.evaluate(f"location.hash = {json.dumps(hash)}")
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    assert chosen(page) == before


def test_page_opens_with_the_head_that_matters_most(page, shown, example, bundled):
    ablated = chosen(page)
    assert (ablated["layer"], ablated["head"]) == np.unravel_index(np.abs(example["ablation.heads"]).argmax(), (6, 4))
    e = explain(PROMPT, bundled)
    plain = chosen(shown(e))
    assert (plain["layer"], plain["head"]) == np.unravel_index(np.abs(e["direct.heads"][..., -1]).argmax(), (6, 4))
    row = e[f"h.{plain['layer']}.attn.pattern"][0, plain["head"], -1]
    assert (plain["query"], plain["key"]) == (10, row.argmax())


def test_links_of_the_pipeline_lead_to_their_steps(page):
    page.evaluate("choose({ layer: 2 })")
    links = page.evaluate("[...document.querySelectorAll('.pipeline a, nav a')].map(x => x.hash)")
    assert {"#tokens", "#embeddings", "#norms", "#attention", "#mlp", "#lens", "#next", "#mattered", "#gradients"} == {
        *links
    } - {"#blocks"}
    for link in {*links}:
        page.evaluate(f"document.querySelector('a[href=\"{link}\"]').click()")
        top, room = page.evaluate(
            f"[document.querySelector('{link}').getBoundingClientRect().top, scrollY + innerHeight]"
        )
        assert 112 <= top < 190 or room >= page.evaluate("document.documentElement.scrollHeight - 1")
        assert page.evaluate("address") == f"#layer=2&head={chosen(page)['head']}&step={link[1:]}"


def test_parts_that_mattered_lead_to_their_head_or_mlp(page):
    for name in ("direct", "ablation"):
        page.evaluate(f"document.querySelectorAll('#{name}-table td')[2 * 5 + 3].click()")
        assert [chosen(page)[key] for key in ("layer", "head", "position", "step")] == [2, 3, 10, "attention"]
        page.evaluate(f"document.querySelectorAll('#{name}-table td')[1 * 5 + 4].click()")
        assert [chosen(page)[key] for key in ("layer", "head", "step")] == [1, 3, "mlp"]
        page.evaluate(f"document.getElementById('{name}-table').focus()")
        for key in ("ArrowRight", "Enter"):
            page.press(key)
        assert [chosen(page)[key] for key in ("layer", "head")] == [0, 0]


def test_cells_of_the_lens_lead_to_their_block_and_position(page):
    page.evaluate('document.querySelector(\'[data-row="3"][data-position="4"]\').click()')
    assert [chosen(page)[key] for key in ("row", "layer", "position")] == [3, 2, 4]
    assert text_of(page, "#lens-link") == "Block 2 at position 4"
    page.evaluate("document.getElementById('lens-link').click()")
    assert chosen(page)["step"] == "blocks"


def test_switch_hides_the_code(page):
    visible = "[...document.querySelectorAll('details.source')].filter(x => x.checkVisibility()).length"
    assert page.evaluate(visible) > 20
    page.evaluate("document.getElementById('code').click()")
    assert page.evaluate(visible) == 0
    page.evaluate("document.getElementById('code').click()")
    assert page.evaluate(visible) > 20


def test_nothing_unchanged_is_redrawn(page):
    page.evaluate(
        "drawn = []; for (const follower of followers) { const { draw } = follower;"
        "follower.draw = () => { drawn.push(draw.name); draw(); }; follower.original = draw; }"
    )
    page.evaluate("choose({ head: (chosen.head + 1) % H })")
    heads = page.evaluate("drawn.splice(0)")
    assert {"drawMap", "drawProducts", "drawSoftmax", "drawTrace"} <= {*heads}
    others = (
        "drawStream",
        "drawMlp",
        "drawGrid",
        "drawNormValues",
        "drawLens",
        "drawTokens",
        "drawRowLabels",
        "markCell",
    )
    assert not {*heads} & {*others}
    page.evaluate("choose({ key: (chosen.key + 1) % T })")
    assert {*page.evaluate("drawn.splice(0)")} == {"drawFrames", "describeMap", "drawProducts", "markRows"}
    page.evaluate("choose({ key: chosen.key, head: chosen.head })")
    assert page.evaluate("drawn") == []
    page.evaluate("for (const follower of followers) follower.draw = follower.original")


def test_tip_stays_after_a_touch(page):
    page.evaluate("document.getElementById('token-strip').scrollIntoView({block: 'center'})")
    box = "document.querySelectorAll('#token-strip label')[3].getBoundingClientRect()"
    x, y = page.evaluate(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})")
    page.call("Emulation.setTouchEmulationEnabled", enabled=True)
    page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    assert page.evaluate("!document.getElementById('tip').hidden")
    assert text_of(page, "#tip").startswith("position 3, id ")
    page.call("Emulation.setTouchEmulationEnabled", enabled=False)


def test_policy_names_the_hash_of_script_and_style(page):
    policy = page.evaluate("document.querySelector('meta[http-equiv]').content")
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[\w+/]{43}='; script-src 'sha256-[\w+/]{43}='; img-src data:", policy
    )
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), { textContent: 'ran = 1' }))")
    assert page.evaluate("typeof ran") == "undefined"
    assert len(page.problems) == 1
    assert "Content Security Policy" in page.problems.pop()


def test_array_that_cannot_be_decoded_is_reported_on_the_page(browser, tmp_path, example):
    file = tmp_path / "page.html"
    for damage in (
        ('data-array="heads.norm"', 'data-array="x"'),
        ('data-array="lens.target" data-kind="f4" data-axes="7">', "\\g<0>!"),
    ):
        file.write_text(re.sub(*damage, example.page(), count=1), encoding="utf-8")
        page = browser.open(file.as_uri())
        assert page.evaluate("document.getElementById('failure').checkVisibility()")
        assert text_of(page, "#failure").startswith("This page is incomplete, because an error occurred: ")
        page.close()


def test_arrays_are_decoded_only_when_they_are_drawn(page):
    page.evaluate("DECODED.clear(); choose({ layer: 2 })")
    assert page.evaluate("range(L).map(layer => DECODED.has(`h.${layer}.attn.q`))") == [
        layer == 2 for layer in range(6)
    ]


def test_print_keeps_colors_and_whole_tables(page):
    page.call("Emulation.setEmulatedMedia", media="print")
    hidden = "getComputedStyle(x).overflowY !== 'visible' || x.scrollHeight > x.clientHeight + 2"
    cut = f"[...document.querySelectorAll('.scroll')].filter(x => {hidden})"
    assert page.evaluate(f"{cut}.map(x => x.ariaLabel ?? x.id)") == []
    adjust = "[...document.querySelectorAll('.bar, .ramp, #head-grid small, #lens-table button, #ablation-table td')]"
    assert {*page.evaluate(f"{adjust}.map(x => getComputedStyle(x).printColorAdjust)")} == {"exact"}
    assert not page.evaluate("document.querySelector('nav').checkVisibility()")


def test_forced_colors_keep_the_colors_that_are_numbers(page):
    selectors = [
        "#token-strip label:nth-of-type(3)",
        "#head-grid small",
        "#lens-table td button",
        "#ablation-table td",
        "#next-table .bar",
    ]
    color = f"{json.dumps(selectors)}.map(x => getComputedStyle(document.querySelector(x)).backgroundColor)"
    before = page.evaluate(color)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "forced-colors", "value": "active"}])
    after = page.evaluate(color)
    assert page.evaluate("matchMedia('(forced-colors: active)').matches")
    assert after[:4] == before[:4]
    assert "rgba(0, 0, 0, 0)" not in after


def test_numbers_that_round_to_zero_have_no_sign(page):
    texts = page.evaluate("[-0.0001, -0, 0.0004, -0.0006, -1234.5].flatMap(x => [fixed(x), signed(x)])")
    assert texts == [
        "0.000",
        "0.000",
        "0.000",
        "0.000",
        "0.000",
        "0.000",
        "−0.001",
        "−0.001",
        "−1,234.500",
        "−1,234.500",
    ]
    for position in range(11):
        change(page, "#position", position)
        assert not re.search(r"−0\.0*\b(?![.\d])", shown_text(page))


def test_every_table_header_has_a_text(page):
    assert page.evaluate("[...document.querySelectorAll('th')].filter(x => x.textContent.trim() === '').length") == 0
