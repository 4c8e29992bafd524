"""The command line: what is typed, what comes out of which stream, and how it ends."""

import io
import itertools
import json
import os
import pty
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial

import numpy as np
import pytest
import safetensors.numpy
import threadpoolctl
from hypothesis import example, given
from hypothesis import strategies as st

from numpy_gpt2 import GPT2Config, KVCache, generate, load, load_tokenizer, save_model
from numpy_gpt2 import __main__ as command

from .conftest import assert_one_error, run_cli, run_in_process, write_model, write_tokenizer

GENERATE = sys.modules["numpy_gpt2.generate"]  # the package's attribute of that name is the function
EOT = 264  # the last token of the tiny tokenizer; ids below 256 are bytes
SMILE = "\N{GRINNING FACE}"  # four bytes, and as many tokens


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No hub, no models but those that a test makes, and standard output buffered as it is by default."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture
def cli(capsys, monkeypatch):
    """The command inside this process; `stdin` is the bytes of a pipe. Returns status, out and err."""

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin)))
        return run_in_process(command.main, capsys, *arguments)

    return run


@pytest.fixture
def generating(monkeypatch):
    """Put these rows of tokens in the place of those that the model would generate."""
    return lambda rows: monkeypatch.setattr(command, "generate", lambda *_, **__: map(np.array, rows))


def ctrl_c_after(*rows):
    yield from rows
    raise KeyboardInterrupt


def said(folder, ids, n, **options):
    """How `generate` continues these tokens: its tokens and their text."""
    model = load(folder)
    options = {"temperature": 0, "stop_tokens": [EOT], "n_vocab": model.tokenizer.n_vocab, **options}
    tokens = list(generate(ids, model.weights, model.config, max_new_tokens=n, **options))
    return tokens, model.tokenizer.decode(tokens)


def write_parrot(folder, tokens, **fields):
    """A model that says these tokens after a prompt of one: its position embeddings point at what comes next."""
    write_model(folder, n_embd=64, n_layer=1, n_positions=len(tokens) + 1, **fields)
    weights, config, tokenizer = load(folder)
    weights = {name: np.zeros_like(array) if array.ndim == 2 else array for name, array in weights.items()}
    directions = np.random.default_rng(0).standard_normal(weights["wte.weight"].shape)
    weights["wte.weight"] += directions - directions.mean(axis=1, keepdims=True)
    weights["wpe.weight"][: len(tokens)] = 50 * weights["wte.weight"][tokens]
    save_model(folder, weights, config, tokenizer)
    return folder


def objects(out):
    """The lines of --json."""
    assert out.endswith("\n")
    return [json.loads(line) for line in out[:-1].split("\n")]


# Text


@pytest.mark.parametrize("prompt", ["you", f"naïve e\u0301 {SMILE}", "the the you, you a", " ", "x\ny\n"])
def test_standard_output_is_the_greedy_continuation_and_nothing_else(cli, tiny, prompt):
    tokens, text = said(tiny, load_tokenizer(tiny).encode_ordinary(prompt), 30)
    assert len(set(tokens)) > 3
    result = cli("-m", tiny, "--greedy", "-n", 30, prompt)
    assert (result.status, result.out, result.err) == (0, text + "\n", "")


def test_temperature_0_is_greedy_and_greedy_wins(cli, tiny):
    text = said(tiny, [97], 20)[1] + "\n"
    assert cli("-m", tiny, "-t", 0, "-n", 20, "a").out == text
    assert cli("-m", tiny, "--greedy", "-t", 2, "-n", 20, "a").out == text


def test_an_empty_prompt_starts_from_endoftext(cli, tiny):
    assert cli("-m", tiny, "--greedy", "-n", 20, "").out == said(tiny, [EOT], 20)[1] + "\n"


def test_what_looks_like_endoftext_in_a_prompt_is_text(cli, tiny):
    prompt = "<|endoftext|>"
    assert cli("-m", tiny, "--greedy", "-n", 20, prompt).out == said(tiny, [*prompt.encode()], 20)[1] + "\n"


def test_a_tokenizer_without_endoftext_needs_a_prompt(cli, tmp_path):
    folder = write_model(tmp_path / "model", eos_token_id=None)
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    del vocab["<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    assert_one_error(cli("-m", folder, ""), 1, "<|endoftext|>")
    assert cli("-m", folder, "-n", 3, "a").status == 0


def test_generation_goes_on_past_the_window(cli, tiny):
    tokens, text = said(tiny, [97, 98], 150)
    assert len(tokens) == 150
    assert cli("-m", tiny, "--greedy", "-n", 150, "ab").out == text + "\n"


def test_a_prompt_longer_than_the_window_is_cut_from_the_left_with_a_warning(cli, tiny):
    result = cli("-m", tiny, "--greedy", "-n", 5, "y" * 10 + "x" * 63 + "z")
    assert (result.status, result.out) == (0, said(tiny, [120] * 63 + [122], 5)[1] + "\n")
    assert re.fullmatch(r"warning: .*\b74 tokens.*\b64\b.*\n", result.err)


def test_a_word_of_100_000_letters(cli, tiny):
    result = cli("-m", tiny, "--greedy", "-n", 5, "-", stdin=b"x" * 100_000)
    assert (result.status, result.out) == (0, said(tiny, [120] * 64, 5)[1] + "\n")
    assert re.fullmatch(r"warning: .*\b100,000 tokens.*\n", result.err)


# Where the prompt comes from


@pytest.mark.parametrize("dash", [["-"], []])
@pytest.mark.parametrize(
    ("pipe", "prompt"),
    [(b"\n", ""), (b"the\n", "the"), (b"the\r\n", "the"), (b" a\n\n", " a\n"), ("\tnaïve ".encode(), "\tnaïve ")],
)
def test_the_prompt_is_what_a_pipe_holds_but_one_line_end(cli, tiny, dash, pipe, prompt):
    [result] = objects(cli("-m", tiny, "-n", 3, "--greedy", "--json", *dash, stdin=pipe).out)
    assert result["prompt"] == prompt
    assert result["tokens"] == said(tiny, load_tokenizer(tiny).encode_ordinary(prompt) or [EOT], 3)[0]


def test_an_empty_pipe_is_an_empty_prompt(tiny):
    result = run_cli("-m", tiny, "-n", 20, "--greedy", input=b"")
    assert result.stdout.decode() == said(tiny, [EOT], 20)[1] + "\n"


def test_a_prompt_that_is_given_leaves_the_pipe_alone(cli, tiny):
    [result] = objects(cli("-m", tiny, "-n", 3, "--json", "you", stdin=b"the").out)
    assert result["prompt"] == "you"
    assert sys.stdin.buffer.read() == b"the"


def test_a_pipe_that_is_not_utf8(cli, tiny):
    assert_one_error(cli("-m", tiny, stdin=b"caf\xe9 noir"), 1, "not UTF-8", "0xe9 in position 3")


@pytest.mark.parametrize("arguments", [[b"caf\xe9"], ["a", "--stop", b"\xff"]])
def test_an_argument_that_is_not_utf8(cli, tiny, arguments):
    assert_one_error(cli("-m", tiny, *map(os.fsdecode, arguments)), 2, "is not UTF-8")


def test_no_prompt_on_a_terminal(tiny):
    ours, theirs = pty.openpty()
    result = run_cli("-m", tiny, stdin=theirs, timeout=20)
    os.close(ours)
    os.close(theirs)
    assert (result.returncode, result.stdout) == (2, b"")
    assert re.fullmatch(rb"error: there is no prompt[^\n]+\n", result.stderr)


@pytest.mark.parametrize("prompt", [[], ["-"]])
def test_no_prompt_where_standard_input_is_closed(cli, tiny, prompt):
    assert_one_error(cli("-m", tiny, *prompt, stdin=None), 2, "there is no prompt")


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"},
    ],
    ids=lambda env: "-".join(env.values()),
)
def test_utf8_whatever_the_locale(tmp_path, env):
    if "ISO" in env["LC_ALL"]:
        if not shutil.which("localedef"):
            pytest.skip("needs localedef to make a locale that is not UTF-8")
        locale = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", tmp_path / env["LC_ALL"]]
        subprocess.run(locale, check=True, capture_output=True)
        env = {**env, "LOCPATH": str(tmp_path)}
    text = f"→{SMILE}é¡"
    parrot = write_parrot(tmp_path / "perroquet é", [*text.encode()])
    command_line = ["-m", parrot, "--greedy", "-n", 11, "--stop", "¡"]
    for prompt, options in [("é", {}), ("-", {"input": "é".encode()})]:
        result = run_cli(*command_line, "--json", prompt, env=env, **options)
        assert (result.returncode, result.stderr) == (0, b"")
        [sample] = objects(result.stdout.decode("utf-8"))
        assert (sample["prompt"], sample["text"], sample["finish_reason"]) == ("é", text[:-1], "stop")
    error = run_cli("-m", tmp_path / "なし", "a", env=env).stderr.decode("utf-8")
    assert error.startswith("error: ")


# Streaming


def test_a_character_is_printed_once_and_when_it_is_complete(cli, tmp_path, monkeypatch):
    tokens = [*f"a{SMILE}b".encode(), 255, *"é".encode(), 0xE2, 0x86]
    parrot = write_parrot(tmp_path / "parrot", tokens)
    written = []
    monkeypatch.setattr(command, "write", written.append)
    cli("-m", parrot, "--greedy", "-n", len(tokens), "x")
    assert written == ["a", "", "", "", SMILE, "b", "\ufffd", "", "é", "", "", "\ufffd\n"]


def test_text_is_there_before_the_next_token_is(tiny, monkeypatch, generating):
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe))
    seen = []

    def rows():
        for token in b"abc":
            yield [token]
            seen.append(pipe.getvalue())

    generating(rows())
    command.main(["-m", str(tiny), "x"])
    assert seen == [b"a", b"ab", b"abc"]


@contextmanager
def start(folder, *arguments, **options):
    """A process whose output can be read while it runs. It hears Ctrl-C even where the tests run in the background."""
    argv = [sys.executable, "-m", "numpy_gpt2", "-m", str(folder), *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(argv, bufsize=0, preexec_fn=hear, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@given(tokens=st.lists(st.integers(0, EOT), max_size=12))
def test_the_stream_is_what_the_tokenizer_decodes(tiny_tokenizer, tokens):
    sample = command.Continuation(tiny_tokenizer, [])
    stream = ""
    for token in tokens:
        sample.append(token)
        stream += sample.unwritten()
    sample.finish("length")
    stream += sample.unwritten()
    assert stream == sample.text == tiny_tokenizer.decode(tokens)
    assert (sample.tokens, sample.finish_reason) == (tokens, "length")


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny):
    return load_tokenizer(tiny)


ALPHABET = f"the é→{SMILE}"


@given(
    text=st.text(ALPHABET, max_size=12),
    stops=st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3),
    merged=st.booleans(),
)
@example("e the", [" the", "h"], True)  # one token holds both
@example("tété", ["é"], False)
def test_stop_texts_end_the_stream_wherever_tokens_cut_them(tiny_tokenizer, text, stops, merged):
    """Against the whole text: it ends before the stop text that is complete first; nothing is held back needlessly."""
    tokens = tiny_tokenizer.encode_ordinary(text) if merged else [*text.encode()]
    ends = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    end, expected = (min(ends)[0], text[: min(ends)[1]]) if ends else (len(text), text)

    sample = command.Continuation(tiny_tokenizer, stops)
    stream = ""
    for n, token in enumerate(tokens, start=1):
        sample.append(token)
        stream += sample.unwritten()
        whole = tiny_tokenizer.decode_bytes(tokens[:n]).decode("utf-8", "ignore")  # without half a character
        if len(whole) < end or not ends:
            beginnings = (stop[:i] for stop in stops for i in range(1, len(stop)))
            held = max((len(beginning) for beginning in beginnings if whole.endswith(beginning)), default=0)
            assert stream == whole[: len(whole) - held]
    sample.finish("length")
    stream += sample.unwritten()

    assert stream == sample.text == expected
    assert sample.finish_reason == ("stop" if ends else "length")
    spellings = (tokens[:n] for n in range(len(tokens) + 1))
    assert sample.tokens == next(ids for ids in spellings if tiny_tokenizer.decode(ids).startswith(expected))


# How it ends


def test_finish_reasons(cli, tmp_path):
    parrot = write_parrot(tmp_path / "parrot", [*b"ab", EOT, *b"cd"])

    def sample(*arguments):
        [result] = objects(cli("-m", parrot, "--greedy", "--json", *arguments, "x").out)
        return result["text"], result["tokens"], result["finish_reason"]

    assert sample() == ("ab", [97, 98], "stop")
    assert sample("-n", 2) == ("ab", [97, 98], "length")
    assert sample("-n", 3) == ("ab", [97, 98], "stop")
    assert sample("-n", 4, "--ignore-eos") == ("ab<|endoftext|>c", [97, 98, EOT, 99], "length")
    assert sample("--stop", "b") == ("a", [97], "stop")
    assert sample("--stop", "a") == ("", [], "stop")
    assert sample("--stop", "bd", "-n", 2) == ("ab", [97, 98], "length")  # what was held back comes after all
    assert sample("--stop", "bd") == ("ab", [97, 98], "stop")


def test_a_sample_may_end_at_once(cli, tmp_path):
    parrot = write_parrot(tmp_path / "parrot", [EOT, 97])
    result = cli("-m", parrot, "--greedy", "--stats", "x")
    assert (result.status, result.out) == (0, "\n")
    [sample] = objects(cli("-m", parrot, "--greedy", "--json", "x").out)
    assert (sample["text"], sample["tokens"], sample["finish_reason"]) == ("", [], "stop")
    assert sample["timings"]["first_token"] is None


def test_the_config_may_name_other_ends(cli, tmp_path):
    parrot = write_parrot(tmp_path / "one", [*b"abcd", EOT], eos_token_id=99)
    assert cli("-m", parrot, "--greedy", "x").out == "ab\n"
    parrot = write_parrot(tmp_path / "several", [*b"abcd", EOT], eos_token_id=[33, 100])
    assert cli("-m", parrot, "--greedy", "x").out == "abc\n"
    assert cli("-m", parrot, "--greedy", "-n", 4, "--ignore-eos", "x").out == "abcd\n"
    parrot = write_parrot(tmp_path / "none", [*b"abcd", EOT], eos_token_id=None)
    assert cli("-m", parrot, "--greedy", "x").out == "abcd\n"


def test_stop_texts_across_tokens(cli, tmp_path):
    parrot = write_parrot(tmp_path / "parrot", [*f"you, {SMILE}é the. end".encode()])
    arguments = ["-m", parrot, "--greedy", "-n", 20]
    for stops, text in [
        (["the. "], f"you, {SMILE}é "),
        ([f"{SMILE}é"], "you, "),
        (["end", "zz", "é t"], f"you, {SMILE}"),
        (["ou, " + SMILE, ","], "you"),  # both begin before the other ends; the comma is complete first
    ]:
        flags = itertools.chain.from_iterable(("--stop", stop) for stop in stops)
        result = cli(*arguments, *flags, "x")
        assert (result.status, result.out, result.err) == (0, text + "\n", "")


def test_nothing_is_generated_after_the_last_stop_text(cli, tiny, generating):
    generating(itertools.chain([[97, 97], [98, 99], [100, 98]], map(pytest.fail, ["this step is one too many"])))
    assert cli("-m", tiny, "--num-samples", 2, "--stop", "b", "x").out == "a\nac\n"


# Sampling


def test_ids_that_the_tokenizer_does_not_know_are_not_chosen(cli, tmp_path):
    padded = write_model(tmp_path / "padded", vocab_size=2000)
    arguments = ["-m", padded, "-n", 50, "-t", 100, "-k", 0, "-s", 0, "--ignore-eos", "--json", "a"]
    [sample] = objects(cli(*arguments).out)
    assert len(sample["tokens"]) == 50
    assert 200 < max(sample["tokens"]) <= EOT


def test_the_sampling_flags_are_those_of_generate(cli, tiny):
    texts = set()
    for flags, options in [
        ([], {"temperature": 0.8, "top_k": 40}),
        (["-t", "1.5"], {"temperature": 1.5, "top_k": 40}),
        (["--temperature", "1.5", "--top-k", "0"], {"temperature": 1.5}),
        (["-t", "1.5", "-k", "3"], {"temperature": 1.5, "top_k": 3}),
        (["-t", "1.5", "-k", "0", "-p", "0.7"], {"temperature": 1.5, "top_p": 0.7}),
        (["-t", "1.5", "-k", "50", "--top-p", "0.9"], {"temperature": 1.5, "top_k": 50, "top_p": 0.9}),
    ]:
        _, text = said(tiny, [97], 40, rng=np.random.default_rng(11), **options)
        assert cli("-m", tiny, "-n", 40, "-s", 11, *flags, "a").out == text + "\n"
        texts.add(text)
    assert len(texts) == 6


def test_100_tokens_unless_told_otherwise(cli, tiny):
    [sample] = objects(cli("-m", tiny, "--ignore-eos", "--json", "a").out)
    assert len(sample["tokens"]) == 100


def test_a_random_seed_is_told_and_can_be_used_again(cli, tiny):
    arguments = ["-m", tiny, "-n", 40, "--ignore-eos", "-t", 2, "--stats", "a"]
    first, second = cli(*arguments), cli(*arguments)
    assert first.out != second.out
    seed = re.search(r"\bseed (\d+)", first.err)[1]
    assert cli(*arguments, "--seed", seed).out == first.out


def test_several_samples_one_after_the_other(cli, tiny):
    model = load(tiny)
    rows = generate(
        np.array([[97, 98]] * 3),
        model.weights,
        model.config,
        max_new_tokens=30,
        temperature=1.2,
        rng=np.random.default_rng(5),
    )
    texts = [model.tokenizer.decode(column) for column in np.stack(list(rows), axis=1).tolist()]
    assert len(set(texts)) == 3
    arguments = ["-m", tiny, "-n", 30, "-t", 1.2, "-k", 0, "-s", 5, "--ignore-eos", "--num-samples", 3, "ab"]
    result = cli(*arguments)
    assert result.out == "".join(text + "\n" for text in texts)
    assert result.err == "--- sample 1 of 3\n--- sample 2 of 3\n--- sample 3 of 3\n"
    result = cli(*arguments, "--json")
    assert [sample["text"] for sample in objects(result.out)] == texts
    assert result.err == ""


def test_samples_end_each_on_its_own(cli, tiny):
    arguments = ["-m", tiny, "-n", 40, "-t", 2, "-s", 3, "--num-samples", 6, "--json", "a"]
    whole = objects(cli(*arguments, "--ignore-eos").out)
    cut = objects(cli(*arguments, "--ignore-eos", "--stop", "e", "--stop", "i").out)
    for long, short in zip(whole, cut, strict=True):
        assert short["text"] == re.split("[ei]", long["text"])[0]
        assert short["finish_reason"] == ("length" if short["text"] == long["text"] else "stop")
    assert {sample["finish_reason"] for sample in cut} == {"length", "stop"}


def test_samples_share_the_reading_of_the_prompt(cli, tiny, monkeypatch):
    shapes = []

    def spy(tokens, *arguments):
        shapes.append(tokens.shape)
        return hidden_states(tokens, *arguments)

    hidden_states = GENERATE.hidden_states
    monkeypatch.setattr(GENERATE, "hidden_states", spy)
    cli("-m", tiny, "-n", 3, "--ignore-eos", "--num-samples", 5, "abcd")
    assert shapes == [(1, 4), (5, 1), (5, 1)]


def test_separators_stand_between_the_samples(tiny):
    """In one stream, as a terminal shows both."""
    with start(tiny, "-n", 8, "--greedy", "--num-samples", 2, "a", stderr=subprocess.STDOUT) as process:
        out, _ = process.communicate()
    text = said(tiny, [97], 8)[1]
    assert out.decode() == f"--- sample 1 of 2\n{text}\n--- sample 2 of 2\n{text}\n"


# --json, --stats, --threads


def test_json_is_one_object_a_line(cli, tmp_path):
    text = 'a\n"\u2028é\\'
    parrot = write_parrot(tmp_path / "parrot", [*text.encode()])
    result = cli("-m", parrot, "--greedy", "-n", len(text.encode()), "-s", 7, "--json", "é")
    [sample] = objects(result.out)
    timings = sample.pop("timings")
    expected = {"prompt": "é", "text": text, "tokens": [*text.encode()], "finish_reason": "length", "seed": 7}
    assert sample == expected
    assert "é" in result.out
    assert 0 <= timings["loaded"] <= timings["first_token"] <= timings["total"] < 60
    speed = (len(sample["tokens"]) - 1) / (timings["total"] - timings["first_token"])
    assert timings["tokens_per_second"] == pytest.approx(speed)
    assert result.err == ""


def test_the_speed_is_that_of_all_samples(cli, tiny):
    samples = objects(cli("-m", tiny, "-n", 21, "--ignore-eos", "--num-samples", 3, "--json", "a").out)
    timings = samples[0]["timings"]
    assert timings["tokens_per_second"] == pytest.approx(60 / (timings["total"] - timings["first_token"]))


def test_stats_are_one_line_on_standard_error(cli, tiny):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = cli("-m", tiny, "-n", 20, "--greedy", "-s", 5, "--stats", "a")
    assert result.out == said(tiny, [97], 20)[1] + "\n"
    number = r"(\d+\.\d+)"
    pattern = rf"stats: seed 5 · loaded after {number} s · first token after {number} s · then {number} tokens/s"
    found = re.fullmatch(rf"{pattern} · peak memory (\d+) MB\n", result.err)
    loaded, first, speed, memory = map(float, found.groups())
    assert loaded <= first < 60
    assert speed > 0
    if sys.platform == "linux":
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert before * 1.024e-3 - 1 <= memory <= after * 1.024e-3 + 1


def test_stats_of_a_single_token_name_no_speed(cli, tiny):
    result = cli("-m", tiny, "-n", 1, "--ignore-eos", "--stats", "a")
    assert "first token after" in result.err
    assert "tokens/s" not in result.err


@pytest.mark.parametrize(
    ("n_prompt", "n", "outgrown"), [(60, 5, False), (60, 6, True), (60, 100, True), (64, 1, False), (64, 2, True)]
)
def test_stats_say_once_that_the_window_was_outgrown(cli, tiny, monkeypatch, n_prompt, n, outgrown):
    cuts = []
    truncate = KVCache.truncate
    monkeypatch.setattr(KVCache, "truncate", lambda cache, n: (cuts.append(n), truncate(cache, n)))
    arguments = ["-m", tiny, "-n", n, "--ignore-eos", "x" * n_prompt]
    result = cli(*arguments, "--stats")
    assert (0 in cuts) == outgrown
    assert result.err.count("\n") == 1 + outgrown
    assert result.err.count("note: the text outgrew the window of 64 tokens") == outgrown
    assert cli(*arguments).err == ""


def test_a_prompt_that_was_cut_has_not_outgrown_the_window_yet(cli, tiny):
    assert "outgrew" not in cli("-m", tiny, "-n", 1, "--ignore-eos", "--stats", "x" * 70).err
    assert "outgrew" in cli("-m", tiny, "-n", 2, "--ignore-eos", "--stats", "x" * 70).err


@pytest.mark.parametrize("n", [1, 10**30])
def test_threads_limits_the_matrix_products(cli, tiny, n):
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
    """The rows of --params, (name, shape or share, count): those of the parameters and those of the components."""
    row = re.compile(r"(\S+(?: \S+)*)(?: {2,}(\S+))? {2,}([\d,]+)")
    halves = [filter(None, map(row.fullmatch, half.split("\n"))) for half in out.split("component")]
    return [[(*match.group(1, 2), int(match[3].replace(",", ""))) for match in half] for half in halves]


@pytest.mark.parametrize("name", COUNTS)
def test_params_of_the_released_sizes_need_neither_weights_nor_network(cli, name):
    result = cli("--params", "-m", name, stdin=None)
    assert (result.status, result.err) == (0, "")
    parameters, components = table(result.out)
    shapes = GPT2Config.preset(name).parameter_shapes()
    assert [(p, shape) for p, shape, _ in parameters] == [(p, "×".join(map(str, s))) for p, s in shapes.items()]
    assert all(n == np.prod([*map(int, shape.split("×"))]) for _, shape, n in parameters)
    assert sum(n for *_, n in parameters) == COUNTS[name]
    assert components.pop() == ("all parameters", None, COUNTS[name])
    assert sum(n for *_, n in components) == COUNTS[name]
    assert sum(float(share.rstrip("%")) for _, share, _ in components) == pytest.approx(100, abs=0.03)


def test_params_of_gpt2(cli):
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


def test_params_of_a_folder_are_those_of_its_file(cli, tmp_path):
    folder = write_model(tmp_path / "model", n_inner=40, tie_word_embeddings=False)
    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    parameters, components = table(cli("-m", folder, "--params").out)
    assert {(p, n) for p, _, n in parameters} == {(k.removeprefix("transformer."), v.size) for k, v in stored.items()}
    assert ("head", f"{265 * 32 / sum(v.size for v in stored.values()):.2%}", 265 * 32) in components


def test_a_folder_named_gpt2_comes_before_the_released_model(cli, tmp_path, monkeypatch):
    write_model(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    for arguments in ["--params"], ["--params", "-m", "gpt2"]:
        assert table(cli(*arguments).out)[0][0] == ("wte.weight", "265×32", 265 * 32)
    for arguments in [], ["-m", "gpt2"]:
        assert cli("--greedy", "-n", 8, *arguments, "a").out == said(tmp_path / "gpt2", [97], 8)[1] + "\n"


# --help and wrong command lines


def test_help_shows_every_flag_and_examples_that_work(cli):
    result = cli("--help")
    assert (result.status, result.err) == (0, "")
    flags = "-m -n -t -k -p -s --model --max-new-tokens --temperature --top-k --top-p --greedy --seed --num-samples"
    for flag in [*flags.split(), "--stop", "--ignore-eos", "--json", "--stats", "--threads", "--params"]:
        assert re.search(rf"^  .*{flag}\b", result.out, re.M), flag
    lines = re.findall(r"^  python -m numpy_gpt2 (.*?)(?:  .*)?$", result.out, re.M)
    assert len(lines) >= 5
    for line in lines:
        command.parse_arguments(shlex.split(line.partition("<")[0]))


def test_what_numbers_may_be(cli, tiny):
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
def test_impossible_values(cli, tiny, arguments):
    flag, value = arguments
    assert_one_error(cli("-m", tiny, "a", f"{flag}={value}" if "--" in flag else flag + value), 2, flag, repr(value))


@pytest.mark.parametrize(
    "arguments", [["--warmth=1"], ["--temp=1"], ["-n"], ["--greedy=1"], ["a", "b"], ["a", "b\nc"], ["--stop"]]
)
def test_command_lines_that_mean_nothing(cli, tiny, arguments):
    assert_one_error(cli("-m", tiny, *arguments), 2, "--help")


# Models


def test_gpt2_is_the_default(cli, tmp_path):
    gpt2 = write_model(tmp_path / "weights" / "gpt2", seed=1)
    result = cli("--greedy", "-n", 20, "a")
    assert (result.out, result.err) == (said(gpt2, [97], 20)[1] + "\n", "")


def test_gpt2_is_downloaded_where_the_hub_answers(cli, tiny, tmp_path, monkeypatch):
    asked = []

    def download(name, folder):
        asked.append((name, folder))
        return tiny

    monkeypatch.setattr(command.hub, "why_unreachable", lambda name: None)
    monkeypatch.setattr(command.hub, "download_model", download)
    result = cli("--greedy", "-n", 20, "a")
    assert (result.out, result.err) == (said(tiny, [97], 20)[1] + "\n", "")
    assert asked == [("gpt2", tmp_path / "weights" / "gpt2")]


@pytest.mark.parametrize("offline", [True, False])
def test_the_bundled_model_answers_where_the_hub_is_away(cli, tiny, tmp_path, monkeypatch, offline):
    if not offline:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(command.hub, "bundled_folder", lambda: tiny)
    started = time.perf_counter()
    result = cli("--greedy", "-n", 20, "a")
    assert (result.status, result.out) == (0, said(tiny, [97], 20)[1] + "\n")
    assert time.perf_counter() - started < 10  # 3, on a machine with nothing else to do
    assert re.fullmatch(r"note: .*\bgpt2\b.*\nnote: .*\n", result.err)
    assert ("HF_HUB_OFFLINE" if offline else "refused") in result.err
    assert str(tmp_path / "weights" / "gpt2") in result.err


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "nobody/nothing", "no-such-model", "", "/no/such/folder"])
def test_a_model_that_was_named_is_never_replaced(cli, tiny, tmp_path, monkeypatch, name):
    monkeypatch.setattr(command.hub, "bundled_folder", lambda: tiny)
    monkeypatch.chdir(tmp_path)
    assert_one_error(cli("-m", name, "a"), 1, name)


def test_a_default_model_that_is_damaged_is_not_replaced(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(command.hub, "bundled_folder", lambda: tiny)
    gpt2 = write_model(tmp_path / "weights" / "gpt2")
    os.truncate(gpt2 / "model.safetensors", 1000)
    assert_one_error(cli("a"), 1, gpt2 / "model.safetensors")


def remove(name):
    return lambda folder: (folder / name).unlink()


def truncate(name, size):
    return lambda folder: os.truncate(folder / name, size)


def configure(**fields):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))

    return change


@pytest.mark.parametrize(
    ("damage", "mentioned"),
    [
        (remove("config.json"), "config.json"),
        (remove("model.safetensors"), "model.safetensors"),
        (remove("vocab.json"), "vocab.json"),
        (remove("merges.txt"), "merges.txt"),
        (truncate("config.json", 20), "config.json"),
        (truncate("model.safetensors", 0), "model.safetensors"),
        (truncate("model.safetensors", 5000), "model.safetensors"),
        (truncate("vocab.json", 100), "vocab.json"),
        (truncate("merges.txt", 20), "merges.txt"),
        (configure(model_type="llama"), "llama"),
        (configure(n_head=5), "5"),
        (configure(n_embd=16), "(265, 32), not (265, 16)"),
        (configure(n_layer=3), "h.2.ln_1.weight"),
        (configure(n_layer=10**12), str(10**12)),
        (configure(vocab_size=10**12), str(10**12)),
        (configure(activation_function="swish"), "swish"),
        (lambda folder: shutil.rmtree(folder) or folder.mkdir(), "config.json"),
        (lambda folder: write_tokenizer(folder) and (folder / "vocab.json").write_text("[]"), "vocab.json"),
    ],
)
def test_damaged_and_foreign_models(cli, tmp_path, damage, mentioned):
    damage(write_model(tmp_path / "model"))
    assert_one_error(cli("-m", tmp_path / "model", "a"), 1, mentioned)


def test_too_many_samples_for_any_memory(cli, tiny):
    assert_one_error(cli("-m", tiny, "--num-samples", 10**9, "a"), 2, "from 1 to 10,000")


# Processes: pipes, signals, start


def test_an_error_of_a_process_is_one_line(tmp_path):
    folder = write_model(tmp_path / "model")
    os.truncate(folder / "model.safetensors", 5000)
    result = run_cli("-m", folder, "a")
    assert (result.returncode, result.stdout) == (1, b"")
    assert re.fullmatch(rb"error: [^\n]+\n", result.stderr)


@pytest.mark.parametrize("arguments", [["-n", 10**12, "--ignore-eos"], ["-n", 1, "--num-samples", 2000, "--json"]])
def test_a_closed_pipe_is_silent(tiny, arguments):
    with start(tiny, "--greedy", *arguments, "a") as process:
        assert process.stdout.read(5)
        process.stdout.close()
        assert (process.wait(30), process.stderr.read()) == (0, b"")


@pytest.mark.parametrize("arguments", [["a"], ["--json", "a"], ["--params"], ["--help"]])
def test_a_full_disk(tiny, arguments):
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "numpy_gpt2", "-m", tiny, *arguments], stdout=full, stderr=subprocess.PIPE
        )
    assert result.returncode == 1
    assert re.fullmatch(rb"error: .*No space left.*standard output.*\n", result.stderr)


def test_standard_error_may_be_closed(tiny):
    argv = [sys.executable, "-m", "numpy_gpt2", "-m", tiny, "-n", "8", "--greedy", "--num-samples", "2", "--stats", "a"]
    result = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *argv], stdout=subprocess.PIPE)
    assert (result.returncode, result.stdout.decode()) == (0, 2 * (said(tiny, [97], 8)[1] + "\n"))


def test_ctrl_c_leaves_the_text_so_far(tiny):
    with start(tiny, "--greedy", "--ignore-eos", "-n", 10**12, "a") as process:
        beginning = process.stdout.read(5)
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (130, b"")
    text = (beginning + rest).decode("utf-8")
    assert text.endswith("\n")
    n = 256
    while len(expected := said(tiny, [97], n, stop_tokens=())[1][:-4]) < len(text):
        n *= 2
    assert expected.startswith(text[:-1])


def test_ctrl_c_while_loading(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with start(folder, "a") as process:
        pipe = None
        while pipe is None and process.poll() is None:
            with suppress(OSError):  # until the process has opened it, to wait for what never comes
                pipe = os.open(folder / "config.json", os.O_WRONLY | os.O_NONBLOCK)
        process.send_signal(signal.SIGINT)
        os.close(pipe)  # should the signal have come just before the read, and not interrupted it
        assert process.communicate(timeout=30) == (b"", b"")
        assert process.returncode == 130


def test_ctrl_c_leaves_half_a_character_out(cli, tiny, generating):
    rows = [97], [0xC3], [0xA9], [0xF0], [0x9F]
    generating(ctrl_c_after(*rows))
    result = cli("-m", tiny, "--stats", "x")
    assert (result.status, result.out) == (130, "aé\n")
    assert result.err.startswith("stats: ")
    generating(ctrl_c_after(*rows))
    [sample] = objects(cli("-m", tiny, "--json", "x").out)
    assert (sample["text"], sample["finish_reason"]) == ("aé", "interrupted")


def test_ctrl_c_leaves_all_samples_and_what_was_held_back(cli, tiny, generating):
    rows = [97, 97], [98, 0xC3], [99, 0xA9], [100, -1]
    generating(ctrl_c_after(*rows))
    result = cli("-m", tiny, "--num-samples", 2, "--stop", "cde", "x")
    assert (result.status, result.out) == (130, "abcd\naé\n")
    generating(ctrl_c_after(*rows))
    result = cli("-m", tiny, "--num-samples", 2, "--json", "x")
    assert [sample["finish_reason"] for sample in objects(result.out)] == ["interrupted", "stop"]


def test_ctrl_c_while_the_prompt_is_typed(cli, tiny, monkeypatch):
    monkeypatch.setattr(command, "read_prompt", lambda _: signal.raise_signal(signal.SIGINT))
    result = cli("-m", tiny, "-")
    assert (result.status, result.out, result.err) == (130, "", "")


def test_nothing_is_imported_for_downloads_when_there_are_none(tiny):
    script = (
        "import sys; from numpy_gpt2.__main__ import main;"
        " main(['-m', sys.argv[1], '-n', '2', 'a']); main(['--params']);"
        " print(*{'requests', 'tqdm', 'threadpoolctl', 'matplotlib'} & set(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", script, tiny], capture_output=True)
    assert (result.returncode, result.stderr) == (0, b"\n")
