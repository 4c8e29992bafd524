"""--json, --stats, --threads, --params, --help, and wrong command lines."""

import json
import os
import re
import resource
import shlex
import sys

import numpy as np
import pytest
import safetensors.numpy
import threadpoolctl

from numpy_gpt2 import GPT2Config, KVCache
from numpy_gpt2 import __main__ as command

from ..conftest import assert_one_error, write_model
from .conftest import generated, json_samples, write_scripted_model

# --json, --stats, --threads


def test_json_is_one_object_per_line(cli, tmp_path):
    text = 'a\n"\u2028é\\'
    model = write_scripted_model(tmp_path / "model", [*text.encode()])
    result = cli("-m", model, "--greedy", "-n", len(text.encode()), "-s", 7, "--json", "é")
    [sample] = json_samples(result.out)
    timings = sample.pop("timings")
    expected = {"prompt": "é", "text": text, "tokens": [*text.encode()], "finish_reason": "length", "seed": 7}
    assert sample == expected
    assert "é" in result.out
    assert 0 <= timings["loaded"] <= timings["first_token"] <= timings["total"] < 60
    speed = (len(sample["tokens"]) - 1) / (timings["total"] - timings["first_token"])
    assert timings["tokens_per_second"] == pytest.approx(speed)
    assert result.err == ""


def test_the_speed_counts_the_tokens_of_all_samples(cli, tiny):
    samples = json_samples(cli("-m", tiny, "-n", 21, "--ignore-eos", "--num-samples", 3, "--json", "a").out)
    timings = samples[0]["timings"]
    assert timings["tokens_per_second"] == pytest.approx(60 / (timings["total"] - timings["first_token"]))


def test_stats_are_one_line_on_stderr(cli, tiny):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = cli("-m", tiny, "-n", 20, "--greedy", "-s", 5, "--stats", "a")
    assert result.out == generated(tiny, [97], 20)[1] + "\n"
    number = r"(\d+\.\d+)"
    pattern = rf"stats: seed 5 · loaded after {number} s · first token after {number} s · then {number} tokens/s"
    found = re.fullmatch(rf"{pattern} · peak memory (\d+) MB\n", result.err)
    loaded, first, speed, memory = map(float, found.groups())
    assert loaded <= first < 60
    assert speed > 0
    if sys.platform == "linux":
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert before * 1.024e-3 - 1 <= memory <= after * 1.024e-3 + 1


def test_stats_of_a_single_token_have_no_speed(cli, tiny):
    result = cli("-m", tiny, "-n", 1, "--ignore-eos", "--stats", "a")
    assert "first token after" in result.err
    assert "tokens/s" not in result.err


@pytest.mark.parametrize(
    ("n_prompt", "n", "outgrown"), [(60, 5, False), (60, 6, True), (60, 100, True), (64, 1, False), (64, 2, True)]
)
def test_stats_mention_once_that_the_text_outgrew_the_window(cli, tiny, monkeypatch, n_prompt, n, outgrown):
    cuts = []
    truncate = KVCache.truncate
    monkeypatch.setattr(KVCache, "truncate", lambda cache, n: (cuts.append(n), truncate(cache, n)))
    arguments = ["-m", tiny, "-n", n, "--ignore-eos", "x" * n_prompt]
    result = cli(*arguments, "--stats")
    assert (0 in cuts) == outgrown
    assert result.err.count("\n") == 1 + outgrown
    assert result.err.count("note: the text outgrew the window of 64 tokens") == outgrown
    assert cli(*arguments).err == ""


def test_a_cut_prompt_alone_does_not_outgrow_the_window(cli, tiny):
    assert "outgrew" not in cli("-m", tiny, "-n", 1, "--ignore-eos", "--stats", "x" * 70).err
    assert "outgrew" in cli("-m", tiny, "-n", 2, "--ignore-eos", "--stats", "x" * 70).err


@pytest.mark.parametrize("n", [1, 10**30])
def test_threads_limits_the_threads_of_matrix_products(cli, tiny, n):
    def threads():
        return [library["num_threads"] for library in threadpoolctl.threadpool_info()]

    before = threads()
    with threadpoolctl.threadpool_limits():
        assert cli("-m", tiny, "-n", 2, "--threads", n, "a").status == 0
        limited = threads()
    assert limited == [min(n, os.cpu_count())] * len(before)


# --params


COUNTS = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200}


def table(out):
    """The rows of --params, (name, shape or share, count): first the parameters, then the components."""
    row = re.compile(r"(\S+(?: \S+)*)(?: {2,}(\S+))? {2,}([\d,]+)")
    halves = [filter(None, map(row.fullmatch, half.split("\n"))) for half in out.split("component")]
    return [[(*match.group(1, 2), int(match[3].replace(",", ""))) for match in half] for half in halves]


@pytest.mark.parametrize("name", COUNTS)
def test_params_of_the_released_sizes_need_neither_weights_nor_network(cli, name):
    result = cli("--params", "-m", name, "--logprobs", 3, stdin=None)  # other options have no effect
    assert (result.status, result.err) == (0, "")
    parameters, components = table(result.out)
    shapes = GPT2Config.preset(name).parameter_shapes()
    assert [(p, shape) for p, shape, _ in parameters] == [(p, "×".join(map(str, s))) for p, s in shapes.items()]
    assert all(n == np.prod([*map(int, shape.split("×"))]) for _, shape, n in parameters)
    assert sum(n for *_, n in parameters) == COUNTS[name]
    assert components.pop() == ("all parameters", None, COUNTS[name])
    assert sum(n for *_, n in components) == COUNTS[name]
    assert sum(float(share.rstrip("%")) for _, share, _ in components) == pytest.approx(100, abs=0.03)


def test_params_of_gpt2_equal_counts_by_hand(cli):
    out = cli("--params").out
    assert re.search(r"^h\.0\.attn\.c_attn\.weight +768×2304 +1,769,472$", out, re.M)
    L, C = 12, 768
    assert {name: n for name, _, n in table(out)[1]} == {
        "token embedding": 50257 * C,
        "position embedding": 1024 * C,
        "attention": L * (C * 3 * C + 3 * C + C * C + C),
        "MLP": L * (C * 4 * C + 4 * C + 4 * C * C + C),
        "layer norm": (2 * L + 1) * 2 * C,
        "all parameters": 124_439_808,
    }
    assert out.endswith("\n12 blocks of 7,087,872 parameters each; the head is wte.weight, transposed\n")
    assert max(map(len, out.split("\n"))) <= 80


def test_params_of_a_folder_match_its_weights_file(cli, tmp_path):
    folder = write_model(tmp_path / "model", n_inner=40, tie_word_embeddings=False)
    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    parameters, components = table(cli("-m", folder, "--params").out)
    assert {(p, n) for p, _, n in parameters} == {(k.removeprefix("transformer."), v.size) for k, v in stored.items()}
    assert ("head", f"{265 * 32 / sum(v.size for v in stored.values()):.2%}", 265 * 32) in components


def test_a_local_folder_named_gpt2_overrides_the_released_model(cli, tmp_path, monkeypatch):
    write_model(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    for arguments in ["--params"], ["--params", "-m", "gpt2"]:
        assert table(cli(*arguments).out)[0][0] == ("wte.weight", "265×32", 265 * 32)
    for arguments in [], ["-m", "gpt2"]:
        assert cli("--greedy", "-n", 8, *arguments, "a").out == generated(tmp_path / "gpt2", [97], 8)[1] + "\n"


# --help and wrong command lines


def test_help_shows_every_flag_and_examples_that_work(cli):
    result = cli("--help")
    assert (result.status, result.err) == (0, "")
    flags = "-m -n -t -k -p -s --model --max-new-tokens --temperature --top-k --top-p --greedy --seed --num-samples"
    for flag in [
        *flags.split(),
        "--stop",
        "--ignore-eos",
        "--lookup",
        "--json",
        "--logprobs",
        "--echo",
        "--stats",
        "--threads",
        "--int8",
        "--params",
        "--version",
    ]:
        assert re.search(rf"^  .*{flag}\b", result.out, re.M), flag
    lines = re.findall(r"^  python -m numpy_gpt2 (.*?)(?:  .*)?$", result.out.partition("\nother programs")[0], re.M)
    assert len(lines) >= 5
    for line in lines:
        command.parse_arguments(shlex.split(line.partition("<")[0]))


def test_extreme_values_are_accepted(cli, tiny):
    arguments = ["-n", 1, "-t", 0, "-k", 0, "-p", 1, "-s", 0, "--num-samples", 1, "--threads", os.cpu_count(), "a"]
    assert cli("-m", tiny, *arguments).status == 0
    arguments = ["-n", 1, "-t", 1e-300, "-k", 10**30, "-p", 1e-300, "-s", 10**30, "a"]
    assert cli("-m", tiny, *arguments).status == 0


@pytest.mark.parametrize(
    "arguments",
    [
        *(["-n", n] for n in ("0", "-1", "1.5", "ten", " ", "9" * 5000)),
        *(["-t", x] for x in ("-0.1", "nan", "inf", "warm")),
        *(["-k", k] for k in ("-1", "2.5")),
        *(["-p", p] for p in ("0", "1.01", "-1", "nan")),
        *(["-s", s] for s in ("-1", "0.5", "x")),
        *(["--num-samples", n] for n in ("0", "-2", "2.0")),
        *(["--threads", n] for n in ("0", "all")),
        ["--stop", ""],
    ],
    ids=lambda arguments: " ".join(arguments)[:20],
)
def test_values_out_of_range_are_errors(cli, tiny, arguments):
    flag, value = arguments
    assert_one_error(cli("-m", tiny, "a", f"{flag}={value}" if "--" in flag else flag + value), 2, flag, repr(value))


@pytest.mark.parametrize(
    "arguments", [["--warmth=1"], ["--temp=1"], ["-n"], ["--greedy=1"], ["a", "b"], ["a", "b\nc"], ["--stop"]]
)
def test_wrong_command_lines_are_errors(cli, tiny, arguments):
    assert_one_error(cli("-m", tiny, *arguments), 2, "--help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "x.txt"], "-f is not an option; to read the prompt from a file, write - < FILE"),
        (["a", "--file=x.txt"], "--file is not an option; to read the prompt from a file, write - < FILE"),
        (["a", "--warmth", "1"], "--warmth is not an option; see"),
        (["Once", "--warmth=1", "upon"], "--warmth is not an option; see"),
        (["Once", "upon", "a-time"], "upon a-time (a prompt of several words needs quotes)"),
    ],
)
def test_the_error_names_the_option_that_is_unknown(cli, arguments, message):
    assert_one_error(cli(*arguments), 2, message)


def test_help_says_how_to_type_a_line_end_after_stop(cli):
    assert "$'\\n\\n'" in cli("--help").out


# The other programs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "the following arguments are required: --out"),
        (["evaluate"], "TEXT.txt"),
        (["explain", "--text", "-o", "x", "a"], "--text"),
    ],
)
def test_the_name_of_a_program_as_first_word_runs_it(cli, arguments, message):
    assert_one_error(cli(*arguments), 2, message)


def test_a_program_gets_the_words_after_its_name(cli, tiny):
    result = cli("evaluate", "-", "-m", tiny, "--json", stdin=b"the you")
    assert (result.status, json.loads(result.out)["bytes"]) == (0, 7)


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [(["--", "train"], "train"), (["-t", 0, "train"], "train"), (["train "], "train "), (["Train"], "Train")],
)
def test_any_other_first_word_is_not_a_program(cli, tiny, arguments, prompt):
    first, *others = arguments
    options = ["-m", tiny, "-n", 3, "--json"]
    line = [*options, *arguments] if first == "--" else [first, *others, *options]
    [sample] = json_samples(cli(*line).out)
    assert sample["prompt"] == prompt


def test_help_lists_the_programs(cli):
    out = cli("--help").out
    assert re.findall(r"^  python -m numpy_gpt2 (\w+) …", out, re.M) == [*command.PROGRAMS]
    assert "-- train" in out
