"""The examples of README.md and numpy_gpt2/README.md are run, and their output is what the page shows."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from .conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
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


def test_links_of_the_readmes_exist():
    for page in [ROOT / "README.md", *ROOT.glob("*/README.md"), *ROOT.glob("numpy_gpt2/*/README.md")]:
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
