"""Interventions and comparisons of the explanation, against saved outputs of transformers with torch hooks."""

import json
import math

import numpy as np
import pytest

from numpy_gpt2 import forward, load, record, softmax
from numpy_gpt2.explain import explain
from numpy_gpt2.explain.analysis import lens
from numpy_gpt2.explain.compare import change_arrays, lens_difference, second_arrays, trace_lines, trace_patching
from numpy_gpt2.explain.interventions import MLP, Direction, Edge, Head, Patch, chain, make_hook, read_intervention
from numpy_gpt2.hub import bundled_folder

from .browser import data_of, text_of
from .conftest import PROMPT
from .reference.seeded import FOLDER


@pytest.fixture(scope="module")
def references():
    with np.load(FOLDER / "interventions.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def prompts(references, bundled):
    return [explain(str(prompt), bundled) for prompt in references["prompts"]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_interventions_equal_transformers_with_hooks(dtype, references):
    weights, config, tokenizer = load(bundled_folder(), dtype)
    tokens = [np.array(tokenizer.encode(str(prompt))) for prompt in references["prompts"]]
    first, second = {}, {}
    for ids, into in zip(tokens, (first, second), strict=True):
        forward(ids, weights, config, hook=record(into))
    cases = [name for name in references if name.isdigit()]
    assert len(cases) == 10
    for case in cases:
        intervention = read_intervention(json.loads(str(references[case])))
        hook = make_hook([intervention], config, first, second)
        logits = forward(tokens[0], weights, config, hook=hook)[:, ::8]
        tolerance = 3e-5 if dtype == np.float32 else 1e-11  # logits are up to 17
        np.testing.assert_allclose(logits, references[f"{case}/logits"], rtol=0, atol=tolerance, err_msg=case)


def test_tracing_equals_transformers(references, prompts):
    rows = [*trace_patching(*prompts)]
    assert prompts[1].target == [references["answer"]]
    np.testing.assert_allclose(rows, references["trace"], rtol=0, atol=1e-5)
    start, *lines = trace_lines(*prompts)
    assert start["answer"] == "'s"
    p = [math.exp(prompts[1]["target.log_probability"]), softmax(prompts[0]["logits"][-1])[prompts[1].target[0]]]
    np.testing.assert_allclose(start["ends"], p[::-1], rtol=1e-5)
    assert [line["row"] for line in lines if line] == [row.tolist() for row in rows]
    assert len(lines) == np.size(rows)  # an empty line where a row is not complete yet: others get their turn


def test_tracing_needs_prompts_of_equal_length(prompts, example):
    with pytest.raises(ValueError, match="the second prompt has 11 tokens; it must have 8, like the first one"):
        trace_patching(prompts[0], example)


def test_removal_is_that_of_the_ablation(example, bundled):
    for intervention, change in ((Head(4, 2), example["ablation.heads"][4, 2]), (MLP(1), example["ablation.mlps"][1])):
        hook = make_hook([intervention], bundled.config, example)
        removed = explain(PROMPT, bundled, target=" question", hook=hook)
        assert removed["target.log_probability"] - example["target.log_probability"] == change
        assert not removed[intervention.name][:, getattr(intervention, "head", slice(None))].any()


def test_ablation_keeps_the_changes_of_the_hook(example, bundled):
    both = make_hook([Head(4, 2), MLP(1)], bundled.config, example)
    one = make_hook([Head(4, 2)], bundled.config, example)
    p = [explain(PROMPT, bundled, target=" question", hook=hook, ablate=hook is one) for hook in (one, both)]
    assert p[0]["ablation.mlps"][1] == p[1]["target.log_probability"] - p[0]["target.log_probability"]


def test_interventions_of_one_result_follow_the_order_of_the_list(example, bundled):
    value = np.ones_like(example["h.2.mlp_out"])
    patch, half = Patch("h.2.mlp_out", 3, 0), MLP(2, 0.5)
    second = {"embed": value[0], "h.2.mlp_out": value * 8}
    for interventions, expected in (([patch, half], 4), ([half, patch], 8)):
        hook = make_hook(interventions, bundled.config, example, second)
        changed = hook("h.2.mlp_out", value)
        assert (changed[0, 3] == expected).all()
        assert (changed[0, 4] == 0.5).all()
    assert (value == 1).all()
    assert hook("h.1.mlp_out", value) is value


@pytest.mark.parametrize(
    ("interventions", "message"),
    [
        ([Head(6, 0)], "layer is 6; it must be 0 to 5"),
        ([MLP(-1)], "layer is -1; it must be 0 to 5"),
        ([Head(0, 4)], "head is 4; it must be 0 to 3"),
        ([Head(0, True)], "head is True; it must be 0 to 3"),
        ([Head(0, 0, math.nan)], "factor is nan; it must be a number from -1000 to 1000"),
        ([Head(0, 0, 10**400)], "it must be a number from -1000 to 1000"),
        ([Edge(0, 0, 11, 0)], "query is 11; it must be 0 to 10"),
        ([Edge(0, 0, 4, 5)], "key is 5; it must be 0 to 4"),
        ([Edge(0, 0, 1, 0), Edge(0, 0, 1, 1)], "query 1 of head 0 in block 0 has no key left; keep one"),
        ([Patch("h.0.attn.pattern", 0, 0)], "name is 'h.0.attn.pattern'; it must be a result with one vector for each"),
        ([Patch("h.6.ln_1", 0, 0)], "layer is 6; it must be 0 to 5"),
        ([Patch("ln_f", 11, 0)], "position is 11; it must be 0 to 10"),
        ([Patch("ln_f", 0, 8)], "source is 8; it must be 0 to 7"),
        (
            [Patch("h.0.ln_1", 0, 0, 1)],
            "h.0.ln_1 has no heads; a head can be chosen for attn.q, attn.k, attn.v, attn.z",
        ),
        ([Patch("h.0.attn.z", 0, 0, 4)], "head is 4; it must be 0 to 3"),
        ([Direction(0, 1, 11)], "position is 11; it must be 0 to 10"),
        ([Direction("0")], "layer is '0'; it must be 0 to 5"),
    ],
)
def test_impossible_interventions_are_errors(interventions, message, bundled, example, prompts):
    with pytest.raises(ValueError, match=message):
        make_hook(interventions, bundled.config, example, prompts[0])


def test_patch_and_direction_need_a_second_prompt(bundled, example):
    for intervention in (Patch("ln_f", 0, 0), Direction(0)):
        with pytest.raises(ValueError, match="there is no second prompt; a patch and a direction need one"):
            make_hook([intervention], bundled.config, example)


@pytest.mark.parametrize("name", ["attn.q", "attn.k", "attn.v", "attn.z"])
def test_patches_of_each_head_make_the_patch_of_all_heads(name, prompts, bundled):
    first, second = prompts
    name, found = f"h.2.{name}", []
    for patches in ([Patch(name, 7, 6)], [Patch(name, 7, 6, head) for head in range(4)], [Patch(name, 7, 6, 3)]):
        results = {}
        hook = chain(make_hook(patches, bundled.config, first, second), record(results))
        found.append((results, forward(first.tokens, bundled.weights, bundled.config, hook=hook)))
    (_, whole), (_, each), (results, one) = found
    assert np.array_equal(whole, each)
    assert not np.allclose(whole, one)
    differs = (results[name] != first[name]).any(axis=-1)[0]
    assert [*zip(*np.nonzero(differs), strict=True)] == [(3, 7)]
    assert np.array_equal(results[name][0, 3, 7], second[name][0, 3, 6])


def test_difference_of_the_lenses_is_the_total_variation(prompts, bundled):
    *steps, last = lens_difference(*prompts)
    assert steps == [{}] * 7
    p, q = (softmax(lens(e["h.2.resid_pre"][0], bundled.weights, bundled.config)) for e in prompts)
    expected = np.maximum(p - q, 0).sum(axis=-1)
    np.testing.assert_allclose(last["second.lens.difference"][2], expected, atol=1e-5)
    p, q = (softmax(e["logits"]) for e in prompts)
    np.testing.assert_allclose(last["second.lens.difference"][6], np.abs(p - q).sum(axis=-1) / 2, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "kind of an intervention is None; it must be one of head, mlp, edge, patch, direction"),
        ({"kind": ["head"]}, "kind of an intervention is"),
        ({"kind": "mlp"}, "the fields of 'mlp' are missing; they must be layer, factor"),
        ({"kind": "mlp", "layer": 1, "head": 2}, "the fields of 'mlp' are layer, head; they must be layer, factor"),
    ],
)
def test_objects_that_describe_no_intervention_are_errors(data, message):
    with pytest.raises(ValueError, match=message):
        read_intervention(data)


def test_changes_that_are_too_large_are_an_error(bundled):
    with pytest.raises(ValueError, match="the logits are not finite; the hook's changes are too large"):
        explain("a", bundled, hook=lambda name, value: value * math.nan)


def test_change_has_the_best_tokens_before_and_after(prompts):
    before, after = prompts
    arrays = change_arrays(before["logits"], after)
    tokens, p = arrays["change.tokens"], arrays["change.probabilities"]
    shown = {*before["lens.tokens"][-1, -1, :8], *after["lens.tokens"][-1, -1, :8], after.target[0]}
    assert {*tokens} == shown
    assert len(tokens) == len(shown)
    for (was, now), token in zip(p, tokens, strict=True):
        for e, x in ((before, was), (after, now)):
            assert x == pytest.approx(np.exp(e["logits"][-1, token]) / np.exp(e["logits"][-1]).sum(), rel=1e-5)
    assert (np.diff(p.max(axis=1)) <= 0).all()


def test_distance_between_the_streams_of_two_prompts(prompts):
    first, second = prompts
    arrays = second_arrays(first, second)
    assert np.array_equal(arrays["second.tokens"], second.tokens)
    distance = arrays["second.distance"]
    assert distance.shape == (7, 8)
    x, y = first["h.3.resid_pre"][0, 5], second["h.3.resid_pre"][0, 5]
    assert distance[3, 5] == pytest.approx(1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-6)
    x, y = first["h.5.resid_post"][0, 7], second["h.5.resid_post"][0, 7]
    assert distance[6, 7] == pytest.approx(1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-6)
    assert np.abs(distance[:, 0]).max() < 1e-6  # both start with "The"


def test_page_shows_a_removed_edge(example, bundled, shown):
    hook = make_hook([Edge(5, 3, 10, 9), Head(0, 0)], bundled.config, example)
    e = explain(PROMPT, bundled, hook=hook)
    data = data_of(e.page())
    assert data["removed_edges"] == [[5, 3, 10, 9]]
    page = shown(e)
    page.evaluate("choose({ layer: 5, head: 3, query: 10, key: 9, view: 'scores' })")
    weights = page.evaluate("Array.from(weightsOf(5, 3, 10))")
    np.testing.assert_allclose(weights, e["h.5.attn.pattern"][0, 3, 10], atol=1e-4)
    assert weights[9] == 0
    assert "score −∞, weight 0.0000" in text_of(page, "#map-output")
    assert "This edge is removed" in text_of(page, "#product-output")
