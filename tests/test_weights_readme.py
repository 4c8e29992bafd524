"""weights/README.md: its examples are run, and its tables and lists are compared with the code."""

import doctest
import os
import re
import shlex
import subprocess
import sys

import pytest

from numpy_gpt2 import GPT2Config, hub
from numpy_gpt2.hub import bundled_folder
from numpy_gpt2.model import ACTIVATIONS
from numpy_gpt2.model_files import MODEL_FILES
from numpy_gpt2.weights import STORED_DTYPES

from .conftest import ROOT

README = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")


def examples() -> list[tuple[str, str]]:
    """The commands of all console blocks, each with its output."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    return [
        (command, output)
        for block in blocks
        for command, output in re.findall(r"^\$ (.*)\n((?:[^$].*\n|\n)*)", block, re.M)
    ]


@pytest.mark.parametrize(("command", "output"), examples(), ids=[command for command, _ in examples()])
def test_a_command_prints_the_output_that_is_shown(command, output, tmp_path):
    words = shlex.split(command)
    n_variables = words.index("python")
    variables = dict(word.split("=") for word in words[:n_variables])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **variables}
    result = subprocess.run(
        [sys.executable, *words[n_variables + 1 :]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=tmp_path,
        env=environment,
        timeout=60,
    )
    pattern = ".*\n".join(map(re.escape, output.split("…\n")))  # … stands for some lines
    assert re.fullmatch(pattern, result.stdout.decode(), re.DOTALL), result.stdout.decode()


def test_the_python_example_prints_what_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```pycon\n(.*?)```", README, re.DOTALL)
    test = doctest.DocTestParser().get_doctest(example, {}, "weights/README.md", None, None)
    assert doctest.DocTestRunner().run(test).failed == 0
    assert {path.name for path in (tmp_path / "copy").iterdir()} >= {*MODEL_FILES, "model.safetensors"}


def test_the_table_of_models_is_right():
    rows = re.findall(r"^\| \[?`([\w-]+)`.* \| (\d+) \| (\d+) \| (\d+) \| ([\d,]+) \| ([\d.]+) GB \|$", README, re.M)
    assert [name for name, *_ in rows] == [*hub.NAMES, hub.BUNDLED]
    configs = {name: GPT2Config.preset(name) for name in hub.RELEASED_SIZES}
    configs |= {
        "distilgpt2": GPT2Config(n_layer=6),
        hub.BUNDLED: GPT2Config.from_json(bundled_folder() / "config.json"),
    }
    for name, n_layer, n_head, n_embd, n_parameters, size in rows:
        config = configs[name]
        assert (int(n_layer), int(n_head), int(n_embd)) == (config.n_layer, config.n_head, config.n_embd)
        assert n_parameters == f"{config.num_parameters():,}"
        assert size == f"{4 * config.num_parameters() / 1e9:.2f}"


def test_the_lists_of_dtypes_and_activations_are_complete():
    (dtypes,) = re.findall(r"stored as (.*?)\.", README)
    assert re.findall(r"\w+\d+", dtypes) == [*STORED_DTYPES]
    (activations,) = re.findall(r"`activation_function` may be (.*?)\.", README)
    assert set(re.findall(r"`(\w+)`", activations)) == {*ACTIVATIONS}


def test_the_readme_is_short():
    assert len(README.splitlines()) < 150
