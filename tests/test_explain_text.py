"""The report in the terminal, and the folder's README, whose examples are run."""

import doctest
import re
import shlex

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpy_gpt2 import load
from numpy_gpt2.explain import explain
from numpy_gpt2.explain.__main__ import make_parser
from numpy_gpt2.explain.text import fit
from numpy_gpt2.explain.visible import token_text, visible

from .browser import data_of
from .conftest import ROOT, write_model

README = (ROOT / "numpy_gpt2" / "explain" / "README.md").read_text(encoding="utf-8")
NUMBER = r"[-+]?\d+\.\d+"


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
def test_visible_shows_every_character(token, expected):
    assert visible(token) == expected


@given(st.binary(min_size=1, max_size=12))
def test_visible_text_is_printable_for_any_bytes(token):
    text = visible(token)
    assert text.isprintable()
    assert " " not in text


def test_report_has_the_backward_pass(example, bundled):
    assert "THE BACKWARD PASS" not in example.text()
    e = explain("To be, or", bundled, gradients=True)
    lines = e.text().partition("THE BACKWARD PASS")[2].splitlines()
    rows = [line.split() for line in lines if re.match(r" +\d", line)]
    assert [row[:2] for row in rows] == [[str(t), token_text(token, bundled)] for t, token in enumerate(e.tokens)]
    np.testing.assert_allclose(np.array([row[2:] for row in rows], float).T, e["gradient.embeddings"][-1], atol=6e-4)
    rows = [line.split()[1:] for line in lines if line.startswith("h.")]
    estimates = -np.column_stack([e["gradient.heads"][-1], e["gradient.mlps"][-1]])
    np.testing.assert_allclose(np.array(rows, float), estimates, atol=6e-4)


def test_unused_ids_of_a_padded_vocabulary_are_marked(tmp_path):
    padded = load(write_model(tmp_path / "padded", vocab_size=300))
    e = explain("the you", padded)
    unused = e["lens.tokens"][e["lens.tokens"] >= padded.tokenizer.n_vocab].tolist()
    assert unused
    pieces = data_of(e.page())["pieces"]
    for token in unused:
        assert token_text(token, padded) == pieces[str(token)] == f"⟨unused {token}⟩"
    assert "⟨unused" in e.text()


# ---- the report


def test_report_shows_the_numbers(example):
    text = example.text(width=100)
    assert "shakespeare: 6 blocks of 4 heads, 256 channels, a vocabulary of 1,024 tokens, 5,066,752 parameters" in text
    for position in range(1, len(example.tokens)):
        piece = token_text(example.tokens[position], example.model)
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
        piece = re.escape(token_text(token, example.model))
        assert re.search(rf"^ +{token}  {piece} +{share:.2%}", text, re.M)
    assert f"{example['lens.target'][-1]:.2%}    ← the target, its first token" in text
    assert f"ln p(·question) = {example['target.log_probability']:.3f} nats" in text
    assert "ln p(·question)" in text
    for layer in range(6):
        numbers = [*example["ablation.heads"][layer], example["ablation.mlps"][layer]]
        assert re.search(rf"^h\.{layer} +" + " +".join(re.escape(f"{x:+.3f}") for x in numbers) + "$", text, re.M)


@pytest.mark.parametrize("width", [20, 40, 80, 100, 200])
def test_lens_of_the_report_fits_the_terminal(width, example):
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
def test_fit_pads_and_cuts_to_terminal_columns(text, expected):
    assert fit(text, 8) == expected


def test_report_lists_the_merges_of_each_piece_once(bundled):
    e = explain("a kingdom, my kingdom 1", bundled)
    assert merges_of(e.text()) == [
        "each piece starts as single bytes; these pairs were merged, one after another",
        "·kingdom        i + n, in + g, o + m, · + k, ·k + ing → ·king d om",
        "·my             · + m, ·m + y → ·my",
    ]
    narrow = merges_of(e.text(40))
    assert narrow[1:3] == ["·kingdom        i + n, in + g, o + m, ·", "                + k, ·k + ing → ·king d"]
    assert max(map(len, narrow[1:])) <= 40


def test_report_says_how_many_pieces_are_left_out(bundled):
    words = " the king and queen of all this land who have been with him shall know what may come from your hand"
    assert len(set(words.split())) == 21
    lines = merges_of(explain(words, bundled).text(200))
    assert len(lines) == 1 + 12 + 1
    assert lines[-1] == "… and 9 more pieces"


def merges_of(report: str) -> list[str]:
    """The lines of the part "Merges"."""
    return [line for line in report.partition("MERGES\n")[2].partition("\nFORWARD")[0].split("\n") if line]


# ---- the README


def test_readme_report_is_what_the_command_prints(bundled):
    """All words are equal. The last digits of the numbers depend on the processor."""
    command = re.search(r"^\$ python -m numpy_gpt2.explain (.*? --text .*?) 2> ", README, re.DOTALL | re.MULTILINE)[1]
    options = make_parser().parse_args(shlex.split(command.replace("\n> ", "\n")))
    e = explain(options.prompt, bundled, target=options.target, ablate=options.ablate)
    expected = README.partition("WHAT MATTERED\n")[2].partition("```")[0]
    actual = e.text().partition("WHAT MATTERED\n")[2]
    assert re.sub(NUMBER, "", actual).split() == re.sub(NUMBER, "", expected).split()
    numbers = [[float(x) for x in re.findall(NUMBER, text)] for text in (actual, expected)]
    np.testing.assert_allclose(*numbers, atol=0.011)


def test_readme_python_runs():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    names: dict = {}
    exec(code, names)
    e = names["explanation"]
    L, H, T = 6, 4, len(e.tokens)
    assert e["h.3.attn.pattern"].shape == (1, H, T, T)
    assert e["lens.tokens"].shape == (L + 1, T, 10)
    assert e["ablation.heads"].shape == (L, H)


def test_readme_interventions_give_these_numbers():
    code = re.search(r"```pycon\n(.*?)```", README, re.DOTALL)[1]
    names: dict = {"explain": explain, "array": np.array}
    for example in doctest.DocTestParser().get_examples(code):
        if not example.want:
            exec(example.source, names)
        else:
            np.testing.assert_allclose(eval(example.source, names), eval(example.want, names), atol=0.011)


def test_readme_links_lead_to_files():
    for target in re.findall(r'\]\(([^)#]+)\)|src="([^"]+)"', README):
        assert (ROOT / "numpy_gpt2" / "explain" / "".join(target)).exists()
    assert README.count("\n") < 150
