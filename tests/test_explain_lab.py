"""The live page's interventions, second prompt and tracing: the server's answers, and the page in a browser."""

import base64
import json
import re
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from numpy_gpt2.explain import explain
from numpy_gpt2.explain.compare import change_arrays, lens_difference, second_arrays, trace_patching
from numpy_gpt2.explain.gradients import gradients_of
from numpy_gpt2.explain.interventions import make_hook, read_intervention
from numpy_gpt2.explain.page import gradient_arrays

from .browser import KINDS, text_of
from .live_server import running

PROMPT, SECOND = "The king is dead, and the king", "The queen is dead, and the queen"
READY = "typeof DATA === 'object' && !waiting() && has('heads.tokens') && has('second.tokens') === !!chosen.second"
HEAD = {"kind": "head", "layer": 5, "head": 3, "factor": 0}
INTERVENTIONS = [
    HEAD,
    {"kind": "mlp", "layer": 1, "factor": 0.5},
    {"kind": "edge", "layer": 2, "head": 1, "query": 5, "key": 2},
    {"kind": "patch", "name": "h.3.attn.v", "position": 1, "from": 1},
    {"kind": "direction", "layer": 4, "position": None, "factor": 0.3},
]


@pytest.fixture(scope="module")
def served(bundled):
    with running(bundled, "float32", PROMPT, 32) as server:
        yield server


@pytest.fixture(scope="module")
def prompts(bundled):
    return explain(PROMPT, bundled), explain(SECOND, bundled)


@pytest.fixture
def page(served, browser):
    page = browser.open(served.address)
    wait_for(page)
    yield page
    assert page.problems == []
    page.close()


def wait_for(page, condition="true"):
    deadline = time.monotonic() + 30
    while not page.evaluate(f"{READY} && ({condition})"):
        assert time.monotonic() < deadline, page.evaluate("document.getElementById('status').textContent")
        time.sleep(0.02)


def ask(served, name, **content):
    """The JSON objects of the answer."""
    body = {"model": served.models.first.tokenizer.name, "prompt": PROMPT, **content}
    request = Request(served.address + name, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        return [json.loads(line) for line in answer]


def changed(prompts, interventions):
    """The explanation with these interventions."""
    first, second = prompts
    hook = make_hook(map(read_intervention, interventions), first.model.config, first, second)
    return explain(PROMPT, first.model, target=first.model.tokenizer.decode(first.target), hook=hook)


def cells(page, rows):
    """The texts of the cells of rows."""
    return page.evaluate(f"[...document.querySelectorAll('{rows} td')].map(x => x.textContent)")


def percentages(page, rows):
    """The percentages in these rows."""
    return [float(x.removesuffix(" %")) for x in cells(page, rows) if x.endswith(" %")]


def test_answer_has_the_changed_pass_and_the_second_prompt(served, prompts):
    parts = ask(served, "explain", second=SECOND, interventions=INTERVENTIONS)
    sent = {name: array for part in parts for name, array in part["arrays"].items()}
    after = changed(prompts, INTERVENTIONS)
    expected = change_arrays(prompts[0]["logits"], after) | second_arrays(after, prompts[1])
    expected |= {name: after[name] for name in ("target.log_probability", "lens.probabilities", "heads.norm")}
    assert set(expected) <= set(sent)
    for name, array in expected.items():
        values = np.frombuffer(base64.b64decode(sent[name]["numbers"]), KINDS[sent[name]["kind"]])
        np.testing.assert_allclose(values, array.ravel(), rtol=1e-4, atol=1e-6, err_msg=name)
    assert parts[0]["removed_edges"] == [[2, 1, 5, 2]]


def test_answer_without_interventions_has_no_changes(served):
    names = {name for part in ask(served, "explain") for name in part["arrays"]}
    assert not [name for name in names if name.startswith(("change.", "second."))]


def test_trace_has_a_row_for_each_block(served, prompts):
    start, *rows = ask(served, "trace", second=SECOND)
    assert start["answer"] == "'s"
    np.testing.assert_allclose([part["row"] for part in rows], [*trace_patching(*prompts)], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("explain", {"interventions": [HEAD] * 101}, "it must be a list of 100 objects at most"),
        ("explain", {"second": 3}, "second is 3; it must be a text or null"),
        ("gradients", {"interventions": [HEAD]}, "backward.py has no gradient of removed or scaled heads and MLPs"),
        ("ablation", {"target": 5000}, "the model has no token 5000"),
        ("trace", {}, "there is no second prompt"),
        ("trace", {"second": "The"}, "the second prompt has 1 tokens; it must have 8"),
    ],
)
def test_impossible_requests_get_a_clear_answer(name, content, message, served):
    with pytest.raises(HTTPError) as error:
        ask(served, name, **content)
    assert error.value.code == 400
    assert message in json.loads(error.value.read())["error"]


def test_interventions_that_do_not_fit_are_left_out_with_their_reasons(served, prompts):
    edges = [{"kind": "edge", "layer": 0, "head": 0, "query": 1, "key": key} for key in (0, 1)]
    wrong = {
        "there is no second prompt": INTERVENTIONS[3],
        "layer is 6; it must be 0 to 5": {**HEAD, "layer": 6},
        "head is 4; it must be 0 to 3": {**HEAD, "head": 4},
        "query is 8; it must be 0 to 7": {**edges[0], "query": 8},
        "the kind of an intervention is None": {},
        "query 1 of head 0 in block 0 has no key left": edges[1],
    }
    first, *_ = ask(served, "explain", interventions=[HEAD, edges[0], *wrong.values()])
    assert [each for each, _ in first["refused"]] == [*wrong.values()]
    assert all(reason.startswith(start) for start, (_, reason) in zip(wrong, first["refused"], strict=True))
    expected = changed(prompts, [HEAD, edges[0]])["target.log_probability"]
    assert values(first["arrays"]["target.log_probability"])[0] == pytest.approx(expected.item(), abs=1e-5)


def values(sent):
    """The numbers of an array in an answer."""
    return np.frombuffer(base64.b64decode(sent["numbers"]), KINDS[sent["kind"]])


def test_removals_keep_the_interventions_and_the_target(served, prompts):
    model = prompts[0].model
    *progress, last = ask(served, "ablation", interventions=[HEAD], target=300)
    assert progress == [{"done": i, "of": 30} for i in range(1, 30)]
    hook = make_hook([read_intervention(HEAD)], model.config, prompts[0])
    e = explain(PROMPT, model, target=model.tokenizer.decode([300]), ablate=True, hook=hook)
    assert e.target == [300]
    for name in ("ablation.heads", "ablation.mlps"):
        np.testing.assert_allclose(values(last["arrays"][name]), e[name].ravel(), atol=1e-5, err_msg=name)


def test_backward_pass_is_that_of_the_static_page(served):
    e = explain(PROMPT, served.models.first, gradients=True)
    *progress, last = ask(served, "gradients")
    assert progress == [{"done": i, "of": 8} for i in range(1, 8)]
    for name, array in gradient_arrays(e).items():
        expected = array if array.dtype == np.uint16 else array.astype(np.float32)
        np.testing.assert_allclose(values(last["arrays"][name]), expected.ravel(), rtol=1e-3, atol=2, err_msg=name)
    assert last["weights"].keys() == e.model.weights.keys()


def test_gradients_with_edges_and_directions_are_right(served, prompts):
    """A small direction before block 4 changes the objective by its inner product with the gradient there."""
    interventions = [INTERVENTIONS[2], INTERVENTIONS[4]]
    *_, last = ask(served, "gradients", second=SECOND, interventions=interventions)
    after = changed(prompts, interventions)
    *_, found = gradients_of(after)
    np.testing.assert_allclose(values(last["arrays"]["gradient.heads"]), found["gradient.heads"].ravel(), atol=1e-4)
    direction = prompts[1]["h.4.resid_pre"][0, -1] - prompts[0]["h.4.resid_pre"][0, -1]
    expected = (found["gradient.h.4.resid_pre"][0] @ direction).sum()
    log_p = [
        changed(prompts, [interventions[0], {**interventions[1], "factor": 0.3 + step}])["target.log_probability"]
        for step in (-0.02, 0.02)
    ]
    assert (log_p[1] - log_p[0]) / 0.04 == pytest.approx(expected, rel=0.01)


def test_long_parts_are_computed_on_demand_and_end_with_the_data(page, prompts):
    e = explain(PROMPT, prompts[0].model, ablate=True, gradients=True)
    assert text_of(page, "#no-gradients button") == "Compute the gradients"
    for place, first in (("no-ablation", "ablation.heads"), ("no-gradients", "gradient.stream")):
        page.evaluate(f"document.querySelector('#{place} button').focus()")
        page.press("Enter")
        wait_for(page, f"has('{first}')")
    assert page.evaluate("document.activeElement.id") == "objective"
    shown = [[x.replace("−", "-") for x in cells(page, f"#{name}-table tbody tr")] for name in ("ablation", "estimate")]
    real = np.column_stack([e["ablation.heads"], e["ablation.mlps"]])
    estimates = -np.column_stack([e["gradient.heads"][-1], e["gradient.mlps"][-1]])
    np.testing.assert_allclose(np.array(shown, float), [real.ravel(), estimates.ravel()], atol=6e-4)
    assert page.evaluate("$('estimate-figure').checkVisibility() && document.querySelectorAll('.pair pre').length > 20")
    page.evaluate("choose({ prompt: 'The king' })")
    wait_for(page, "DATA.typed === 'The king'")
    for place in ("no-ablation", "no-gradients"):
        assert page.evaluate(f"$('{place}').checkVisibility()")
    assert not page.evaluate("$('backward').checkVisibility() || $('ablation').checkVisibility()")
    page.evaluate("document.querySelector('#no-gradients button').click(); choose({ prompt: 'The queen is' })")
    wait_for(page, "DATA.typed === 'The queen is'")
    page.evaluate("new Promise(done => setTimeout(done, 300))")
    assert not page.evaluate("has('gradient.stream')")
    assert text_of(page, "#no-gradients button") == "Compute the gradients"


def test_target_is_typed_or_clicked_and_kept_in_the_address(page, prompts):
    ids = {text: prompts[0].model.tokenizer.encode(text) for text in (" that", " Mortimer")}
    assert [len(tokens) for tokens in ids.values()] == [1, 4]
    page.evaluate("$('target-text').value = ' Mortimer'; $('target-set').click()")
    wait_for(page, "$('target-status').classList.contains('failed')")
    assert text_of(page, "#target-status").startswith("This is 4 tokens, ·M")
    page.evaluate("$('target-text').value = ' that'; $('target-text').focus()")
    page.press("Enter")
    wait_for(page, f"DATA.target[0] === {ids[' that'][0]}")
    assert text_of(page, "#target-output").startswith("The target is ·that: p = ")
    assert f"target={ids[' that'][0]}" in page.evaluate("address")
    page.evaluate("document.querySelector('[name=picks][value=explain]').click(); $('next-table').rows[3].click()")
    third = page.evaluate("at('next.tokens', 3)")
    wait_for(page, f"DATA.target[0] === {third}")
    assert page.evaluate("[chosen.taken, chosen.target]") == ["", str(third)]
    page.evaluate("$('target-reset').click()")
    wait_for(page, "DATA.target[0] === at('next.tokens', 0)")


def test_intervention_that_no_longer_fits_is_shown_and_the_page_goes_on(page):
    page.evaluate(f"choose({{ second: {json.dumps(SECOND)}, layer: 2, position: 7 }})")
    wait_for(page)
    page.evaluate("$('patch-name').value = 'h.2.attn.z'; $('patch-name').dispatchEvent(new Event('change'))")
    page.evaluate("$('patch-head').value = 1; $('add-patch').click()")
    patch = {"kind": "patch", "name": "h.2.attn.z", "position": 7, "from": 7, "head": 1}
    assert page.evaluate("inForce()") == [patch]
    wait_for(page, "has('change.tokens')")
    assert cells(page, "#change-list tr")[0].startswith("head 1 of h.2.attn.z at position 7")
    page.evaluate("choose({ prompt: 'The king' })")
    wait_for(page, "DATA.typed === 'The king' && !has('change.tokens')")
    assert cells(page, "#change-list tr")[2] == "not in force: position is 7; it must be 0 to 1"
    assert not page.evaluate("$('status').classList.contains('failed')")
    page.evaluate(f"choose({{ prompt: {json.dumps(PROMPT)} }})")
    wait_for(page, "has('change.tokens')")
    assert cells(page, "#change-list tr")[2] == ""


def test_clicks_on_heads_and_mlps_remove_them_and_bring_them_back(page, prompts):
    page.evaluate("document.querySelector('input[name=clicks][value=remove]').click()")
    page.evaluate('document.querySelector(\'#head-grid [data-layer="5"][data-head="3"]\').click()')
    page.evaluate("document.querySelector('#direct-table').tBodies[0].rows[1].cells[5].click()")  # block 1, MLP
    wait_for(page, "has('change.tokens')")
    rows = cells(page, "#change-list tr")
    assert [x for x in rows if x not in ("", "✕")] == [
        "head 3 of block 5",
        "removed",
        "the MLP of block 1",
        "removed",
    ]
    after = changed(prompts, [HEAD, {"kind": "mlp", "layer": 1}])
    p = change_arrays(prompts[0]["logits"], after)["change.probabilities"]
    np.testing.assert_allclose(percentages(page, "#change-table tr"), 100 * p.ravel(), rtol=0.01)
    marked = "[...document.querySelectorAll('#head-grid .changed')].map(x => x.dataset.layer + x.dataset.head)"
    assert page.evaluate(marked) == ["53"]
    page.evaluate('document.querySelector(\'#head-grid [data-layer="5"][data-head="3"]\').click()')
    page.evaluate("document.querySelector('#change-list button').click()")
    wait_for(page, "!has('change.tokens')")
    assert page.evaluate("inForce()") == []
    assert page.evaluate("document.querySelector('#change').checkVisibility()") is False
    page.evaluate("history.back()")
    wait_for(page, "has('change.tokens')")
    assert page.evaluate("inForce()") == [{"kind": "mlp", "layer": 1, "factor": 0}]
    assert "the MLP of block 1" in text_of(page, "#change-list")


def test_every_intervention_can_be_made_on_the_page_and_a_reload_restores_it(page, browser, prompts):
    page.evaluate("choose({ layer: 5, head: 3 }); document.getElementById('remove-head').click()")
    page.evaluate("choose({ layer: 1 }); document.getElementById('remove-mlp').click()")
    slide = "const x = document.querySelectorAll('#change-list input')[1]; x.value = 0.5;"
    page.evaluate(f"{{ {slide} x.dispatchEvent(new Event('input')) }}")
    page.evaluate("choose({ layer: 2, head: 1, query: 5, key: 2 }); document.getElementById('remove-edge').click()")
    page.evaluate("document.getElementById('second-prompt').focus()")
    page.call("Input.insertText", text=SECOND)
    wait_for(page, "chosen.second && has('second.tokens')")
    page.evaluate("choose({ layer: 3, position: 1 }); $('patch-name').value = 'h.3.attn.v'; $('add-patch').click()")
    page.evaluate("choose({ layer: 4 }); $('add-direction').click()")
    page.evaluate("intervene({ ...inForce()[4], factor: 0.3 })")
    assert page.evaluate("inForce()") == INTERVENTIONS
    wait_for(page, "DATA.removed_edges.length === 1 && at('change.tokens').length")
    again = browser.open(page.evaluate("location.href.split('#')[0] + address"))
    wait_for(again, "has('change.tokens')")
    p = change_arrays(prompts[0]["logits"], changed(prompts, INTERVENTIONS))["change.probabilities"]
    np.testing.assert_allclose(percentages(again, "#change-table tr"), 100 * p.ravel(), rtol=0.01)
    assert cells(again, "#change-list tr")[2::4] == ["removed", "× 0.5", "", "", "× 0.3"]
    assert again.evaluate("$('second-prompt').value") == SECOND
    again.evaluate("document.getElementById('remove-all').click()")
    wait_for(again, "!has('change.tokens')")
    assert again.problems == []
    again.close()


def test_second_prompt_is_drawn_beside_the_first(page, prompts):
    page.evaluate(f"choose({{ second: {json.dumps(SECOND)}, layer: 3, head: 1, query: 7, key: 6 }})")
    wait_for(page)
    first, second = prompts
    row = cells(page, "#second-tokens tbody tr:nth-child(2)")
    bits = [first["surprisal"][1], second["surprisal"][1]]
    assert row == ["1", "·king", f"{bits[0]:.2f}", "·queen", f"{bits[1]:.2f}", f"{bits[1] - bits[0]:+.3f}"]
    weights = [e["h.3.attn.pattern"][0, 1, 7, 6] for e in prompts]
    for weight in weights:
        assert f"{weight:.4f}" in text_of(page, "#second-output")
    pixels = "Array.from($('map-difference').getContext('2d').getImageData(0, {y}, 8, 1).data)"
    difference = second["h.3.attn.pattern"][0, 1, 4] - first["h.3.attn.pattern"][0, 1, 4]
    colors = np.reshape(page.evaluate(pixels.format(y=4)), (8, 4))[:5].astype(int)
    blue, red = colors[:, 2], colors[:, 0]
    clear = np.abs(difference[:5]) > 0.005
    assert ((blue > red) == (difference[:5] > 0))[clear].all()
    wait_for(page, "has('second.lens.difference')")
    *_, rows = lens_difference(*prompts)
    tips = page.evaluate("[...document.querySelectorAll('#lens-difference-table td')].map(x => x.dataset.tip)")
    shown = [float(re.search(r"difference ([\d.]+) %", tip)[1]) for tip in tips]
    np.testing.assert_allclose(shown, 100 * rows["second.lens.difference"].ravel(), atol=0.06)
    assert cells(page, "#second-lens tbody tr:last-child")[3:] == [
        "'s",
        f"{100 * second['lens.probabilities'][-1, 7, 0]:.1f} %",
    ]


def test_tracing_map_shows_every_probability_and_a_click_patches(page, prompts):
    page.evaluate(f"choose({{ second: {json.dumps(SECOND)} }})")
    wait_for(page)
    page.evaluate("document.getElementById('tracing-start').click()")
    wait_for(page, "document.querySelectorAll('#tracing-table tbody tr').length === L")
    tips = page.evaluate("[...document.querySelectorAll('#tracing-table td')].map(x => x.dataset.tip)")
    shown = [float(re.search(r"= ([\d.]+) %", tip)[1]) for tip in tips]
    np.testing.assert_allclose(shown, 100 * np.concatenate([*trace_patching(*prompts)]), rtol=0.01)
    page.evaluate("document.querySelector('#tracing-table tbody').rows[2].cells[8].click()")
    wait_for(page, "has('change.tokens')")
    assert page.evaluate("inForce()") == [{"kind": "patch", "name": "h.2.resid_pre", "position": 7, "from": 7}]
    assert page.evaluate("document.querySelectorAll('#tracing-table td').length") == 48  # the map stays
    page.evaluate("choose({ second: 'The', interventions: '[]' })")
    wait_for(page, "document.querySelectorAll('#tracing-table td').length === 0")
