"""bench/: what it measures, what it writes, and the commands of its README."""

import ast
import graphlib
import json
import math
import os
import re
import shlex
import sys
from contextlib import ExitStack

import numpy as np
import pytest

from bench import data, generation, processes, sizes, training
from bench.__main__ import parser
from bench.limits import Limits, prefill_operations, weights_per_token
from bench.measure import DECODE, MEMORY, POSITION, PREFILL, START, Metric, Results, take_turns
from bench.naive import next_token
from bench.report import CAPTION, HEADER, page, table_lines
from numpy_gpt2 import GPT2Config
from numpy_gpt2.__main__ import main

from .conftest import ROOT, run_in_process, write_model
from .reference.seeded import FOLDER, seeded_tokens, seeded_weights, variation

BENCH = ROOT / "bench"
README = (BENCH / "README.md").read_text(encoding="utf-8")
RESULTS = (BENCH / "RESULTS.md").read_text(encoding="utf-8")
SIZES = (BENCH / "SIZES.md").read_text(encoding="utf-8")


def test_imports_have_no_cycle():
    imports: dict[str, set[str]] = {}
    for path in BENCH.glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        imports[path.stem] = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1}
    assert list(graphlib.TopologicalSorter(imports).static_order())[-1] == "__main__"


# The numbers that are compared against, and the limits


def test_naive_numpy_equals_transformers():
    config = variation("plain")
    weights = {name: array.astype(np.float64) for name, array in seeded_weights(config, 0, scale=0.4).items()}
    expected = np.load(FOLDER / "tiny.npz")["plain/greedy"]
    for prompt, continuation in zip(seeded_tokens(config, 0, (2, 9))[:, :5].tolist(), expected, strict=True):
        text = list(prompt)
        for _ in continuation:
            text.append(next_token(text, weights, config))
        assert text[5:] == continuation.tolist()


def test_counts_of_weights_and_operations_equal_those_by_hand():
    gpt2 = GPT2Config.preset("gpt2")
    assert weights_per_token(gpt2) == 124_439_808 - 1024 * 768
    assert weights_per_token(GPT2Config(tie_word_embeddings=False)) == weights_per_token(gpt2)
    tiny = GPT2Config(vocab_size=3, n_positions=8, n_embd=2, n_layer=1, n_head=1)
    matrices = 2 * 6 + 2 * 2 + 2 * 8 + 8 * 2
    pairs = 1 + 2 + 3
    assert prefill_operations(3, tiny) == 2 * matrices * 3 + 4 * 2 * pairs + 2 * 2 * 3


def test_measured_limits_are_plausible(monkeypatch):
    monkeypatch.setattr("bench.limits.BYTES", 1 << 24)
    limits = Limits()
    assert 1e8 < limits.bandwidth() < 1e13
    assert 1e8 < limits.products() < 1e14


# Runs and the table


def test_implementations_take_turns_and_the_warm_up_is_not_counted():
    metric, calls = Metric("time", "s"), []

    def turn(name):
        calls.append(name)
        return {(metric, name): float(len(calls))}

    results = take_turns(2, [lambda: turn("a"), lambda: turn("b")])
    assert calls == ["a", "b"] * 3
    assert results == {metric: {"a": [3.0, 5.0], "b": [4.0, 6.0]}}


def test_ratio_is_computed_within_each_run_and_above_one_is_better():
    speed = Metric(DECODE, "tokens/s", 1)
    results: Results = {
        speed: {"numpy_gpt2": [10.0, 40.0, 100.0], "transformers": [5.0, 10.0, 200.0]},
        START: {"numpy_gpt2": [1.0, 1.0, 2.0], "transformers": [4.0, 3.0, 2.0]},
        MEMORY: {"numpy_gpt2": [1234.0]},
    }
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table_lines(results)]
    assert rows == [
        ["decode, batch 1, tokens/s", "numpy_gpt2", "40.0", "transformers", "10.0", "2.00 ×", "0.50 … 4.00"],
        ["shell to first token, s", "numpy_gpt2", "1.00", "transformers", "3.00", "3.00 ×", "1.00 … 4.00"],
        ["peak memory of this process, MB", "numpy_gpt2", "1,234", "", "", "", ""],
    ]


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="peak memory is measured with os.wait4")
def test_whole_measurement_works_without_peers(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMPY_GPT2_DATA", raising=False)
    monkeypatch.setattr(processes, "PAUSE", 0)
    monkeypatch.setattr(generation, "IMPLEMENTATIONS", ["numpy_gpt2", "numpy_gpt2 int8", "naive NumPy", "limits"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notes: list[str] = []
    with ExitStack() as stack:
        measured = generation.Generation(write_model(tmp_path / "tiny"), tmp_path, 1, False, stack, notes)
        results = {metric: values for group in measured.groups() for metric, values in group.items()}
    assert {str(metric) for metric in results} >= {
        "shell to first token, s",
        "peak memory of this process, MB",
        *(f"decode, batch {n}, tokens/s" for n in (1, 4, 16)),
        "prefill of 63 tokens, s",
        "decode, repetitive text, tokens/s",
        "decode, other text, tokens/s",
        "decode at position 16, tokens/s",
        "decode, batch 1, one busy program beside it, tokens/s",
        "prefill of 63 tokens, one busy program beside it, s",
    }
    # Speeds come from differences of times. For so small a model, a busy machine may make one of them negative.
    assert all(math.isfinite(value) for values in results.values() for runs in values.values() for value in runs)
    text = page("python -m bench", 1, results, {"llama.cpp": "No module named 'gguf'"}, notes, {"decode.svg": "Speed"})
    assert HEADER in text
    assert "![Speed](decode.svg)" in text
    assert re.search(
        r"^\|  +\|  +\|  +\| llama.cpp +\|   absent \|  +\| No module named 'gguf' \|$", text, re.MULTILINE
    )
    assert "- All float32 implementations generate the same 16 greedy tokens." in text
    assert "- The loss with int8 weights is not measured. It needs data/tinyshakespeare.txt" in text


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="peak memory is measured with os.wait4")
def test_sizes_are_measured_without_peers(monkeypatch):
    monkeypatch.setattr(data.gpt2.GPT2Config, "preset", lambda name: GPT2Config(n_layer=1, n_embd=8, n_head=1))
    monkeypatch.setattr(processes, "PAUSE", 0)
    monkeypatch.setattr(processes, "find_spec", lambda name: None)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notes: list[str] = []
    results = next(sizes.sizes(1, True, notes))
    assert {str(metric) for metric in results} == {
        "shell to first token, gpt2, s",
        "load gpt2, s",
        "decode, batch 1, gpt2, tokens/s",
        "prefill of 128 tokens, gpt2, s",
        "peak memory, gpt2, MB",
    }
    assert all({*values} >= {"numpy_gpt2", "numpy_gpt2 int8"} for values in results.values())
    assert notes == ["transformers is absent: it needs PyTorch."]


def test_training_step_is_timed(monkeypatch):
    monkeypatch.setattr(training, "SECONDS", 0)
    assert 0 < training.ours(1, 1, 8, 9, 8, 2, 0.1) < 10


def test_pictures_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="the pictures of bench need matplotlib")
    from bench.pictures import draw, draw_sizes

    values = {"numpy_gpt2": [1.0, 2.0], "transformers": [0.5, 0.6]}
    results: Results = {
        START: values,
        MEMORY: values | {"limit: the weights": [0.4, 0.4]},
        **{Metric(DECODE, "tokens/s", n): values | {"limit: bandwidth": [3.0, 3.1]} for n in (1, 16)},
        **{Metric(PREFILL, "s", n): values for n in (128, 512)},
        **{Metric(POSITION, "tokens/s", n): values for n in (16, 900)},
    }
    titles = draw(results, tmp_path)
    sized: Results = {
        Metric(metric.format("gpt2"), unit): values
        for metric, unit in ((sizes.STARTED, "s"), (sizes.TOKEN, "tokens/s"))
    }
    of_sizes = draw_sizes(sized, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*titles, *of_sizes}
    for name, title in titles.items():
        assert f"![{title}]({name})" in RESULTS
        assert f"![{title}]({name})" in README


# Data outside the repository


def test_data_path_is_none_without_the_variable_or_the_file(tmp_path, monkeypatch):
    (tmp_path / "here").touch()
    monkeypatch.setenv("NUMPY_GPT2_DATA", str(tmp_path))
    assert data.data_path("here") == tmp_path / "here"
    assert data.data_path("absent") is None
    monkeypatch.delenv("NUMPY_GPT2_DATA")
    assert data.data_path("here") is None


def test_checkpoint_without_gpt2s_tokenizer_is_noted(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(tmp_path))
    monkeypatch.delenv("NUMPY_GPT2_DATA", raising=False)
    monkeypatch.setattr(data.gpt2.GPT2Config, "preset", lambda name: GPT2Config(n_layer=1, n_embd=8, n_head=1))
    notes: list[str] = []
    data.make_checkpoint(tmp_path / "random", notes)
    assert any("NUMPY_GPT2_DATA" in note for note in notes)
    weights, config, tokenizer = data.gpt2.load(tmp_path / "random")
    assert tokenizer.n_vocab == config.vocab_size == len(weights["wte.weight"])
    assert tokenizer.decode(tokenizer.encode_ordinary("The dog – 狗")) == "The dog – 狗"
    vocabulary = json.loads((tmp_path / "random" / "vocab.json").read_text(encoding="utf-8"))
    assert sorted(vocabulary.values()) == [*range(config.vocab_size)]


# The pages


def test_committed_results_have_the_captions_of_the_code():
    for page_text in (RESULTS, SIZES):
        assert CAPTION.format(runs=3) in page_text
        assert HEADER in page_text
    titles = {line.split("|")[1].strip() for line in RESULTS.splitlines() if line.startswith("| ")} - {""}
    for metric in (START, MEMORY, Metric(DECODE, "tokens/s", 16), Metric(PREFILL, "s", 1000)):
        assert str(metric) in titles


def test_numbers_in_the_readme_are_measured():
    known = set(re.findall(r"\d[\d,.]*\d|\d", RESULTS + SIZES))
    rows = [
        line for line in README.splitlines() if re.match(r"\| .*(MB|tokens/s| s)( |\b)", line) and "python" not in line
    ]
    assert len(rows) == 18
    for row in rows:
        for value in re.findall(r"([\d.,]+) (?:s|MB|tokens/s|×)", row):
            assert value in known, row


@pytest.mark.parametrize("line", re.findall(r"^python -m bench(?: .*?)?(?=  #)", README, re.MULTILINE))
def test_bench_commands_of_the_readme_are_valid(line):
    parser().parse_args(shlex.split(line)[3:])


@pytest.mark.parametrize("line", re.findall(r"`python -m numpy_gpt2 (.*?)`", README))
def test_commands_of_the_readme_work(line, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(tmp_path))
    (tmp_path / "gpt2").symlink_to(tiny)
    line, _, file = line.partition(" < ")
    with open(ROOT / file if file else os.devnull, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        result = run_in_process(main, capsys, *shlex.split(line), "--ignore-eos")  # else there may be no token
    assert result.status == 0
    assert "first token after" in result.err


def test_training_worker_of_the_readme_takes_these_numbers():
    (line,) = re.findall(r"`python -m bench\.training (.*?)`", README)
    name, *numbers = line.split()
    assert name == "numpy_gpt2"
    assert len([float(n) for n in numbers]) == len(training.ours.__annotations__) - 1
