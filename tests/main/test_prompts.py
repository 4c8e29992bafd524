"""--prompts: one result for each line, in order, whatever the batches are."""

import json
import os
import re
import signal
import subprocess

import numpy as np
import pytest

from numpy_gpt2 import load, load_tokenizer, prompts, save_model
from numpy_gpt2.samples import continue_prompts

from ..conftest import assert_one_error, write_model, write_model_without_endoftext
from .conftest import EOT, ctrl_c_after, generated, json_samples, start_process, write_scripted_model

WORDS = ["the", "you a", "x", "", "naïve", "the the", "a", "thou", "\tb", "abc", "y", "the you"]  # of 1 to 6 tokens


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A batch waits for all lines of an input that ends soon, even on a busy machine."""
    monkeypatch.setattr(prompts, "PATIENCE", 60)


@pytest.fixture
def batches(monkeypatch):
    """The shape of each batch, (samples, tokens)."""
    shapes = []

    def recording(ids, *arguments):
        shapes.append(ids.shape)
        return continue_prompts(ids, *arguments)

    monkeypatch.setattr(prompts, "continue_prompts", recording)
    return shapes


def lines(texts):
    return "".join(f"{text}\n" for text in texts).encode()


def without_timings(out):
    return [{key: value for key, value in result.items() if key != "timings"} for result in json_samples(out)]


def test_each_line_is_a_prompt(cli, tiny, tmp_path):
    data = b'the\n"a\\nb \\u00e9\\ud800"\n\n you \r\n"" \nlast'
    texts = ["the", "a\nb é\ufffd", "", " you ", "", "last"]
    (tmp_path / "prompts.txt").write_bytes(data)
    for source, stdin in [(tmp_path / "prompts.txt", b""), ("-", data)]:
        result = cli("-m", tiny, "-n", 5, "--greedy", "--prompts", source, stdin=stdin)
        assert (result.status, result.err) == (0, "")
        samples = json_samples(result.out)
        assert [sample["prompt"] for sample in samples] == texts
        encode = load_tokenizer(tiny).encode_ordinary
        expected = [generated(tiny, encode(text) or [EOT], 5)[0] for text in texts]
        assert [sample["tokens"] for sample in samples] == expected


@pytest.mark.parametrize(("data", "n"), [(b"", 0), (b"\n", 1), (b"a\n", 1), (b"a", 1), (b"a\n\n", 2)])
def test_the_last_line_end_does_not_begin_a_prompt(cli, tiny, data, n):
    result = cli("-m", tiny, "-n", 1, "--ignore-eos", "--prompts", "-", stdin=data)
    assert (result.status, result.out.count("\n")) == (0, n)


@pytest.mark.parametrize(
    "flags",
    [
        ["--greedy"],
        ["-t", 2],
        ["-t", 1.5, "-p", 0.9, "--num-samples", 3],
        ["-t", 2, "--num-samples", 2, "--stop", "e", "--stop", "i", "-n", 40],
        ["-t", 2, "--ignore-eos", "-n", 100],  # past the window
    ],
    ids=str,
)
def test_each_result_is_that_of_a_command_with_this_prompt_and_seed(cli, tiny, batches, flags):
    arguments = ["-m", tiny, *flags]
    out = cli(*arguments, "--seed", 7, "--prompts", "-", stdin=lines(WORDS)).out
    assert len(batches) < len(WORDS)
    expected = [cli(*arguments, "--seed", 7 + i, "--json", text).out for i, text in enumerate(WORDS)]
    assert without_timings(out) == without_timings("".join(expected))


def test_each_result_has_the_logprobs_of_its_prompt_and_text(cli, tiny):
    """Of the whole prompt, even if it is longer than the window. A text that has ended has no more of them."""
    texts = ["abc", "", "the you", "x" * 70 + "bcd", "y" * 73, "bcd"]
    arguments = ["-m", tiny, "-n", 9, "-t", 2, "--logprobs", 2, "--echo", "--num-samples", 2, "--stop", "e"]
    results = json_samples(cli(*arguments, "-s", 3, "--prompts", "-", stdin=lines(texts)).out)
    alone = "".join(cli(*arguments, "-s", 3 + i, "--json", text).out for i, text in enumerate(texts))
    for result, expected in zip(results, json_samples(alone), strict=True):
        for name in ("logprobs", "prompt_logprobs"):
            tokens, expected_tokens = result[name], expected[name]
            assert [(token["id"], token["rank"]) for token in tokens] == [
                (token["id"], token["rank"]) for token in expected_tokens
            ]
            logprobs = [[token["logprob"] or 0 for token in both] for both in (tokens, expected_tokens)]
            np.testing.assert_allclose(*logprobs, atol=1e-5)
        assert len(result["logprobs"]) == len(result["tokens"])


def test_beam_search_has_the_same_results_as_alone(cli, tiny, batches):
    arguments = ["-m", tiny, "--beams", 3, "-n", 9]
    results = json_samples(cli(*arguments, "--prompts", "-", stdin=lines(WORDS)).out)
    alone = json_samples("".join(cli(*arguments, "--json", text).out for text in WORDS))
    for name in ("prompt", "text", "tokens", "score", "finish_reason"):
        assert [result[name] for result in results] == [result[name] for result in alone]
    assert {n_samples for n_samples, _ in batches} == {1}


def test_equal_lengths_share_batches_of_bounded_size(cli, tiny, batches, monkeypatch):
    monkeypatch.setattr(prompts, "BATCH_SAMPLES", 16)
    texts = ["ab", "c"] * 20
    for flags, expected in [
        ([], [(16, 2), (16, 1), (4, 2), (4, 1)]),
        (["--num-samples", 5], [(15, 2), (15, 1)] * 6 + [(10, 2), (10, 1)]),
        (["--num-samples", 20], [(20, 2), (20, 1)] * 20),
    ]:
        cli("-m", tiny, "-n", 1, *flags, "--prompts", "-", stdin=lines(texts))
        assert batches == expected
        batches.clear()


def test_long_texts_have_smaller_batches(cli, tiny, batches, monkeypatch):
    monkeypatch.setattr(prompts, "BATCH_POSITIONS", 3 * 64)
    cli("-m", tiny, "-n", 100, "--greedy", "--prompts", "-", stdin=lines("abcdefg"))
    assert batches == [(3, 1), (3, 1), (1, 1)]


NOT_JSON = "the prompt begins with a quotation mark and is not a JSON string"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'"a', f"{NOT_JSON} (Unterminated string starting at character 1)"),
        (b'"a" b', f"{NOT_JSON} (Extra data at character 5)"),
        (b"caf\xe9 noir", "the prompt is not UTF-8 ('utf-8' codec can't decode byte 0xe9 in position 3"),
        (b"x" * 101, "the prompt is longer than 100 bytes"),
        (b"x" * 1000, "the prompt is longer than 100 bytes"),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_bad_line_is_an_error_in_its_place(cli, tiny, monkeypatch, line, message, end):
    monkeypatch.setattr(prompts, "LONGEST_LINE", 100)
    first = b"x" * 100 + b"\r\n"
    result = cli("-m", tiny, "-n", 1, "--num-samples", 2, "--prompts", "-", stdin=first + line + end + b"a" * len(end))
    *before, error = json_samples(result.out)[:3]
    assert [sample["prompt"] for sample in before] == ["x" * 100] * 2
    assert error == {"error": error["error"], "line": 2}
    assert error["error"].startswith(f"line 2: {message}")
    assert [sample["prompt"] for sample in json_samples(result.out)[3:]] == ["a" * len(end)] * (2 if end else 0)
    assert result.status == 1
    warning, summary = result.err.splitlines()
    assert warning == "warning: line 1: the prompt has 100 tokens; only the last 64 fit the window and are read"
    assert summary == f"error: 1 of {3 if end else 2} lines failed; their objects say why"


def test_a_prompt_that_fails_in_a_batch_does_not_harm_the_others(cli, tmp_path):
    folder = write_model(tmp_path / "model", tie_word_embeddings=False)
    weights, config, tokenizer = load(folder)
    weights = {name: array.copy() for name, array in weights.items()}
    weights["wte.weight"][ord("z")] = np.nan
    save_model(folder, weights, config, tokenizer)
    arguments = ["-m", folder, "-n", 9, "--greedy", "--ignore-eos"]
    result = cli(*arguments, "--prompts", "-", stdin=lines(["ab", "zb", "cd"]))
    first, error, last = json_samples(result.out)
    assert error["error"].startswith("line 2: the model's scores are not numbers")
    assert [first["text"], last["text"]] == [cli(*arguments, text).out[:-1] for text in ("ab", "cd")]
    assert result.status == 1


def test_an_empty_line_is_an_error_without_endoftext(cli, tmp_path):
    folder = write_model_without_endoftext(tmp_path / "model")
    error, sample = json_samples(cli("-m", folder, "-n", 2, "--prompts", "-", stdin=b"\na\n").out)
    assert "line 1: the prompt is empty and the tokenizer has no <|endoftext|>" in error["error"]
    assert sample["prompt"] == "a"


def test_each_prompt_that_is_cut_has_a_warning(cli, tiny, batches):
    texts = ["x" * 70 + "ab", "y" * 99 + "c", "z" * 62 + "de", "f"]
    result = cli("-m", tiny, "-n", 3, "--greedy", "--prompts", "-", stdin=lines(texts))
    assert [line.partition(";")[0] for line in result.err.splitlines()] == [
        "warning: line 1: the prompt has 72 tokens",
        "warning: line 2: the prompt has 100 tokens",
    ]
    assert batches == [(3, 64), (1, 1)]
    expected = [generated(tiny, [*text.encode()][-64:], 3)[0] for text in texts]
    assert [sample["tokens"] for sample in json_samples(result.out)] == expected


# When results are printed


def test_a_result_is_printed_before_the_others_of_its_batch_have_ended(tiny, cli, monkeypatch, replace_generate):
    written, seen = [], []
    monkeypatch.setattr(prompts, "write", lambda text: written.append(json.loads(text)["prompt"]))

    def rows():
        for row in [[97, 97, 97], [-1, 98, -1], [-1, 98, -1], [-1, -1, -1]]:
            yield row
            seen.append("".join(written))

    replace_generate(rows())
    assert cli("-m", tiny, "--prompts", "-", stdin=lines("abc")).status == 0
    assert seen == ["", "a", "a"]
    assert written == ["a", "b", "c"]


def test_a_batch_ends_when_all_its_samples_have_reached_a_stop_string(cli, tiny, replace_generate):
    def rows():
        yield [97, 98]
        yield [98, 97]
        pytest.fail("this step is one too many")

    replace_generate(rows())
    result = cli("-m", tiny, "--stop", "b", "--prompts", "-", stdin=lines("xy"))
    assert [sample["text"] for sample in json_samples(result.out)] == ["a", ""]


def test_results_come_while_input_still_comes(tiny):
    with start_process(tiny, "-n", 2, "--ignore-eos", "--prompts", "-", stdin=subprocess.PIPE) as process:
        for text in (b"a", b"the", b'"'):
            process.stdin.write(text + b"\n")
            result = json.loads(process.stdout.readline())
            assert result.get("prompt") == text.decode() or text == b'"'
        process.stdin.close()
        assert process.wait(30) == 1


def test_an_endless_input_is_not_read_whole_and_a_closed_pipe_is_silent(tiny):
    with (
        subprocess.Popen(["yes", "x" * 60], stdout=subprocess.PIPE) as endless,
        start_process(tiny, "-n", 1, "--prompts", "-", stdin=endless.stdout) as process,
    ):
        endless.stdout.close()
        for _ in range(40):
            assert process.stdout.readline()
        with open(f"/proc/{endless.pid}/io") as statistics:
            n_bytes = int(re.search(r"wchar: (\d+)", statistics.read())[1])
        assert n_bytes < 2 * prompts.AHEAD * 61 + 200_000  # the last number is for the buffers of pipe and file
        process.stdout.close()
        assert (process.wait(30), process.stderr.read()) == (0, b"")


def test_ctrl_c_prints_what_has_ended_and_the_texts_so_far(cli, tiny, replace_generate):
    """But nothing after a line that was not begun."""
    for texts, n_printed in [(["x", "y", "z", "long"], 3), (["x", "y", "long", "z"], 2)]:
        replace_generate(ctrl_c_after([97, 97, 0xC3], [98, -1, 0xA9], [0xC3, -1, 0xC3]))
        result = cli("-m", tiny, "--prompts", "-", stdin=lines(texts))
        assert (result.status, result.err) == (130, "")
        ends = [(sample["text"], sample["finish_reason"]) for sample in json_samples(result.out)]
        assert ends == [("ab", "interrupted"), ("a", "stop"), ("é", "interrupted")][:n_printed]


def test_ctrl_c_while_waiting_for_input_is_silent(tiny):
    with start_process(tiny, "-n", 1, "--prompts", "-", stdin=subprocess.PIPE) as process:
        process.stdin.write(b"a\n")
        assert json.loads(process.stdout.readline())["prompt"] == "a"
        process.send_signal(signal.SIGINT)
        assert (process.wait(30), process.stdout.read(), process.stderr.read()) == (130, b"", b"")


def test_a_command_that_ends_does_not_wait_for_more_input(tiny, tmp_path):
    """The thread that reads is still waiting."""
    reader, writer = os.pipe()
    os.write(writer, b"a\n")
    with (
        open(reader, "rb") as stdin,
        open("/dev/full", "wb") as full,
        start_process(tiny, "-n", 1, "--prompts", "-", stdin=stdin, stdout=full) as process,
    ):
        assert process.wait(30) == 1
        assert process.stderr.read().count(b"\n") == 1
    os.close(writer)


# Statistics and errors


def test_the_timings_are_those_of_each_prompt(cli, tmp_path):
    folder = write_scripted_model(tmp_path / "model", [*b"abc", EOT])
    result = cli("-m", folder, "-n", 3, "--greedy", "--stats", "-s", 5, "--prompts", "-", stdin=lines("xyz"))
    for sample in json_samples(result.out):
        timings = sample["timings"]
        assert timings["loaded"] <= timings["first_token"] <= timings["total"]
        assert timings["tokens_per_second"] == pytest.approx(2 / (timings["total"] - timings["first_token"]))
    assert result.err.startswith("stats: seed 5 · loaded after ")
    assert result.err.count("\n") == 1
    speed = float(result.err.partition(" tokens/s")[0].split()[-1])
    assert speed == pytest.approx(6 / (timings["total"] - timings["first_token"]), rel=0.1)


def test_stats_mention_once_that_texts_outgrew_the_window(cli, tiny):
    result = cli("-m", tiny, "-n", 70, "--ignore-eos", "--stats", "--prompts", "-", stdin=lines(["a", "bc", "d"]))
    assert result.err.count("\n") == 2
    assert result.err.count("note: the text outgrew the window of 64 tokens") == 1


@pytest.mark.parametrize("source", ["no such file", "."])
def test_a_file_that_cannot_be_read_is_an_error(cli, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_error(cli("-m", "no model", "--prompts", source), 1, source)


def test_a_thread_that_cannot_be_started_is_an_error(cli, monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(prompts.threading.Thread, "start", fail)
    assert_one_error(cli("--prompts", "-"), 1, "in a thread of their own", "can't start new thread")


def test_an_input_that_fails_is_an_error_after_the_results(cli, tiny, monkeypatch):
    def failing(file):
        yield 1, b"a\n"
        raise OSError("the disk is gone")

    monkeypatch.setattr(prompts, "numbered_lines", failing)
    result = cli("-m", tiny, "-n", 1, "--prompts", "-")
    assert (result.status, result.err) == (1, "error: the disk is gone\n")
    assert [sample["prompt"] for sample in json_samples(result.out)] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [(["a"], "contradicts PROMPT and -i"), (["-i"], "contradicts PROMPT and -i"), (["-"], "contradicts PROMPT and -i")],
)
def test_prompts_contradicts_other_prompts(cli, arguments, mentioned):
    assert_one_error(cli("--prompts", "x", *arguments), 2, mentioned)


def test_prompts_from_a_closed_stdin_is_an_error(cli):
    assert_one_error(cli("--prompts", "-", stdin=None), 2, "standard input is closed")
