"""The annotated source: `model.py` and `backward.py` side by side, with the numbers of one prompt."""

import html
import inspect
import re

import numpy as np
import pytest

import numpy_gpt2 as gpt2
from numpy_gpt2 import backward, model
from numpy_gpt2.explain import __main__ as command
from numpy_gpt2.explain.annotated import PROMPT, annotated_html
from numpy_gpt2.explain.calls import functions_of

from .conftest import assert_one_error, run_in_process


@pytest.fixture(scope="module")
def source(bundled):
    return annotated_html(bundled, PROMPT)


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_in_process(command.main, capsys, *arguments)


def text(part):
    return html.unescape(re.sub("<[^>]*>", "", part))


def side_of(source, name):
    """The part of the page about one function."""
    start = source.index(f"<h2>{name}<small>")
    return source[start : source.find("<h2>", start + 4)]


def test_every_word_of_both_files_is_on_the_page(source):
    def words(prose):
        return re.findall(r"\w+", prose)

    shown = re.sub(r' <span class="shape">.*?</span>', "", source)
    for module in (model, backward):
        for name, function in functions_of(module).items():
            side = side_of(shown, name)
            code = text(re.search("<pre><code>(.*?)</code></pre>", side, re.DOTALL)[1])
            assert code == re.sub(r'^ {4}""".*?"""\n', "", inspect.getsource(function), flags=re.DOTALL | re.M).rstrip()
            doc = side[side.index("</h2>") : side.index("<pre><code>")].replace("</p>", " ").replace("</pre>", " ")
            assert words(text(doc)) == words(inspect.getdoc(function))
    names = re.findall(r"<h2>(\w+)<small>", source)
    assert sorted(names) == sorted([*functions_of(model), *functions_of(backward)])


def test_functions_stand_beside_their_backward_passes(source):
    pattern = r'<section class="pair"><div><div><h2>(\w+)<.*?<div class="backward"><div><h2>(\w+)<'
    pairs = re.findall(pattern, source, re.DOTALL)
    assert len(pairs) == 15
    assert all(partner == f"{name}_backward" for name, partner in pairs)
    assert [name for name, _ in pairs] == [f for f in functions_of(model) if f"{f}_backward" in vars(backward)]


def test_numbers_are_those_of_the_first_call(source, bundled):
    tokens, trace = np.array(bundled.tokenizer.encode(PROMPT)), {}
    gpt2.forward(tokens[:-1], bundled.weights, bundled.config, hook=gpt2.record(trace))
    loss, gradients = gpt2.loss_and_gradients(tokens[:-1], tokens[1:], bundled.weights, bundled.config)

    def row(x):
        numbers = " ".join(f"{n:.4g}" for n in x.reshape(-1, x.shape[-1])[-1, :4]).replace("-", "−")
        shape = str(x.shape).replace(",)", ")")
        return f'{shape}</td><td class="number">{np.linalg.norm(x):.4g}</td><td class="row">{numbers} …'

    norm, d_norm = side_of(source, "layer_norm"), side_of(source, "layer_norm_backward")
    assert f'<tr class="given"><th>x</th><td class="mono">{row(trace["h.0.resid_pre"])}' in norm
    assert f'<tr class="result"><th>→</th><td class="mono">{row(trace["h.0.ln_1"])}' in norm
    assert f'<tr class="result"><th>dweight</th><td class="mono">{row(gradients["h.0.ln_1.weight"])}' in d_norm
    d_linear = side_of(source, "linear_backward")
    assert f'<tr class="result"><th>dbias</th><td class="mono">{row(gradients["h.0.attn.c_attn.bias"])}' in d_linear
    assert f"a loss of {loss:.4f} nats" in source
    assert "76 arrays" in side_of(source, "forward_backward")


def test_the_page_is_deterministic_and_has_no_script(source, bundled):
    assert annotated_html(bundled, PROMPT) == source
    assert not re.search(r"<script|https?://|\bsrc=|\son\w+=|<[^>]*\sstyle=", source)
    hostile = annotated_html(bundled, "</li><script>alert(1)</script> & x")
    assert re.findall("<[!/]?[a-z]+", hostile.partition("<ol")[0]) == re.findall(
        "<[!/]?[a-z]+", source.partition("<ol")[0]
    )
    assert "<script" not in hostile


@pytest.mark.parametrize(("width", "dark"), [(400, True), (1200, False), (1800, True)])
def test_page_fits_the_window_and_columns_are_aligned(width, dark, browser, source, tmp_path):
    file = tmp_path / "source.html"
    file.write_text(source, encoding="utf-8")
    page = browser.open(file.as_uri(), width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    tops = page.evaluate(
        "[...document.querySelectorAll('.pair:not(.alone, .modules)')]"
        ".map(x => [...x.querySelectorAll('pre:not(.example)')].map(y => y.getBoundingClientRect().top))"
    )
    assert len(tops) == 15
    assert all((abs(left - right) < 1) == (width > 900) for left, right in tops)
    assert (page.problems, page.requests) == ([], [file.as_uri()])
    page.close()


def test_command_writes_the_source_of_the_bundled_model(cli, tmp_path, source):
    result = cli("--source")
    assert (result.status, result.out, result.err) == (0, f"{tmp_path / 'source.html'}\n", "")
    assert (tmp_path / "source.html").read_text(encoding="utf-8") == source


def test_prompt_model_and_file_can_be_chosen(cli, tiny, tmp_path):
    assert cli("--source", "-m", tiny, "-o", "x.html", "the you").status == 0
    assert (tmp_path / "x.html").read_text(encoding="utf-8") == annotated_html(gpt2.load(tiny), "the you")


@pytest.mark.parametrize("option", [["--text"], ["--ablate"], ["--gradients"], ["--target", "a"]])
def test_options_that_the_source_does_not_use_are_errors(option, cli, tmp_path):
    result = cli("--source", *option)
    assert result.status == 2
    assert f"--source shows the code, and does not use {option[0]}; leave out {option[0]}" in result.err
    assert not list(tmp_path.iterdir())


def test_prompt_of_one_token_is_an_error(cli, tiny, tmp_path):
    assert_one_error(cli("--source", "-m", tiny, "a"), 1, "the prompt has 1 token; it must have 2 or more")
    assert not list(tmp_path.iterdir())
