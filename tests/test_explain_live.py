"""The live page in a browser: typing, steps, links and failures."""

import json
import time

import pytest

from numpy_gpt2 import forward, load
from numpy_gpt2.explain import explain
from numpy_gpt2.explain.visible import token_text

from .browser import CODES, cells_of, change, text_of
from .live_server import running

READY = "typeof DATA === 'object' && !waiting() && has('neurons.tokens') && !$('lens').inert"


@pytest.fixture(scope="module")
def model(tiny):
    return load(tiny)


@pytest.fixture(scope="module")
def served(model):
    with running(model, "float32", "To be, or not", 32) as server:
        yield server


@pytest.fixture
def open_page(served, browser):
    opened = []

    def open_page(hash="", **options):
        page = browser.open(served.address + hash, **options)
        opened.append(page)
        wait_for(page)
        return page

    yield open_page
    for page in opened:
        assert page.problems == []
        assert {request.split("#")[0].removeprefix(served.address) for request in page.requests} <= {
            "",
            "explain",
            "tokens",
            "data:,",
        }
        page.close()


@pytest.fixture
def page(open_page):
    return open_page()


def wait_for(page, condition=READY):
    deadline = time.monotonic() + 30
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, page.evaluate("document.getElementById('status').textContent")
        time.sleep(0.01)


def type_text(page, text):
    """Type with the keyboard, at the end of the input line."""
    page.evaluate("$('text').focus(); $('text').setSelectionRange(1e6, 1e6)")
    for character in text:
        page.call("Input.insertText", text=character)


def press(page, key, modifiers):
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=CODES[key], modifiers=modifiers)


def value(page):
    return page.evaluate("$('text').value")


def assert_shows(page, prompt, model):
    """The parts of the page show the explanation of this prompt."""
    e = explain(prompt, model, max_tokens=32)
    texts = [token_text(token, model) for token in e.tokens]
    T, best = len(texts), [token_text(token, model) for token in e["lens.tokens"][-1, -1, :5]]
    assert value(page) == text_of(page, "#prompt") == prompt
    for selector in ("#typed span", "#token-strip label"):
        assert page.evaluate(f"[...document.querySelectorAll('{selector}')].map(x => x.textContent)") == texts
    assert [row[0] for row in cells_of(page, "#best-table")] == best
    assert text_of(page, "#status") == f"{T} tokens; the best next one is {best[0]}"
    assert text_of(page, "#token-output").startswith(f"Position {T - 1}: {texts[-1]} is token ")
    assert [row[1] for row in cells_of(page, "#token-table")[1:]] == texts
    assert [row[1] for row in cells_of(page, "#embedding-table")[1:]] == texts
    assert page.evaluate("document.getElementById('map').width") == T
    assert page.evaluate("[...$('position').options].map(x => x.textContent)") == [
        f"{t} {text}" for t, text in enumerate(texts)
    ]
    lens = page.evaluate("[...$('lens-table').tBodies[0].rows].map(x => x.querySelectorAll('button').length)")
    assert lens == [T] * (model.config.n_layer + 1)
    assert page.evaluate("document.querySelector('[data-numbers]').dataset.numbers").count(str(T)) > 0
    heads = [
        token_text(token, model) for token in e["heads.tokens"][tuple(page.evaluate("[chosen.layer, chosen.head]"))]
    ]
    assert text_of(page, "#head-output").endswith(f"promotes {' '.join(heads)}.")
    assert "…" not in text_of(page, "#neuron-table tbody")


def test_page_follows_the_typed_text(page, model):
    assert_shows(page, "To be, or not", model)
    assert page.evaluate("document.activeElement.id") == "text"
    type_text(page, " to be\nROM")
    wait_for(page, f"$('text').value.endsWith('ROM') && {READY}")
    assert_shows(page, "To be, or not to be\nROM", model)
    assert page.evaluate("document.activeElement.id") == "text"


def test_outdated_answers_are_not_drawn(page, model):
    page.evaluate("drawn = []; follow(['data'], () => drawn.push(DATA.text))")
    page.evaluate("for (const text of ['a', 'ab', 'abc']) choose({ prompt: text })")
    wait_for(page, f"DATA.text === 'abc' && {READY}")
    assert page.evaluate("drawn") == ["abc"]


def test_steps_take_tokens_and_go_back(page, model):
    start = value(page)
    tokens = explain(start, model).tokens.tolist()
    for _ in range(2):
        tokens.append(int(forward(tokens, model.weights, model.config)[-1].argmax()))
        page.evaluate("$('step').click()")
        wait_for(page)
        assert page.evaluate("DATA.tokens") == tokens
    press(page, "Enter", modifiers=2)  # Ctrl
    wait_for(page)
    assert len(page.evaluate("DATA.tokens")) == len(tokens) + 1
    assert page.evaluate("document.querySelectorAll('#typed .taken').length") == 3
    page.evaluate("$('back').click()")
    wait_for(page)
    assert page.evaluate("DATA.tokens") == tokens
    press(page, "Enter", modifiers=2 + 8)  # and Shift
    wait_for(page)
    page.evaluate("$('back').click()")
    wait_for(page)
    assert value(page) == start
    assert page.evaluate("$('back').ariaDisabled") == "true"
    page.evaluate("history.back()")
    wait_for(page, f"chosen.taken !== '' && {READY}")
    assert page.evaluate("DATA.tokens") == tokens[:-1]


def test_clicked_candidates_and_samples_are_taken(page):
    row = cells_of(page, "#next-table")[6]
    page.evaluate("$('next-table').rows[6].click()")
    wait_for(page)
    assert token_of(page, -1) == row[0]
    page.evaluate("$('next-table').focus()")
    page.press("ArrowDown")
    page.press("ArrowDown")
    second = cells_of(page, "#next-table")[1][0]
    page.press("Enter")
    wait_for(page)
    assert token_of(page, -1) == second
    row = cells_of(page, "#best-table")[3]
    page.evaluate("$('best-table').rows[3].click()")
    wait_for(page)
    assert token_of(page, -1) == row[0]
    change(page, "#top-k", 3, "input")
    p = page.evaluate("Array.from(settled().p.subarray(0, 3))")
    for share, rank in [(0, 0), (p[0] + p[1] / 2, 1), (0.9999, 2)]:
        expected = cells_of(page, "#next-table")[rank][0]
        page.evaluate(f"Math.random = () => {share}; $('sample').click()")
        wait_for(page)
        assert token_of(page, -1) == expected
        page.evaluate("$('back').click()")
        wait_for(page)


def token_of(page, index):
    return page.evaluate(f"DATA.pieces[DATA.tokens.at({index})]")


def test_unused_rows_of_the_table_are_never_taken(page):
    page.evaluate("DATA.unused = [at('next.tokens', 0), at('next.tokens', 2)]; $('next-table').rows[2].click()")
    assert text_of(page, "#status").endswith("it is an unused row of its table.")
    assert page.evaluate("chosen.taken") == ""
    assert page.evaluate("best() === at('next.tokens', 1)")
    for share in (0, 0.3, 0.6, 0.9999):
        assert page.evaluate(f"Math.random = () => {share}; DATA.unused.includes(sampled())") is False


def test_strip_stays_visible(page):
    page.evaluate("goTo('mattered')")
    top, bottom = page.evaluate(
        "(({ top, bottom }) => [top, bottom])(document.querySelector('.overview').getBoundingClientRect())"
    )
    assert (top, bottom) == (0, 112)
    assert page.evaluate("$('mattered').getBoundingClientRect().top") >= bottom
    assert text_of(page, "#strip-prompt") == text_of(page, "#typed")


def test_link_and_reload_restore_the_whole_state(page, open_page, served):
    type_text(page, " é & #1")
    wait_for(page, f"DATA.typed.endsWith('#1') && {READY}")
    page.evaluate("$('step').click()")
    wait_for(page)
    change(page, "#layer", 1)
    change(page, "#position", 3)
    state = "JSON.stringify([chosen, $('text').value, $('map-output').textContent, DATA.tokens])"
    before, address = page.evaluate(state), page.evaluate("location.href.split('#')[0] + address")
    again = open_page(address.removeprefix(served.address))
    assert json.loads(again.evaluate(state)) == json.loads(before)
    wait_for(page, "writing === undefined")
    page.loaded = False
    page.call("Page.reload")
    wait_for(page, f"document.readyState === 'complete' && {READY}")
    assert json.loads(page.evaluate(state)) == json.loads(before)


def test_choices_stay_when_there_are_more_of_them_than_changes_of_the_address(page, model):
    page.evaluate("for (let i = 0; i < 250; i++) choose({ step: `${i}` })")  # Chromium allows 200 changes in 10 s
    type_text(page, " to")
    wait_for(page, f"DATA.typed.endsWith(' to') && {READY}")
    assert page.evaluate("[chosen.prompt, chosen.step]") == ["To be, or not to", ""]
    wait_for(page, "writing === undefined")
    assert page.evaluate("location.hash === address && address.includes('not+to')")


def test_chosen_head_stays_while_the_text_changes(page):
    page.evaluate("choose({ layer: 1, head: 3, position: 2 })")
    type_text(page, " to")
    wait_for(page, f"DATA.typed.endsWith(' to') && {READY}")
    assert page.evaluate("[chosen.layer, chosen.head, chosen.position]") == [1, 3, 2]
    assert text_of(page, "#map-output").startswith("Block 1, head 3: position 2 ")


def test_other_models_can_be_chosen(page, model, bundled):
    models = page.evaluate("[...$('model').options].map(x => x.value)")
    assert {"shakespeare", "tiny"} <= {*models}
    change(page, "#model", "shakespeare")
    wait_for(page)
    assert_shows(page, "To be, or not", bundled)
    page.evaluate("history.back()")
    wait_for(page, f"chosen.model === 'tiny' && {READY}")
    assert_shows(page, "To be, or not", model)
    assert page.evaluate("$('model').value") == "tiny"


def test_failure_is_said_and_the_page_goes_on(page, model):
    page.evaluate("choose({ prompt: 'x'.repeat(200000) })")
    wait_for(page, "$('status').classList.contains('failed')")
    assert "it must have 100,000 at most" in text_of(page, "#status")
    assert "413" in page.problems.pop()
    page.evaluate("choose({ prompt: 'the', target: '999999' })")
    wait_for(page, "$('status').textContent === 'the model has no token 999999'")
    assert "400" in page.problems.pop()
    assert page.evaluate("$('step').ariaDisabled") == "true"
    page.evaluate("$('text').value = 'ROMEO'; $('text').dispatchEvent(new Event('input'))")
    wait_for(page, f"DATA.typed === 'ROMEO' && {READY}")
    assert_shows(page, "ROMEO", model)
    assert not page.evaluate("$('status').classList.contains('failed')")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1280])
def test_live_page_fits_the_window(width, dark, open_page):
    page = open_page(width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("$('live').getBoundingClientRect().bottom") < 900
    equations = page.evaluate(
        "[...document.querySelectorAll('.does')].filter(x => x.offsetParent).map(x => x.clientWidth)"
    )
    assert min(equations) > 100  # one that is cut still shows its beginning
    left = "x.getBoundingClientRect().left - x.parentElement.getBoundingClientRect().left"
    names = page.evaluate(
        f"[...document.querySelectorAll('summary .name')].filter(x => x.offsetParent).map(x => {left})"
    )
    assert max(names) < 40  # after the mark, also where the equation has a line of its own
    assert page.evaluate("parseFloat(getComputedStyle($('model')).maxWidth)") > 12 * 11  # "shakespeare"
