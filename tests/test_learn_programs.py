"""The programs with a learner's functions: `--with FILE.py`, `learn.run` and the milestones."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from numpy_gpt2 import GPT2Config, KVCache, evaluate, explain, init_weights, learn
from numpy_gpt2.__main__ import main as generate_main
from numpy_gpt2.evaluate import main as evaluate_main
from numpy_gpt2.explain.__main__ import main as explain_main
from numpy_gpt2.explain.page import page_html
from numpy_gpt2.learn.exercises import EXERCISES
from numpy_gpt2.learn.milestones import MILESTONES
from numpy_gpt2.learn.own import Own, load_file
from numpy_gpt2.learn.process import run_in_process
from numpy_gpt2.model import ACTIVATIONS, gelu
from numpy_gpt2.train.__main__ import main as train_main
from numpy_gpt2.train.config import TrainConfig
from numpy_gpt2.train.step import new_run, take_step

from .conftest import run_cli
from .conftest import run_in_process as run_main
from .learners import file_with, functions_in

WITHOUT_HOOK = """
def attention(q, k, v, mask, scale):
    return softmax(np.where(mask, q @ k.swapaxes(-1, -2) * scale, -np.inf)) @ v
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A file whose functions are the package's own source."""
    path = tmp_path_factory.mktemp("learn") / "my_gpt2.py"
    path.write_text(file_with(*EXERCISES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def own(copy):
    return load_file(copy)


def test_the_text_of_a_copy_is_the_same(copy):
    arguments = ("-m", "shakespeare", "--seed", "1", "-n", "40", "To be")
    plain, mine = run_cli(*arguments), run_cli("--with", copy, *arguments)
    assert plain.stdout == mine.stdout != b""
    assert mine.stderr.decode() == f"note: using {len(EXERCISES)} functions of {copy}\n"


def test_the_loss_and_the_page_of_a_copy_are_the_same(own, example):
    weights, config, _ = example.model
    tokens = np.arange(3 * config.n_positions) % config.vocab_size
    before = evaluate.evaluate(tokens, weights, config)
    with own.installed():
        assert evaluate.evaluate(tokens, weights, config) == before
        page = page_html(explain("To be, or not to be, that is the", example.model))
    places = re.findall(r'"where": "([^"]*)"', page)
    assert any(place.startswith("my_gpt2.py, line ") for place in places)
    plain = page_html(explain("To be, or not to be, that is the", example.model))
    assert re.sub(r'"where": "[^"]*"', "", page) == re.sub(r'"where": "[^"]*"', "", plain)


def test_training_with_a_copy_is_the_same(own):
    options = TrainConfig(n_positions=8, batch_size=4, max_steps=3, warmup=1)
    config = GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    runs = [new_run(options, config, init_weights(config, np.random.default_rng(0))) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for run, names in zip(runs, ([], own.functions), strict=True):
            with own.installed(names):
                for _ in range(3):
                    take_step(run, np.arange(200) % 20, pool)
    assert runs[0].losses == runs[1].losses
    np.testing.assert_array_equal(runs[0].weights, runs[1].weights)


def test_a_program_that_needs_the_hook_leaves_out_functions_without_it(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\n" + WITHOUT_HOOK + "\ndef gelu(x):\n    return x * nothing\n", encoding="utf-8"
    )
    result = run_cli("explain", "-m", "shakespeare", "--with", path, "--text", "To be")
    lines = result.stderr.decode().splitlines()
    assert lines[0] == f"note: using 1 function of {path}: gelu"
    assert lines[1].startswith("note: not used, because this program needs the hook there: attention. For more: ")
    assert lines[2] == "error: mine.py, line 7: NameError: name 'nothing' is not defined"
    assert lines[3].startswith("note: gelu of mine.py is not right yet. For more: ")
    assert (result.returncode, len(lines)) == (1, 4)


TOO_SHORT = """
def hidden_states(tokens, weights, config, cache=None):
    raise ValueError("no")
"""


def test_an_error_of_any_kind_has_its_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TOO_SHORT, encoding="utf-8")
    result = run_cli("-m", "shakespeare", "--with", path, "To be")
    assert result.stderr.decode().splitlines()[1:] == [
        "error: mine.py, line 3: ValueError: no",
        f"note: hidden_states of mine.py is not right yet. For more: python -m numpy_gpt2.learn {path} hidden_states",
    ]
    assert result.returncode == 1
    assert run_in_process("reach", path, "1") == {"problem": "mine.py, line 3: ValueError: no"}


@pytest.mark.parametrize("body", ["return x * np.nan", "x + 1"])
def test_an_error_elsewhere_names_the_wrong_function(body, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"import numpy as np\ndef softmax(x):\n    {body}\n", encoding="utf-8")
    result = run_cli("-m", "shakespeare", "--with", path, "To be")
    _, error, note = result.stderr.decode().splitlines()
    assert error.startswith("error: ")
    assert note.startswith("note: softmax of mine.py is not right yet. For more: ")


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (generate_main, ["To be"]),
        (evaluate_main, [__file__]),
        (explain_main, ["To be"]),
        (train_main, [__file__, "--out", "mine"]),
    ],
    ids=["generate", "evaluate", "explain", "train"],
)
def test_a_file_that_does_not_run_is_one_error(main, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("def f(:", encoding="utf-8")
    result = run_main(main, capsys, *arguments, "--with", "broken.py")
    assert (result.status, result.err) == (1, "error: broken.py is not Python: line 1: invalid syntax\n")


def test_run_continues_a_prompt_with_the_functions_of_a_namespace(capsys):
    names = functions_in("""
        calls = []

        def softmax(x):
            calls.append(x.shape)
            e = np.exp(x - x.max(-1, keepdims=True))
            return e / e.sum(-1, keepdims=True)
    """)
    learn.run(names, "To be", max_new_tokens=5, temperature=0)
    mine = capsys.readouterr().out
    assert names["calls"]
    learn.run({}, "To be", max_new_tokens=5, temperature=0)
    assert capsys.readouterr().out == mine != "\n"


def test_a_class_of_the_learner_s_replaces_all_of_the_cache(capsys):
    update = KVCache.update
    names = functions_in("""
        class KVCache:
            def __init__(self, config, batch_size=1, dtype=np.float32):
                shape = config.n_layer, batch_size, config.n_head, config.n_positions, config.n_embd // config.n_head
                self.keys, self.values = np.zeros(shape, dtype), np.zeros(shape, dtype)
                self.length, self.n_positions = 0, config.n_positions

            def update(self, layer, k, v):
                end = self.length + k.shape[2]
                self.keys[layer, :, :, self.length : end] = k
                self.values[layer, :, :, self.length : end] = v
                return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
    """)
    report = learn.check(names["KVCache"].update, "KVCache.update")
    assert report, report
    learn.run(names, "To be", max_new_tokens=5, temperature=0)
    mine = capsys.readouterr().out
    learn.run({}, "To be", max_new_tokens=5, temperature=0)
    assert capsys.readouterr().out == mine
    assert KVCache.update is update


def test_the_package_s_activations_keep_their_order(own):
    before = [*ACTIVATIONS]
    with own.installed():
        assert ACTIVATIONS["gelu_new"] is not gelu
        assert [*ACTIVATIONS] == before
    assert [*ACTIVATIONS] == before


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_milestones_compare_with_the_package(number, own, monkeypatch):
    monkeypatch.setattr("numpy_gpt2.learn.milestones.N_TOKENS", 8)
    monkeypatch.setattr("numpy_gpt2.learn.milestones.N_STEPS", 3)
    text = "\n".join(MILESTONES[number](own))
    expected = {
        1: "they differ by 0e+00 of the largest.\nAfter 'O Romeo, Romeo! wherefore art', the first word",
        2: "O Romeo, Romeo! wherefore art thou love'd Romeo!",
        3: "the same text, ",
        4: "your gradients of all 28 weights agree with numerical ones",
        5: "The largest difference is 0e+00.",
    }
    assert expected[number] in text


def test_a_wrong_function_shows_in_a_milestone():
    wrong = Own(functions_in("def gelu(x):\n    return np.maximum(x, 0)"))
    assert "they differ by 0e+00" not in "\n".join(MILESTONES[1](wrong))


@pytest.mark.parametrize("number", [4, 5])
def test_gradients_without_dropout_are_used_in_milestones(number, monkeypatch):
    monkeypatch.setattr("numpy_gpt2.learn.milestones.N_STEPS", 2)
    calls = []
    names = functions_in("""
        def attention_backward(dz, q, k, v, scale, trace):
            calls.append(q.shape)
            pattern = trace["attn.pattern"]
            dscores = softmax_backward(dz @ v.swapaxes(2, 3), pattern) * scale
            return dscores @ k, dscores.swapaxes(2, 3) @ q, pattern.swapaxes(2, 3) @ dz
    """)
    names["calls"] = calls
    own = Own(names)
    assert not calls
    text = "\n".join(MILESTONES[number](own))
    assert calls[-1][:2] == {4: (3, 2), 5: (4, 2)}[number], (
        "it was called in the model, not only in the check of dropout"
    )
    assert {4: "agree with numerical ones", 5: "There was no dropout, because attention_backward does not"}[
        number
    ] in text
