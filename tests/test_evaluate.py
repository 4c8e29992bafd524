"""Evaluation: losses and HellaSwag against transformers, and the command."""

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from numpy_gpt2 import GPT2Config, __version__, forward, load, load_tokenizer, save_model, windows
from numpy_gpt2 import evaluate as module
from numpy_gpt2.evaluate import ending_losses, evaluate, hellaswag, hellaswag_examples
from numpy_gpt2.threads import thread_pool

from . import conftest
from .conftest import run_in_process, write_tokenizer
from .reference.seeded import FOLDER, seeded_weights

REFERENCE = json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))
TEXT, TOKENS = REFERENCE["text"], REFERENCE["tokens"]
WINDOW = REFERENCE["config"]["n_positions"]
EOT = 264


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No hub, and only the models that a test makes."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(tmp_path / "weights"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the model of the saved reference."""
    folder = tmp_path_factory.mktemp("models") / "seeded"
    write_tokenizer(folder)
    config = GPT2Config(**REFERENCE["config"])
    weights = seeded_weights(config, REFERENCE["seed"], REFERENCE["scale"])
    save_model(folder, weights, config, load_tokenizer(folder))
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load(folder, np.float64)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


@pytest.fixture
def examples(tmp_path):
    return write_lines(tmp_path / "examples.jsonl", map(json.dumps, REFERENCE["examples"]))


def write_lines(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def cli(capsys):
    """The command inside this process. Returns status, out and err."""
    return partial(run_in_process, module.main, capsys)


def run_process(*arguments, **options):
    """Run the command in a process."""
    argv = [sys.executable, "-m", "numpy_gpt2.evaluate", *map(str, arguments)]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60, **options)


def figures(out):
    """Parse the output of --json: one object in one line, without NaN or Infinity."""
    assert re.fullmatch(r"[^\n]+\n", out)
    return json.loads(out, parse_constant=pytest.fail)


assert_one_error = partial(conftest.assert_one_error, before=r".*%\|.*")


# The loss of a text


@pytest.mark.parametrize("stride", [None, 64, 32, 7, 1])
def test_loss_equals_transformers(model, stride):
    loss, n = evaluate(np.array(TOKENS), model.weights, model.config, stride)
    assert loss == pytest.approx(REFERENCE["losses"][str(stride or WINDOW)], rel=1e-9)
    assert n == len(TOKENS) - 1


@pytest.mark.parametrize("n", REFERENCE["losses_of_beginnings"])
def test_loss_of_short_texts_equals_transformers(model, n):
    loss, n_predicted = evaluate(np.array(TOKENS[: int(n)]), model.weights, model.config, stride=7)
    assert loss == pytest.approx(REFERENCE["losses_of_beginnings"][n], rel=1e-9)
    assert n_predicted == int(n) - 1


@pytest.mark.parametrize("part", [1, WINDOW, 3 * WINDOW - 1, 10**6])
def test_loss_does_not_depend_on_the_size_of_a_forward_pass(model, monkeypatch, part):
    monkeypatch.setattr(windows, "TOKENS_PER_FORWARD", part)
    loss, _ = evaluate(np.array(TOKENS), model.weights, model.config, stride=7)
    assert loss == pytest.approx(REFERENCE["losses"]["7"], rel=1e-9)


def test_windows_are_made_a_few_at_a_time(monkeypatch):
    config = GPT2Config(vocab_size=4, n_positions=64, n_embd=2, n_layer=1, n_head=1)
    tokens = np.zeros(20_000, np.int64)
    weights = {"wte.weight": np.zeros((4, 2), np.float32)}
    monkeypatch.setattr(windows, "hidden_states", lambda inputs, *_: np.zeros((*inputs.shape, 2), np.float32))
    evaluate(tokens[:9], weights, config)  # imports what it needs before memory is traced
    tracemalloc.start()
    try:
        loss, n = evaluate(tokens, weights, config, stride=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (loss, n) == (pytest.approx(math.log(4)), 19_999)
    assert peak < 20_000 * 64 * 8  # the size of all inputs


# Threads


def n_threads():
    return max((library["num_threads"] for library in threadpool_info()), default=1)


def test_pool_uses_all_threads_and_each_matrix_product_one():
    with threadpool_limits(2):
        n = n_threads()
        with thread_pool() as pool:
            assert n_threads() == 1
            barrier = threading.Barrier(n)  # breaks unless all threads reach it
            assert sorted(pool.map(lambda _: barrier.wait(10), range(n))) == [*range(n)]
        assert n_threads() == n


def test_threads_evaluate_windows_at_the_same_time(monkeypatch):
    with threadpool_limits(2):
        barrier = threading.Barrier(n_threads())

        def hidden_with_others(inputs, *_):
            barrier.wait(10)
            return np.zeros((*inputs.shape, 2))

        monkeypatch.setattr(windows, "hidden_states", hidden_with_others)
        monkeypatch.setattr(windows, "TOKENS_PER_FORWARD", 1)
        config = GPT2Config(vocab_size=4, n_positions=8, n_embd=2, n_layer=1, n_head=1)
        weights = {"wte.weight": np.zeros((4, 2))}
        loss, _ = evaluate(np.zeros(8 * 3 * n_threads() + 1, np.int64), weights, config)
    assert loss == pytest.approx(math.log(4))


def test_overflow_in_a_thread_gives_no_warning():
    with thread_pool() as pool:
        assert pool.submit(lambda: np.float32(1e38) * np.float32(1e38)).result() == math.inf


def test_loss_does_not_depend_on_the_number_of_threads(folder, text):
    losses = []
    for n in "12":
        env = {**os.environ, "OPENBLAS_NUM_THREADS": n, "OMP_NUM_THREADS": n, "MKL_NUM_THREADS": n}
        result = run_process(text, "-m", folder, "--stride", 7, "--json", env=env, stdout=subprocess.PIPE)
        losses.append(figures(result.stdout.decode())["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(REFERENCE["losses"]["7"], rel=1e-5)


# HellaSwag


def test_losses_of_endings_equal_transformers(model):
    for example, sums in zip(REFERENCE["examples"], REFERENCE["sums"], strict=True):
        losses, _ = ending_losses(example["ctx"], example["endings"], model)
        np.testing.assert_allclose(losses, sums, rtol=1e-9, err_msg=example["ctx"])


def test_some_examples_are_longer_than_the_window(model):
    """The test above needs examples of both kinds."""
    lengths = [len(model.tokenizer.encode_ordinary(example["ctx"])) for example in REFERENCE["examples"]]
    assert min(lengths) < WINDOW / 2
    assert max(lengths) > WINDOW


def test_accuracy_on_hellaswag_equals_transformers(model, examples, cli, folder):
    expected = {"acc": REFERENCE["acc"], "acc_norm": REFERENCE["acc_norm"], "examples": 12}
    assert len({*expected.values()}) == 3
    assert hellaswag(hellaswag_examples(examples), model) == pytest.approx(expected)
    result = cli("--hellaswag", examples, "-m", folder, "--json")
    assert result.status == 0
    assert figures(result.out) == pytest.approx(expected)
    result = cli("--hellaswag", examples, "-m", folder)
    assert [line.split() for line in result.out.splitlines()] == [
        ["acc", "0.25"],
        ["acc", "norm", "0.416667"],
        ["examples", "12"],
    ]
    assert "12/12" in result.err
    assert "acc 0.2500, acc_norm 0.4167" in result.err


def test_accuracy_is_1_if_the_labels_are_the_choices_of_transformers(model, tmp_path):
    sums = np.array(REFERENCE["sums"])
    n_tokens = [
        [len(model.tokenizer.encode_ordinary(" " + ending)) for ending in example["endings"]]
        for example in REFERENCE["examples"]
    ]
    for name, choices in [("acc", sums.argmin(axis=1)), ("acc_norm", (sums / n_tokens).argmin(axis=1))]:
        lines = [{**line, "label": int(label)} for line, label in zip(REFERENCE["examples"], choices, strict=True)]
        path = write_lines(tmp_path / "examples.jsonl", map(json.dumps, lines))
        results = hellaswag(hellaswag_examples(path), model)
        assert results.pop(name) == 1
        assert results.pop("acc" if name == "acc_norm" else "acc_norm") < 0.8


GOOD = {"ctx": "You", "endings": ["a", "b"], "label": 1}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "7",
        "<html>",
        *(json.dumps({name: value for name, value in GOOD.items() if name != missing}) for missing in GOOD),
        *(json.dumps(GOOD | {"label": label}) for label in (2, -1, "x", None, [1])),
        *(json.dumps(GOOD | {"endings": endings}) for endings in (None, [], [1, 2], 2)),
        *(json.dumps(GOOD | {"ctx": context}) for context in (None, 5, ["a"])),
    ],
)
def test_damaged_line_is_an_error_with_its_number(cli, folder, tmp_path, line):
    path = write_lines(tmp_path / "examples.jsonl", [json.dumps(GOOD), json.dumps(GOOD), line, json.dumps(GOOD)])
    assert_one_error(cli("--hellaswag", path, "-m", folder), 1, f"{path}, line 3 ")


@pytest.mark.parametrize("content", ["", "\n", "\n\n", " \n"])
def test_file_without_examples_is_an_error(cli, folder, tmp_path, content):
    path = tmp_path / "examples.jsonl"
    path.write_text(content)
    assert_one_error(cli("--hellaswag", path, "-m", folder), 1, path)


# The command


@pytest.mark.parametrize("stride", [[], ["--stride", 32], ["--stride", 7], ["--stride", 1]])
def test_json_has_loss_perplexity_and_bits_per_byte(cli, folder, text, stride):
    result = cli(text, "-m", folder, "--json", *stride)
    assert result.status == 0
    found = figures(result.out)
    assert list(found) == ["loss", "perplexity", "bits_per_byte", "tokens", "bytes"]
    assert found["loss"] == pytest.approx(REFERENCE["losses"][str([WINDOW, *stride][-1])], rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["bits_per_byte"] == pytest.approx(found["loss"] * found["tokens"] / math.log(2) / found["bytes"])
    assert found["tokens"] == len(TOKENS) - 1
    assert found["bytes"] == text.stat().st_size > len(TEXT)


def test_results_go_to_stdout_and_the_rest_to_stderr(cli, folder, text):
    loss = REFERENCE["losses"]["64"]
    result = cli(text, "-m", folder)
    assert result.status == 0
    rows = dict(re.fullmatch(r"(.+?) +(\S+)", line).groups() for line in result.out.splitlines())
    assert list(rows) == ["loss", "perplexity", "bits per byte", "tokens", "bytes"]
    found = [float(value.replace(",", "")) for value in rows.values()]
    n, n_bytes = len(TOKENS) - 1, len(TEXT.encode())
    expected = [loss, math.exp(loss), loss * n / math.log(2) / n_bytes, n, n_bytes]
    np.testing.assert_allclose(found, expected, rtol=5e-5)
    assert "100%" in result.err
    assert f"{n}/{n}" in result.err
    assert float(re.search(r"loss ([\d.]+)", result.err)[1]) == pytest.approx(loss, abs=6e-5)
    assert re.search(r"^[\d,]+ tokens/s$", result.err, re.M)


def test_text_of_two_tokens_has_one_prediction(cli, folder, tmp_path):
    (tmp_path / "text.txt").write_text("ab")
    found = figures(cli(tmp_path / "text.txt", "-m", folder, "--json").out)
    assert (found["tokens"], found["bytes"]) == (1, 2)
    logits = forward([97], *load(folder)[:2])[0].astype(np.float64)
    assert found["loss"] == pytest.approx(np.log(np.exp(logits).sum()) - logits[98], rel=1e-5)


@pytest.mark.parametrize(
    ("content", "mentioned"),
    [
        (b"", "text.txt is empty"),
        (b"a", "1 token(s)"),
        ("é".encode(), "1 token(s)"),
        (b"<|endoftext|>", "1 token(s)"),
        (b"caf\xe9 noir", "text.txt is not UTF-8"),
        ("\ufefftext".encode("utf-16"), "text.txt is not UTF-8"),
        (None, "text.txt"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_unusable_texts_are_errors(cli, folder, tmp_path, content, mentioned, flags):
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    assert_one_error(cli(tmp_path / "text.txt", "-m", folder, *flags), 1, mentioned)


def test_a_dash_is_standard_input(cli, folder, text, monkeypatch):
    from_file = cli(text, "-m", folder, "--json").out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.read_bytes())))
    assert cli("-", "-m", folder, "--json").out == from_file
    assert_one_error(cli("-", "-m", folder), 1, "standard input is empty")  # it was read to its end


def test_folder_instead_of_a_text_is_an_error(cli, folder):
    assert_one_error(cli(folder, "-m", folder), 1, "directory", folder)


def test_missing_or_latin1_examples_are_errors(cli, folder, tmp_path):
    assert_one_error(cli("--hellaswag", tmp_path / "none.jsonl", "-m", folder), 1, "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(json.dumps(GOOD).encode() + b"\xe9")
    assert_one_error(cli("--hellaswag", tmp_path / "latin.jsonl", "-m", folder), 1, "latin.jsonl is not UTF-8")


@pytest.mark.parametrize(
    ("arguments", "status", "mentioned"),
    [
        (["TEXT", "--stride=0"], 2, "--stride: '0'"),
        (["TEXT", "--stride=-1"], 2, "--stride: '-1'"),
        (["TEXT", "--stride=x"], 2, "--stride: 'x'"),
        (["TEXT", "--stride=65"], 1, "the stride is 65; it must be from 1 to the window's 64 tokens"),
        ([], 2, "give either TEXT.txt or --hellaswag"),
        (["TEXT", "--hellaswag=EXAMPLES"], 2, "give either TEXT.txt or --hellaswag"),
        (["--hellaswag=EXAMPLES", "--stride=7"], 2, "--stride needs a TEXT.txt"),
        (["TEXT", "TEXT"], 2, "unrecognized arguments"),
        (["TEXT", "--json=1"], 2, "--json"),
        (["TEXT", "--hella=EXAMPLES"], 2, "--hella is not an option"),
    ],
)
def test_wrong_command_lines_are_errors(cli, folder, text, examples, arguments, status, mentioned):
    arguments = [a.replace("TEXT", str(text)).replace("EXAMPLES", str(examples)) for a in arguments]
    assert_one_error(cli(*arguments, "-m", folder), status, mentioned)


@pytest.mark.parametrize("stride", [0, 65, -1])
def test_impossible_strides_are_errors(model, stride):
    with pytest.raises(ValueError, match=rf"the stride is {stride}; it must be from 1 to the window's 64 tokens"):
        evaluate(np.array(TOKENS), model.weights, model.config, stride)


def test_help_shows_every_flag(cli):
    result = cli("--help")
    assert (result.status, result.err) == (0, "")
    for flag in (
        "TEXT.txt",
        "--model",
        "--int8",
        "--threads",
        "--version",
        "--stride",
        "--tokens",
        "--hellaswag",
        "--json",
    ):
        assert re.search(rf"^  .*{flag}\b", result.out, re.M), flag


def test_gpt2_is_the_default(cli, folder, text, tmp_path):
    shutil.copytree(folder, tmp_path / "weights" / "gpt2")
    result = cli(text, "--json")
    assert figures(result.out)["loss"] == pytest.approx(REFERENCE["losses"]["64"], rel=1e-5)
    assert "note:" not in result.err


def test_without_hub_the_bundled_model_replaces_the_default(cli, text, bundled):
    result = cli(text, "--json")
    tokens = windows.encode(TEXT, bundled.tokenizer)
    assert figures(result.out)["loss"] == pytest.approx(evaluate(tokens, bundled.weights, bundled.config)[0])
    notes = re.findall("^note: (.*)", result.err, re.M)
    assert len(notes) == 2
    assert "HF_HUB_OFFLINE is set" in notes[0]


@pytest.mark.parametrize("arguments", [["TEXT"], ["--hellaswag", "EXAMPLES"]])
def test_named_model_is_never_replaced(cli, text, examples, tmp_path, arguments):
    arguments = [{"TEXT": text, "EXAMPLES": examples}.get(a, a) for a in arguments]
    result = cli(*arguments, "-m", "gpt2")
    assert_one_error(result, 1, "cannot download gpt2: HF_HUB_OFFLINE is set", tmp_path / "weights" / "gpt2")


def test_threads_limits_the_matrix_products(cli, folder, text, monkeypatch):
    seen = []
    with threadpool_limits(2):
        monkeypatch.setattr(module, "thread_pool", lambda: (seen.append(n_threads()), thread_pool())[1])
        assert cli(text, "-m", folder, "--threads", 1).status == 0
    assert seen == [1]


def test_version_option_prints_the_version(cli):
    result = cli("--version")
    assert (result.status, result.out) == (0, f"numpy_gpt2 {__version__}\n")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["ln_f.bias", "wpe.weight"])
def test_loss_that_is_not_finite_is_an_error(cli, folder, text, tmp_path, name, value):
    weights, config, tokenizer = load(folder)
    damaged = weights[name].copy()
    damaged[-1] = value
    save_model(tmp_path / "model", {**weights, name: damaged}, config, tokenizer)
    assert_one_error(cli(text, "-m", tmp_path / "model", "--json"), 1, "the loss is nan", "damaged")


def test_ctrl_c_stops_the_evaluation(cli, folder, text, monkeypatch):
    done = []

    def slow_hidden(inputs, *_):
        time.sleep(0.05)
        done.append(len(inputs))
        if len(done) == 3:
            signal.raise_signal(signal.SIGINT)
        return np.zeros((*inputs.shape, 24), np.float32)

    monkeypatch.setattr(windows, "hidden_states", slow_hidden)
    monkeypatch.setattr(windows, "TOKENS_PER_FORWARD", 1)
    result = cli(text, "-m", folder, "--stride", 1)
    assert (result.status, result.out) == (130, "")
    assert "Traceback" not in result.err
    assert len(done) < 20


def test_full_disk_is_an_error(folder, text):
    with open("/dev/full", "wb") as full:
        result = run_process(text, "-m", folder, "--json", stdout=full)
    assert result.returncode == 1
    assert re.search(rb"\nerror: .*No space left.*standard output.*\n$", result.stderr)


def test_very_large_loss_is_valid_json(cli, folder, text, tmp_path):
    weights, config, tokenizer = load(folder)
    save_model(tmp_path / "model", {**weights, "ln_f.weight": weights["ln_f.weight"] * 1e5}, config, tokenizer)
    result = cli(text, "-m", tmp_path / "model", "--json")
    if result.status == 0:
        figures(result.out)  # fails at Infinity
    else:
        assert_one_error(result, 1)


def test_ending_losses_that_are_not_finite_are_an_error(cli, folder, examples, tmp_path):
    weights, config, tokenizer = load(folder)
    save_model(tmp_path / "model", {**weights, "ln_f.bias": weights["ln_f.bias"] * math.nan}, config, tokenizer)
    assert_one_error(cli("--hellaswag", examples, "-m", tmp_path / "model"), 1, "damaged")


@pytest.mark.parametrize("character", "\u2028\u2029\x85")
def test_only_line_feeds_separate_examples(model, tmp_path, character):
    line = json.dumps(GOOD | {"ctx": f"You{character}see"}, ensure_ascii=False)
    assert len(hellaswag_examples(write_lines(tmp_path / "examples.jsonl", [line]))) == 1


@pytest.mark.parametrize("line", ["[" * 200_000, '{"ctx": "a", "endings": ["b", "c"], "label": 1e999}'])
def test_line_that_json_cannot_parse_is_an_error_with_its_number(cli, folder, tmp_path, line):
    path = write_lines(tmp_path / "examples.jsonl", [json.dumps(GOOD), line])
    assert_one_error(cli("--hellaswag", path, "-m", folder), 1, f"{path}, line 2 ")


@pytest.mark.parametrize("example", [{"ctx": ""}, {"ctx": "", "endings": ["", ""]}])
def test_example_without_context_is_an_error_with_its_number(cli, folder, tmp_path, example):
    path = write_lines(tmp_path / "examples.jsonl", [json.dumps(GOOD | example)])
    assert_one_error(cli("--hellaswag", path, "-m", folder), 1, f"{path}, line 1 ")


@pytest.mark.parametrize("arguments", [[""], ["--hellaswag="]])
def test_empty_file_name_is_not_read_as_an_empty_text(cli, folder, arguments):
    result = cli(*arguments, "-m", folder)
    assert "0 token(s)" not in result.err


def test_missing_examples_are_an_error_before_the_model_is_loaded(cli, tmp_path):
    assert_one_error(cli("--hellaswag", tmp_path / "none.jsonl", "-m", "gpt2"), 1, "none.jsonl")


def test_only_the_tokens_in_the_window_count_for_a_long_ending(model):
    """The first 10 tokens do not fit and are not predicted, so the mean must not count them."""
    _, counts = ending_losses("You", ["b" * (WINDOW + 10), "b"], model)
    assert counts.tolist() == [WINDOW, 2]


def test_standard_error_may_be_closed(folder, text):
    argv = [sys.executable, "-m", "numpy_gpt2.evaluate", text, "-m", folder, "--json"]
    result = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *argv], stdout=subprocess.PIPE)
    assert result.returncode == 0
    assert figures(result.stdout.decode())["tokens"] == len(TOKENS) - 1


def test_ctrl_c_while_windows_are_queued_stops_the_evaluation(cli, folder, text, monkeypatch):
    """Ctrl-C comes before all windows are in the queue of the pool."""
    done, queued = [], []

    def slow_hidden(inputs, *_):
        time.sleep(0.05)
        done.append(1)
        return np.zeros((*inputs.shape, 24), np.float32)

    def submit(pool, *arguments, submit=ThreadPoolExecutor.submit):
        queued.append(1)
        if len(queued) == 100:
            raise KeyboardInterrupt
        return submit(pool, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    monkeypatch.setattr(windows, "hidden_states", slow_hidden)
    monkeypatch.setattr(windows, "TOKENS_PER_FORWARD", 1)
    assert cli(text, "-m", folder, "--stride", 1).status == 130
    assert len(done) < 20
