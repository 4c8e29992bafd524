"""The live page's interventions, second prompt and tracing: the server's answers, and the page in a browser."""

import base64
import json
import re
import threading
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from numpy_gpt2.explain import explain
from numpy_gpt2.explain.compare import change_arrays, second_arrays, trace_patching
from numpy_gpt2.explain.interventions import make_hook, read_intervention
from numpy_gpt2.explain.server import Server

from .browser import KINDS, text_of

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
    with Server(bundled, "float32", PROMPT, 32) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


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
        ("explain", {"interventions": [INTERVENTIONS[3]]}, "there is no second prompt"),
        ("explain", {"interventions": [{**HEAD, "layer": 6}]}, "layer is 6; it must be 0 to 5"),
        ("explain", {"interventions": [HEAD] * 101}, "it must be a list of 100 objects at most"),
        ("explain", {"second": 3}, "second is 3; it must be a text or null"),
        ("trace", {}, "there is no second prompt"),
        ("trace", {"second": "The"}, "the second prompt has 1 tokens; it must have 8"),
    ],
)
def test_impossible_requests_get_a_clear_answer(name, content, message, served):
    with pytest.raises(HTTPError) as error:
        ask(served, name, **content)
    assert error.value.code == 400
    assert message in json.loads(error.value.read())["error"]


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
    again = browser.open(page.evaluate("location.href"))
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
