"""The examples of numpy_gpt2/train/README.md, run as they are."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from numpy_gpt2 import evaluate, train
from numpy_gpt2.hub import bundled_folder
from numpy_gpt2.train import __main__ as command

from .conftest import checkpoint, log

FOLDER = Path(train.__file__).parent
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def commands(program):
    """The arguments of each command for `python -m PROGRAM` in a block."""
    lines = "".join(blocks("(?:sh|console)")).replace("\\\n", "")
    return [shlex.split(line) for line in re.findall(rf"^(?:\$ )?python -m {re.escape(program)} (.*)$", lines, re.M)]


@pytest.fixture
def shakespeare(tmp_path, monkeypatch):
    """A working folder with tinyshakespeare.txt, and held_out.txt, its last tenth."""
    data = os.environ.get("NUMPY_GPT2_DATA")
    path = Path(data or "") / "data" / "tinyshakespeare.txt"
    if not data or not path.exists():
        pytest.skip("needs data/tinyshakespeare.txt in the folder that NUMPY_GPT2_DATA names")
    text = path.read_bytes()
    (tmp_path / "tinyshakespeare.txt").write_bytes(text)
    (tmp_path / "held_out.txt").write_bytes(text[int(len(text) * 0.9) :])
    monkeypatch.chdir(tmp_path)


def test_readme_has_under_150_lines_and_its_links_exist():
    assert len(README.splitlines()) < 150
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links == ["trained.py", "step.py", "nanogpt.svg", "../README.md#log-probabilities"]
    assert all((FOLDER / link.partition("#")[0]).exists() for link in links)


def test_each_training_command_is_accepted():
    lines = commands("numpy_gpt2.train")
    assert len(lines) == 4
    for line in lines:
        command.parse_arguments(line)
    flags = {field.name for field in train.config.FLAGS}
    for name in re.findall(r"`--([a-z][a-z-]+)", README):
        assert name.replace("-", "_") in flags | {"help", "out", "resume", "stride", "hellaswag", "tokens"}, name


def test_first_run_and_resume_give_what_the_readme_shows(cli, shakespeare, capsys):
    first, _, again, _ = commands("numpy_gpt2.train")
    result = cli(*first)
    assert result.status == 0, result.err
    shown = next(block for block in blocks("console") if "--max-steps 200" in block)
    assert result.err.splitlines()[0] in shown
    assert result.out.startswith("--- after 200 steps\n")
    best = r"the best model \(validation loss ([\d.]+) nats per token\) is in weights/tiny: .*"
    [expected], [found] = re.findall(best, shown), re.findall(best, result.err)
    assert float(found) == pytest.approx(float(expected), abs=0.01)

    rows = [json.loads(line) for line in blocks("json")[0].splitlines()]
    for row, row_shown in zip(log(Path("weights/tiny")), rows, strict=True):
        assert list(row) == list(row_shown)
        for name in ("step", "train_loss", "val_loss", "lr"):
            assert row[name] == pytest.approx(row_shown[name], abs=0.01 * ("loss" in name)), name
    assert all(f"`{name}`" in README for name in os.listdir("weights/tiny"))

    assert cli(*again, "--max-steps", 201).status == 0
    assert checkpoint(Path("weights/tiny"))[1]["step"] == 201


def test_python_example_prints_what_the_readme_says(capsys):
    exec(blocks("python")[0], {})
    assert f"prints `{capsys.readouterr().out.strip()}`" in README


def test_evaluation_gives_what_the_readme_shows(shakespeare, monkeypatch, capsys):
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(bundled_folder().parent))
    [line] = commands("numpy_gpt2.evaluate")
    assert evaluate.main(line) == 0
    shown = json.loads(next(block for block in blocks("console") if "evaluate" in block).splitlines()[1])
    result = json.loads(capsys.readouterr().out)
    assert result == pytest.approx(shown, rel=1e-5)
    card = (bundled_folder() / "README.md").read_text(encoding="utf-8")
    numbers = [float(x) for x in re.findall(r"([\d.]+) (?:nats|bits)", card[card.index("| validation loss") :])[:3]]
    per_character = result["loss"] * result["tokens"] / result["bytes"]  # all characters are ASCII
    assert numbers == pytest.approx([result["loss"], per_character, result["bits_per_byte"]], abs=6e-4)
