"""The command: wrong texts, values and folders, full disks, closed streams, and --help."""

import errno
import fcntl
import io
import json
import math
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from threadpoolctl import threadpool_limits

from numpy_gpt2 import __version__, load, load_tokenizer
from numpy_gpt2.threads import thread_count, thread_pool
from numpy_gpt2.train import __main__ as command
from numpy_gpt2.train import run as run_module
from numpy_gpt2.train import step as step_module
from numpy_gpt2.train.config import FLAGS

from ..conftest import run_in_process, write_model
from .conftest import (
    FILES,
    FULL_RUN,
    TINY_RUN,
    after_step,
    assert_one_error,
    checkpoint,
    everything_in,
    log,
    messages,
    result_of,
    written,
)


@pytest.mark.parametrize(
    ("texts", "flags", "mentioned"),
    [
        ([b""], [], "text0 is empty"),
        ([b"a" * 500, b""], [], "text1 is empty"),
        ([b"too short"], [], "8 tokens"),
        ([b"a" * 17], ["--val-fraction", 0.05], "16 tokens"),
        ([b"a" * 25], ["--val-fraction", 0.02], "held-out text has 1 token"),
        ([b"a" * 25], ["--val-fraction", 1e-9], "held-out text has 1 token"),
        ([b"a" * 500], ["--val-fraction", 0.999], "0 tokens"),
        ([b"a" * 500, b"caf\xe9 noir" * 50], [], "text1 is not UTF-8"),
        ([b"a" * 500], ["--n-embd", 17], "n_embd is 17"),
        ([b"a" * 500], ["--tokenizer", "nowhere"], "nowhere"),
    ],
)
def test_unusable_texts_and_sizes_are_errors(cli, tmp_path, out, texts, flags, mentioned):
    paths = [written(tmp_path / f"text{i}", text) for i, text in enumerate(texts)]
    assert_one_error(cli(*paths, "--out", out, *TINY_RUN, *flags), 1, mentioned)
    assert not out.exists()


def test_a_dash_is_standard_input(cli, corpus, out, tmp_path, uninterrupted, monkeypatch):
    for flags in (["--time-limit", 1e-9], ["--resume"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(corpus.read_bytes())))
        assert cli("-", "--out", out, *FULL_RUN, *flags).status == 0
    assert result_of(out) == result_of(uninterrupted)


def test_shortest_usable_text_can_be_trained_on(cli, tmp_path, out):
    text = written(tmp_path / "text", "a" * 17 + "ab")
    result = cli(text, "--out", out, *TINY_RUN, "--max-steps", 2, "--eval-batches", 1)
    assert result.status == 0, result.err
    assert len(log(out)) == 1


@pytest.mark.parametrize("name", ["none.txt", "."])
def test_unreadable_text_is_an_error(cli, tmp_path, out, name):
    assert_one_error(cli(tmp_path / name, "--out", out), 1, tmp_path / name)
    assert not out.exists()


def test_out_that_is_a_file_is_an_error(cli, corpus, tmp_path):
    file = written(tmp_path / "file", "precious")
    assert_one_error(cli(corpus, "--out", file, *TINY_RUN), 1, file)
    assert_one_error(cli(corpus, "--out", file / "sub", *TINY_RUN), 1, file / "sub")
    assert file.read_text() == "precious"


@pytest.mark.skipif(sys.platform != "linux", reason="dropping root's privileges needs Linux")
def test_folder_without_write_permission_is_an_error(corpus, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o500)
    drop = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); os.execv(sys.executable, sys.argv[1:])"
    argv = [sys.executable, "-c", drop, sys.executable, "-m", "numpy_gpt2.train", corpus]
    for out in folder, folder / "sub":
        command = [*map(str, [*argv, "--out", out, *TINY_RUN])]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert_one_error(SimpleNamespace(status=result.returncode, out=result.stdout, err=result.stderr), 1, folder)
    assert os.listdir(folder) == []


@contextmanager
def largest_file(size):
    """Writing more than `size` bytes to a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 20_000, 100_000])  # too small for a tokenizer, a model, a checkpoint
def test_full_disk_leaves_older_files_unchanged(cli, corpus, uninterrupted, interrupted, size):
    before = everything_in(interrupted)
    with largest_file(size):
        result = cli(corpus, "--out", interrupted, "--resume")
    assert_one_error(result, 1, interrupted)
    after = everything_in(interrupted)
    assert after.keys() == before.keys()
    assert after["checkpoint.safetensors"] == before["checkpoint.safetensors"]
    assert (after["vocab.json"], after["merges.txt"]) == (before["vocab.json"], before["merges.txt"])
    if size < 100_000:
        assert after == before
    load(interrupted)
    assert cli(corpus, "--out", interrupted, "--resume").status == 0
    assert result_of(interrupted) == result_of(uninterrupted)


@pytest.mark.parametrize("size", [100, 20_000])
def test_full_disk_leaves_no_partial_files(cli, corpus, out, size):
    with largest_file(size):
        assert_one_error(cli(corpus, "--out", out, *TINY_RUN, "--max-steps", 2), 1, out)
    assert all(path.is_file() for path in out.iterdir())
    if (out / "vocab.json").exists():
        assert load_tokenizer(out).n_vocab == 257
    assert "model.safetensors" not in os.listdir(out)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_infinite_or_nan_loss_stops_the_run(cli, corpus, out, monkeypatch, where, loss):
    gradient = step_module.mean_gradient
    seen = []

    def spoiled(run, *arguments):
        value, flat = gradient(run, *arguments)
        if run.step == 7:
            seen.append(everything_in(out))
            if where == "loss":
                return loss, flat
            flat[1234] = loss
        return value, flat

    with monkeypatch.context() as patched:
        patched.setattr(step_module, "mean_gradient", spoiled)
        assert_one_error(cli(corpus, "--out", out, *FULL_RUN), 1, str(loss), "at step 8", "--lr")
    assert [everything_in(out)] == seen
    assert sorted(seen[0]) == FILES
    assert cli(corpus, "--out", out, "--resume").status == 0  # from step 6


@pytest.mark.parametrize(
    "flags", [[], ["--eval-interval", 1], ["--sample-interval", 1], ["--lr", 1e300], ["--grad-clip", 0]]
)
def test_learning_rate_that_is_far_too_high_is_an_error(cli, corpus, out, flags):
    result = cli(corpus, "--out", out, *FULL_RUN, "--warmup", 0, "--lr", 1e30, *flags)
    assert result.status == 1
    assert re.match(r"error: .*\bat step [123]\b", messages(result.err)[-1]) or "--sample-interval" in flags
    assert os.listdir(out) == []


@pytest.mark.parametrize(
    "flags",
    [
        *(["--dropout", x] for x in ("1", "-0.1", "nan")),
        *(["--lr", x] for x in ("0", "nan", "inf", "-1", "fast")),
        *(["--min-lr", x] for x in ("-1", "nan")),
        *(["--val-fraction", x] for x in ("1", "-0.1", "1.5")),
        *(["--seed", n] for n in ("-1", "0.5")),
        *(["--tokenizer", name] for name in ("bpe:3", "bpe:x", "bpe:", "bpe:256", "bpe:-300", "bpe:1000001")),
        *([flag, "0"] for flag in ("--max-steps", "--batch-size", "--grad-accumulation", "--eval-batches")),
        *([flag, "0"] for flag in ("--n-layer", "--n-head", "--n-embd", "--n-positions", "--time-limit")),
        *([flag, "-1"] for flag in ("--eval-interval", "--sample-interval", "--checkpoint-interval", "--warmup")),
        *([flag, "1"] for flag in ("--beta1", "--beta2")),
        *(["--threads", n] for n in ("0", "-1", "two")),
        *([flag, "-1"] for flag in ("--weight-decay", "--grad-clip")),
        ["--init-from", ""],
    ],
    ids=" ".join,
)
def test_impossible_values_are_errors(cli, corpus, out, flags):
    assert_one_error(cli(corpus, "--out", out, "=".join(flags)), 2, *flags)
    assert not out.exists()


def test_wrong_command_lines_are_errors(cli, corpus, out):
    for arguments in [], [corpus], ["--out", out], [corpus, "--out", out, "--max-step", 3], [corpus, "--out"]:
        assert_one_error(cli(*arguments), 2, "--help")
    assert not out.exists()


def test_help_shows_every_flag_and_examples_that_work(cli):
    result = cli("--help")
    assert (result.status, result.err) == (0, "")
    for flag in [*(command.flag(field.name) for field in FLAGS), "--out", "--resume", "--threads", "--version"]:
        assert re.search(rf"^  {flag}\b", result.out, re.M), flag
    lines = re.findall(r"^  python -m numpy_gpt2\.train (.*)$", result.out.replace("\\\n", ""), re.M)
    assert len(lines) >= 3
    for line in lines:
        command.parse_arguments(shlex.split(line))


@pytest.mark.parametrize("n", [1, 2])
def test_threads_limits_the_matrix_products_and_changes_no_result(cli, corpus, uninterrupted, out, monkeypatch, n):
    seen = []
    with threadpool_limits(2):
        if thread_count() < 2:
            pytest.skip("NumPy's products cannot be limited here")
        monkeypatch.setattr(run_module, "thread_pool", lambda: (seen.append(thread_count()), thread_pool())[1])
        assert cli(corpus, "--out", out, *FULL_RUN, "--threads", n).status == 0
    assert seen == [min(n, os.cpu_count())]
    assert result_of(out) == result_of(uninterrupted)


def test_version_option_prints_the_version(cli):
    result = cli("--version")
    assert (result.status, result.out) == (0, f"numpy_gpt2 {__version__}\n")


def test_standard_error_may_be_closed(corpus, out):
    argv = [sys.executable, "-m", "numpy_gpt2.train", corpus, "--out", out, *FULL_RUN, "--sample-interval", 14]
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *map(str, argv)]
    result = subprocess.run(command, stdout=subprocess.PIPE, timeout=60)
    assert result.returncode == 0
    assert result.stdout.startswith(b"--- after 14 steps\n")
    assert sorted(os.listdir(out)) == FILES


def test_sample_that_cannot_be_written_is_an_error(corpus, out):
    argv = [sys.executable, "-m", "numpy_gpt2.train", corpus, "--out", out, *FULL_RUN, "--sample-interval", 7]
    with open("/dev/full", "wb") as full:
        result = subprocess.run([*map(str, argv)], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert result.returncode == 1
    assert re.fullmatch("error: .*No space left.*standard output.*", messages(result.stderr.decode())[-1])
    assert checkpoint(out)[1]["step"] >= 6


def test_run_is_saved_when_the_samples_have_no_reader(corpus, out):
    """As with `| head -1`. The run may continue or stop, but it is saved."""
    argv = [sys.executable, "-m", "numpy_gpt2.train", corpus, "--out", out, *FULL_RUN]
    argv += ["--sample-interval", 5, "--eval-interval", 14, "--checkpoint-interval", 14]
    with subprocess.Popen([*map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.close()
        process.wait(60)
    assert checkpoint(out)[1]["step"] >= 5


def test_folder_with_a_model_or_a_run_is_not_overwritten(cli, corpus, interrupted, tiny):
    for folder, name, way_out in (interrupted, "a run", "--resume"), (tiny, "model.safetensors", "--init-from"):
        before = everything_in(folder)
        assert_one_error(cli(corpus, "--out", folder, *TINY_RUN, "--max-steps", 1), 1, folder, name, way_out)
        assert everything_in(folder) == before


@pytest.mark.parametrize("file", ["config.json", "vocab.json", "merges.txt", "tokenizer.json"])
def test_folder_with_one_file_of_a_model_is_not_overwritten(cli, corpus, out, file):
    out.mkdir()
    written(out / file, "something")
    assert_one_error(cli(corpus, "--out", out, *TINY_RUN, "--max-steps", 1), 1, file)
    assert (out / file).read_text() == "something"


def test_folder_with_a_sharded_model_is_not_overwritten(cli, corpus, tmp_path):
    model = write_model(tmp_path / "model")
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"transformer.wte.weight": "model-00001-of-00001.safetensors"}}
    written(model / "model.safetensors.index.json", json.dumps(index))
    before = everything_in(model)
    assert_one_error(cli(corpus, "--out", model, *TINY_RUN, "--max-steps", 1), 1, model)
    assert everything_in(model) == before
    load(model)


def test_second_training_into_a_folder_in_use_is_an_error(cli, corpus, uninterrupted, out, capsys):
    errors = []

    def start_others(run):
        for flags in [["--max-steps", 99], ["--resume", "--max-steps", 99]]:
            errors.append(run_in_process(command.main, capsys, corpus, "--out", out, *flags))

    with pytest.MonkeyPatch.context() as patched:
        after_step(patched, 2, start_others)  # before there is a model
        after_step(patched, 10, start_others)
        assert cli(corpus, "--out", out, *FULL_RUN).status == 0
    assert [error.status for error in errors] == [1] * 4
    in_use = f"error: {out} is in use by another training; use another --out, or --resume when that one has ended"
    assert [error.err.endswith(f"{in_use}\n") for error in errors] == [True, False, False, True]
    assert f"{out} has no checkpoint" in errors[1].err
    assert f"{out} already has a run" in errors[2].err
    assert result_of(out) == result_of(uninterrupted)


@pytest.mark.parametrize("flags", [FULL_RUN, ["--resume"]])
def test_training_that_was_overtaken_by_another_is_an_error(cli, corpus, uninterrupted, out, monkeypatch, flags):
    """The other one began and ended while this one prepared its run."""
    if "--resume" in flags:
        shutil.copytree(uninterrupted, out)
        flags = [*flags, "--max-steps", 20]
    is_complete = command.is_complete
    with monkeypatch.context() as patched:
        patched.setattr(
            command,
            "is_complete",
            lambda *given: (
                shutil.copytree(uninterrupted, out, dirs_exist_ok=True, copy_function=shutil.copyfile)
                and is_complete(*given)
            ),
        )
        assert_one_error(cli(corpus, "--out", out, *flags), 1, out, "was just changed by another training")
    assert result_of(out) == result_of(uninterrupted)


def test_file_system_without_locks_can_be_trained_on(cli, corpus, uninterrupted, out, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert cli(corpus, "--out", out, *FULL_RUN).status == 0
    assert result_of(out) == result_of(uninterrupted)
