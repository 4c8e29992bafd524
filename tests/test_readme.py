"""The examples of README.md and numpy_gpt2/README.md are run, and their output is what the page shows."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from importlib import import_module

import numpy as np
import pytest

from numpy_gpt2 import load
from numpy_gpt2.__main__ import main
from numpy_gpt2.hub import bundled_folder

from .conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    *ROOT.glob("*/README.md"),
    *ROOT.glob("numpy_gpt2/*/README.md"),
    ROOT / "weights" / "shakespeare" / "README.md",
]
READING = (ROOT / "numpy_gpt2" / "README.md").read_text(encoding="utf-8")


def marked_block(name: str) -> str:
    """The code block that follows a comment such as <!-- tests -->."""
    match = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert match, name
    return match[1]


def test_first_run_prints_the_text_of_the_readme(tmp_path):
    """Offline and without weights/gpt2, the bundled model answers."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NUMPY_GPT2_WEIGHTS": str(tmp_path)}
    command = marked_block("first-run").replace("python", sys.executable, 1)
    result = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
    assert result.stdout == marked_block("first-run-output")


def test_python_example_prints_the_text_of_the_readme(capsys):
    code, output = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL).groups()
    exec(code, {})
    assert capsys.readouterr().out == output


def python_blocks(page):
    return re.findall(r"^( *)```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_blocks(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch):
    """In one namespace, in a folder with the model weights/run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bundled_folder(), tmp_path / "weights" / "run")
    names = {}
    for _, block in python_blocks(page):
        exec(textwrap.dedent(block), names)
    assert names


def test_the_model_card_shows_what_the_model_prints(capsys):
    card = PAGES[-1].read_text(encoding="utf-8")
    command = re.search(r'`python -m numpy_gpt2 (.*) "ROMEO:"`', card)[1]
    samples = re.findall(r"```text\n(.*?)```", card, re.DOTALL)
    assert len(samples) == 3
    for seed, sample in enumerate(samples, start=1):
        assert main([*command.replace("N", str(seed)).split(), "ROMEO:"]) == 0
        assert "ROMEO:" + capsys.readouterr().out == sample


def test_the_training_code_of_the_model_card_runs(tmp_path, monkeypatch):
    """One step on a short text instead of 1,300 steps on all plays."""
    pytest.importorskip("tokenizers")
    card = PAGES[-1].read_text(encoding="utf-8")
    code = textwrap.dedent(re.search(r"^ *```py\n(.*?)^ *```$", card, re.DOTALL | re.MULTILINE)[1])
    assert "max_steps=1300" in code
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bundled_folder(), tmp_path / "weights" / "first")
    (tmp_path / "tinyshakespeare.txt").write_text("First Citizen:\nSpeak, speak.\n" * 2000, encoding="utf-8")
    names = {}
    exec(code.replace("max_steps=1300", "max_steps=1").replace("warmup=50", "warmup=0"), names)
    after = load(tmp_path / "weights" / "second").weights
    assert any((after[name] != array).any() for name, array in names["weights"].items())


@pytest.mark.parametrize(("program", "field"), [("numpy_gpt2", "logprobs"), ("numpy_gpt2.evaluate", None)])
def test_log_probabilities_are_those_that_the_page_shows(capsys, monkeypatch, program, field):
    """The numbers may differ in the last digit."""
    text = READING.partition("## Log-probabilities")[2]
    before, arguments, output = re.search(rf"^\$ (.*)python -m {program} (.*)\n([^`]*)", text, re.MULTILINE).groups()
    if before:
        content = re.search('echo "(.*)"', before)[1] + "\n"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    main = import_module(program + (".__main__" if field else "")).main
    assert main(shlex.split(arguments.partition(" |")[0])) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    printed = printed[0][field] if field else printed
    shown = [json.loads(line) for line in output.splitlines()]
    for one, other in zip(printed, shown, strict=True):
        assert one.pop("logprob") == pytest.approx(other.pop("logprob"), abs=1e-4)
        np.testing.assert_allclose(one.pop("top", []), other.pop("top", []), rtol=0, atol=1e-4)
        assert one == other


def test_several_prompts_have_the_results_that_the_page_shows(capsys, monkeypatch):
    block = r"\$ printf '(.*)' \| python -m numpy_gpt2 (.*--prompts -) \| jq -c .*\n([^`]*)"
    lines, arguments, output = re.search(block, READING).groups()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode().decode("unicode_escape").encode())))
    assert main(shlex.split(arguments)) == 0
    results = map(json.loads, capsys.readouterr().out.splitlines())
    assert [[result["prompt"], result["text"]] for result in results] == [*map(json.loads, output.splitlines())]


def test_links_of_the_readmes_exist():
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = link.partition("#")
            target = page.parent / path
            assert target.exists(), f"{page}: {link}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("distance", [0, 1, 7])
def test_rotary_scores_depend_on_the_distance_only(distance):
    """With the page's `rotate`, q at position t and k at t − distance give the same score for every t."""
    names = {"np": np}
    code = re.search(r" *```python\n(.*?)```", READING, re.DOTALL)[1]
    exec(re.sub(r"^   ", "", code, flags=re.MULTILINE), names)
    q, k = np.random.default_rng(0).standard_normal((2, 1, 8))
    scores = [names["rotate"](q, start=t)[0] @ names["rotate"](k, start=t - distance)[0] for t in (7, 20, 500)]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-9)
    assert abs(scores[0] - q[0] @ k[0]) < 1e-9 if distance == 0 else abs(scores[0] - q[0] @ k[0]) > 1e-3
