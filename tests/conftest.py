"""Shared by the tests: tiny models, ways to run the commands, and GPT-2's tokenizer where it is available."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest

from numpy_gpt2 import GPT2Config, Model, init_weights, load, load_tokenizer, save_model
from numpy_gpt2.explain import Explanation, explain
from numpy_gpt2.hub import bundled_folder, weights_folder
from numpy_gpt2.tokenizer import CHARACTER_OF_BYTE, ENDOFTEXT

from .browser import Browser, Page, find, shown_text
from .fake_hub import MODEL, Hub, serve

os.environ["HF_HUB_CACHE"] = os.devnull  # no test depends on the models of this computer

hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

ROOT = Path(__file__).parents[1]

PROMPT = "To be, or not to be, that is the"  # of the fixture `example`

MERGES = ["t h", "th e", "Ġ the", "Ġ a", "o u", "Ġ y", "Ġy ou", "Ã ©"]  # the last merge joins the two bytes of é


def write_tokenizer(folder: Path) -> int:
    """Write a byte-level BPE with a few merges in GPT-2's file format. Returns the number of tokens."""
    tokens = [*CHARACTER_OF_BYTE, *(merge.replace(" ", "") for merge in MERGES), ENDOFTEXT]
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n", encoding="utf-8")
    return len(tokens)


def write_model(folder: Path, seed: int = 0, scale: float = 10.0, **fields) -> Path:
    """Write a tiny model and its tokenizer. `scale` enlarges the weights, so that the logits differ clearly."""
    n_vocab = write_tokenizer(folder)
    sizes = {"vocab_size": n_vocab, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    config = GPT2Config(**{**sizes, "bos_token_id": n_vocab - 1, "eos_token_id": n_vocab - 1, **fields})
    weights = init_weights(config, np.random.default_rng(seed))
    weights = {name: array * scale if array.ndim == 2 else array for name, array in weights.items()}
    save_model(folder, weights, config, load_tokenizer(folder))
    return folder


def write_model_without_endoftext(folder: Path) -> Path:
    """Write a tiny model whose tokenizer has no `<|endoftext|>`."""
    write_model(folder, eos_token_id=None)
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    del vocab[ENDOFTEXT]
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):  # they have it, too
        (folder / name).unlink()
    return folder


def run_cli(*arguments, env=None, **options) -> subprocess.CompletedProcess:
    """Run `python -m numpy_gpt2` in a new process. Offline unless `env` changes it. Input and output are bytes."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})}
    command = [sys.executable, "-m", "numpy_gpt2", *map(str, arguments)]
    options = {"stdin": subprocess.DEVNULL, "timeout": 60, **options}
    if "input" in options:
        del options["stdin"]
    return subprocess.run(command, capture_output=True, env=environment, **options)


def run_in_process(main, capsys, *arguments) -> SimpleNamespace:
    """Call a command's `main` in this process. Returns status, out and err."""
    try:
        status = main([*map(str, arguments)])
    except SystemExit as end:
        status = end.code
    return SimpleNamespace(status=status, **capsys.readouterr()._asdict())


def assert_one_error(result: SimpleNamespace, status: int, *mentioned: object, before: str = "(?!)") -> None:
    """Check that the command printed nothing on stdout and one error line on stderr that mentions all of these.

    Lines before it, such as a progress bar, must match the regular expression `before`.
    """
    assert (result.status, result.out) == (status, "")
    *others, error = re.split("[\r\n]+", result.err.removesuffix("\n"))
    assert result.err.endswith("\n")
    assert error.startswith("error: ")
    assert all(re.fullmatch(before, line) for line in others if line)
    for words in mentioned:
        assert str(words) in error


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """The folder of a tiny model."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def bundled() -> Model:
    """The model that comes with the project."""
    return load(bundled_folder())


@pytest.fixture(scope="session")
def example(bundled) -> Explanation:
    """The explanation of PROMPT with a target and with ablation."""
    return explain(PROMPT, bundled, target=" question", ablate=True)


@pytest.fixture(scope="session")
def gpt2_tokenizer_folder() -> Path:
    """A folder with GPT-2's own vocab.json and merges.txt. Without one, the tests that need it are skipped."""
    data = os.environ.get("NUMPY_GPT2_DATA")
    for folder in (weights_folder() / "gpt2", *([Path(data) / "gpt2-tokenizer"] if data else [])):
        if (folder / "merges.txt").exists():
            return folder
    pytest.skip("needs GPT-2's tokenizer: weights/gpt2, or gpt2-tokenizer in the folder that NUMPY_GPT2_DATA names")


@pytest.fixture
def server(tiny, tmp_path, monkeypatch) -> Iterator[Hub]:
    """A fake hub with the tiny model; see `fake_hub.serve`."""
    yield from serve(tiny, tmp_path, monkeypatch)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where the model of the fake hub is downloaded to."""
    return tmp_path / "weights" / MODEL


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium. Without one, the tests that need it are skipped."""
    executable = find()
    if executable is None:
        pytest.skip("needs a Chromium")
    browser = Browser(executable)
    try:
        browser.open("about:blank").close()
    except (EOFError, TimeoutError) as error:
        browser.close()
        pytest.skip(f"{executable} does not start: {error}")
    yield browser
    browser.close()


@pytest.fixture
def shown(browser, tmp_path) -> Iterator[Callable[..., Page]]:
    """Open an explanation's page. At the end, check that it had no problems and requested nothing but itself."""
    opened = []

    def show(explanation, **options):
        file = tmp_path / f"{len(opened)}.html"
        file.write_text(explanation.page(), encoding="utf-8")
        opened.append((file, browser.open(file.as_uri(), **options)))
        return opened[-1][1]

    yield show
    for file, page in opened:
        assert not re.search("NaN|undefined", shown_text(page))
        assert page.problems == []
        assert page.requests == [file.as_uri()]
        page.close()
