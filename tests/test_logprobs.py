"""Log-probabilities and ranks against transformers, and `evaluate --tokens`."""

import io
import itertools
import json
import subprocess
import sys
import threading
import tracemalloc
from functools import partial

import numpy as np
import pytest

from numpy_gpt2 import GPT2Config, evaluate, load, load_tokenizer, save_model, token_log_probabilities, windows
from numpy_gpt2.logprobs import largest, log_softmax, prompt_logprobs, token_logprobs
from numpy_gpt2.tokenizer import byte_tokenizer

from . import conftest
from .conftest import run_in_process, write_tokenizer
from .reference.seeded import FOLDER, seeded_weights

REFERENCE = json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))
TEXT, TOKENS = REFERENCE["text"], REFERENCE["tokens"]
WINDOW = REFERENCE["config"]["n_positions"]
SMILE = "\N{GRINNING FACE}"
FIELDS = ["id", "text", "start", "end", "logprob", "rank"]

assert_one_error = partial(conftest.assert_one_error, before=r".*%\|.*")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the model of the saved reference."""
    folder = tmp_path_factory.mktemp("models") / "seeded"
    write_tokenizer(folder)
    config = GPT2Config(**REFERENCE["config"])
    save_model(folder, seeded_weights(config, REFERENCE["seed"], REFERENCE["scale"]), config, load_tokenizer(folder))
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load(folder, np.float64)


@pytest.fixture
def cli(capsys):
    """The command inside this process. Returns status, out and err."""
    return partial(run_in_process, evaluate.main, capsys)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


def json_lines(out):
    """The objects that --tokens has printed, one per line, without NaN or Infinity."""
    assert out.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in out[:-1].split("\n")]


# Functions


def test_log_probabilities_equal_transformers(model):
    """The text fills 14 windows."""
    logprobs = token_log_probabilities(TOKENS, model.weights, model.config)
    np.testing.assert_allclose(logprobs, REFERENCE["logprobs"], rtol=0, atol=1e-8)
    assert -logprobs.mean() == pytest.approx(REFERENCE["losses"][str(WINDOW)], rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, "int8"])
@pytest.mark.parametrize("n", [1, 2, WINDOW, WINDOW + 1, WINDOW + 2])
def test_short_texts_have_one_log_probability_less_than_tokens(folder, dtype, n):
    """In the dtype of the weights. Int8 weights are less exact."""
    weights, config, _ = load(folder, dtype)
    logprobs = token_log_probabilities(np.array(TOKENS[:n], np.uint16), weights, config)
    assert logprobs.dtype == (np.float32 if dtype == "int8" else dtype)
    tolerance = {"int8": 0.2, np.float32: 1e-5}.get(dtype, 1e-8)
    np.testing.assert_allclose(logprobs, REFERENCE["logprobs"][: n - 1], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], r"the text is float64 \(0,\); it must be token ids, \(T,\) with T ≥ 1"),
        (np.empty(0, np.int32), r"the text is int32 \(0,\)"),
        ([1.0, 2.0], r"the text is float64 \(2,\)"),
        ([[1, 2]], r"the text is int64 \(1, 2\)"),
        (7, r"the text is int64 \(\)"),
        ([1, -1, 2], "token id -1 does not exist; ids must be from 0 to 264"),
        ([1, 265], "token id 265 does not exist; ids must be from 0 to 264"),
        (np.array([1, 2**64 - 1], np.uint64), "token id 18446744073709551615 does not exist"),
    ],
)
def test_impossible_tokens_are_errors(model, tokens, message):
    with pytest.raises(ValueError, match=message):
        token_log_probabilities(tokens, model.weights, model.config)


def test_ranks_and_most_probable_tokens_equal_transformers(model):
    first, *objects = prompt_logprobs(np.array(TOKENS), model, 3)
    assert first == {"id": TOKENS[0], "text": "T", "logprob": None, "rank": None, "top": []}
    assert [token["id"] for token in objects] == TOKENS[1:]
    assert [token["rank"] for token in objects] == REFERENCE["ranks"]
    np.testing.assert_allclose([token["logprob"] for token in objects], REFERENCE["logprobs"], rtol=0, atol=1e-8)
    top = np.array([token["top"] for token in objects[: len(REFERENCE["top"])]])
    assert top[..., 0].tolist() == REFERENCE["top"]
    np.testing.assert_allclose(top[..., 1], REFERENCE["top_logprobs"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("n", [0, 1, 5, 256, 257, 1000])
def test_rank_and_top_are_those_of_a_sort_of_all_logits(n):
    """Many logits are equal: of these, the lower id comes first in `top`, and all have the same rank."""
    rng = np.random.default_rng(n)
    logits = rng.integers(-9, 9, (50, 257)).astype(np.float32)
    tokens = rng.integers(0, 257, 50)
    for token, x in zip(token_logprobs(logits, tokens, byte_tokenizer(), n), logits.tolist(), strict=True):
        order = sorted(range(257), key=lambda i: (-x[i], i))
        assert [id for id, _ in token["top"]] == order[:n]
        assert token["rank"] == 1 + [x[i] for i in order].index(x[token["id"]])


def test_the_greedy_token_has_rank_1_and_is_the_first_of_the_top():
    logits = np.array([0, 3, 3, 1], np.float32)
    assert largest(logits, 1) == logits.argmax()
    [token] = token_logprobs(logits[None], logits.argmax()[None], byte_tokenizer(), 1)
    assert token["rank"] == 1


def test_log_probabilities_are_stable_for_large_logits():
    x = np.array([3e38, -3e38, 3e38, 0.0])
    np.testing.assert_allclose(log_softmax(x), [-np.log(2), -6e38, -np.log(2), -3e38])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_an_error(value):
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="it must be finite"):
        log_softmax(np.array([[1.0, 2.0], [value, 1.0]]))


def test_logits_of_a_window_are_computed_a_part_at_a_time():
    config = GPT2Config(vocab_size=20_000, n_positions=1024, n_embd=2, n_layer=1, n_head=1)
    weights = {name: np.zeros(shape, np.float32) for name, shape in config.parameter_shapes().items()}
    tokens = np.zeros(1025, np.int64)
    token_log_probabilities(tokens[:9], weights, config)  # imports what it needs before memory is traced
    tracemalloc.start()
    try:
        token_log_probabilities(tokens, weights, config)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1024 * 20_000 * 4 / 2  # half of all logits


# evaluate --tokens


def test_tokens_prints_a_line_for_each_token(cli, folder, text):
    result = cli(text, "-m", folder, "--tokens")
    assert result.status == 0
    lines, data = json_lines(result.out), TEXT.encode()
    assert [line["id"] for line in lines] == TOKENS
    assert all(list(line) == FIELDS for line in lines)
    assert lines[0]["logprob"] is lines[0]["rank"] is None
    np.testing.assert_allclose([line["logprob"] for line in lines[1:]], REFERENCE["logprobs"], rtol=0, atol=1e-4)
    ranks = np.array([line["rank"] for line in lines[1:]])
    assert np.mean(ranks == REFERENCE["ranks"]) > 0.99  # float32: two logits may change places
    pieces = [data[line["start"] : line["end"]] for line in lines]
    assert b"".join(pieces) == data
    assert [line["text"] for line in lines] == [piece.decode("utf-8", "replace") for piece in pieces]
    assert any("\ufffd" in line["text"] for line in lines)
    assert "%|" in result.err


@pytest.mark.parametrize("stride", [7, 1])
def test_tokens_sum_to_the_loss(cli, folder, text, stride):
    lines = json_lines(cli(text, "-m", folder, "--tokens", "--stride", stride).out)
    loss = -sum(line["logprob"] for line in lines[1:]) / (len(lines) - 1)
    assert loss == pytest.approx(REFERENCE["losses"][str(stride)], rel=1e-5)


@pytest.mark.parametrize(
    "content", ["\ufeffab\r\ncafé\r", f"{SMILE}<|endoftext|>{SMILE}<|endoftext|>", "\u2028\x85\x00\ufffd", "é"]
)
def test_start_and_end_are_bytes_of_the_file(cli, folder, tmp_path, monkeypatch, content):
    (tmp_path / "text.txt").write_bytes(content.encode())
    result = cli(tmp_path / "text.txt", "-m", folder, "--tokens")
    lines = json_lines(result.out)
    assert lines[0]["start"] == 0
    assert all(a["end"] == b["start"] < b["end"] for a, b in itertools.pairwise(lines))
    assert lines[-1]["end"] == len(content.encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert cli("-", "-m", folder, "--tokens").out == result.out


def test_lines_are_printed_while_later_windows_are_computed(cli, folder, text, monkeypatch):
    printed, waited, hidden_states, write = threading.Event(), [], windows.hidden_states, evaluate.write

    def wait_for_lines(inputs, *arguments):
        if inputs[0, 0] != TOKENS[0]:  # not the first window
            waited.append(printed.wait(10))
        return hidden_states(inputs, *arguments)

    def note(text):
        if len(json_lines(text)) > 1:
            printed.set()
        write(text)

    monkeypatch.setattr(windows, "TOKENS_PER_FORWARD", 1)
    monkeypatch.setattr(windows, "hidden_states", wait_for_lines)
    monkeypatch.setattr(evaluate, "write", note)
    assert cli(text, "-m", folder, "--tokens").status == 0
    assert len(waited) > 9
    assert all(waited)


def test_a_closed_pipe_is_silent(folder, text):
    text.write_bytes(TEXT.encode() * 100)
    argv = [sys.executable, "-m", "numpy_gpt2.evaluate", text, "-m", folder, "--tokens"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b'{"id": ')
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert process.returncode == 0
    assert all("%|" in line for line in errors.replace("\r", "\n").split("\n") if line)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["TEXT", "--tokens", "--json"], 2, "--tokens prints JSON objects for the tokens and --json prints one"),
        (["--hellaswag", "TEXT", "--tokens"], 2, "--tokens needs a TEXT.txt"),
        (["TEXT", "--tokens", "--stride=65"], 1, "the stride is 65; it must be from 1 to the window's 64 tokens"),
    ],
)
def test_wrong_command_lines_are_errors(cli, folder, text, arguments, status, message):
    arguments = [str(text) if argument == "TEXT" else argument for argument in arguments]
    assert_one_error(cli(*arguments, "-m", folder), status, message)


def test_damaged_weights_are_an_error(cli, folder, text, tmp_path):
    weights, config, tokenizer = load(folder)
    damaged = {**weights, "ln_f.bias": weights["ln_f.bias"] * np.nan}
    save_model(tmp_path / "model", damaged, config, tokenizer)
    result = cli(text, "-m", tmp_path / "model", "--tokens")
    assert (result.status, len(json_lines(result.out))) == (1, 1)  # the first token's line
    assert result.err.endswith("it must be finite. The model's weights are damaged\n")
