"""Checks of a learner's functions: every known mistake is named, and nothing wrong passes."""

import ast
import functools
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from numpy_gpt2 import KVCache, cross_entropy, forward, layer_norm, learn
from numpy_gpt2.learn import tasks
from numpy_gpt2.learn.__main__ import main
from numpy_gpt2.learn.checking import check_all, hook_problems
from numpy_gpt2.learn.compare import Outcome, cases, distance, expected, observe
from numpy_gpt2.learn.diagnosis import check_subject
from numpy_gpt2.learn.exercise import Inputs
from numpy_gpt2.learn.exercises import EXERCISES
from numpy_gpt2.learn.file import INTRODUCTION, new_file
from numpy_gpt2.learn.mistakes import MISTAKES
from numpy_gpt2.learn.notebook import new_notebook
from numpy_gpt2.learn.own import Own, load_file
from numpy_gpt2.learn.process import run_in_process
from numpy_gpt2.learn.source import line_with, with_mistakes
from numpy_gpt2.model import softmax

from .conftest import run_in_process as run_main
from .learners import file_with, functions_in


def outcomes(name, function):
    exercise = EXERCISES[name]
    return [observe(exercise, exercise.subject(function), case) for case in cases(exercise)]


def apart(name, a, b):
    """Whether some probe tells two lists of outcomes apart by more than 100 tolerances."""
    return any(distance(x, y, case.dtype) > 100 for x, y, case in zip(a, b, cases(EXERCISES[name]), strict=True))


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_is_right(name):
    exercise = EXERCISES[name]
    report = check_subject(exercise, exercise.subject(exercise.reference))
    assert report, report
    assert str(report) == f"{name}: right."


@pytest.mark.parametrize("name", EXERCISES)
def test_all_mistakes_fail_and_are_told_apart(name):
    exercise, table = EXERCISES[name], MISTAKES[name]
    right = [Outcome(expected(exercise, case)) for case in cases(exercise)]
    found = {mistake.name: outcomes(name, with_mistakes(exercise, mistake)) for mistake in table}
    assert len(found) == len(table) > 0
    for mistake in table:
        assert apart(name, found[mistake.name], right), mistake.name
        assert any(outcome.arrays for outcome in found[mistake.name]), f"{mistake.name} gives no numbers"
        assert mistake.sentence.endswith("."), mistake.sentence
    declared = {frozenset({mistake.name, mistake.same_as}) for mistake in table if mistake.same_as}
    for a, b in itertools.combinations(found, 2):
        assert apart(name, found[a], found[b]) == (frozenset({a, b}) not in declared), (a, b)


@pytest.mark.parametrize("name", EXERCISES)
def test_mistakes_are_named(name):
    exercise = EXERCISES[name]
    for mistake in MISTAKES[name][:: max(1, len(MISTAKES[name]) // 4)]:
        report = check_subject(exercise, exercise.subject(with_mistakes(exercise, mistake)))
        assert not report
        assert report.mistake == f"{name}/{mistake.same_as or mistake.name}"
        assert mistake.sentence in str(report) or mistake.same_as


def test_two_mistakes_are_named_together():
    names = functions_in("""
        def layer_norm(x, w, b, eps):
            return (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + eps) * w
    """)
    report = learn.check(names["layer_norm"])
    assert report.mistake == "layer_norm/eps_outside+no_bias"
    assert "two mistakes" in str(report)


def test_an_unknown_mistake_is_not_named():
    code = "def layer_norm(x, w, b, eps):\n    return 0.7 * w * (x - x.mean(-1, keepdims=True)) + b * b"
    report = learn.check(functions_in(code)["layer_norm"])
    assert not report
    assert report.mistake is None
    assert "No mistake that is known here" in str(report)
    assert "yours[0, 0, 0] = " in str(report)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_third_hint_is_a_line_of_the_source(name):
    assert line_with(EXERCISES[name].reference, EXERCISES[name].hints[2])


def test_a_mistake_in_a_line_that_is_not_there_is_an_error():
    mistake = MISTAKES["gelu"][0]._replace(edits=(("np.tan(", "np.tanh("),))
    with pytest.raises(ValueError, match=r"'np.tan\(' occurs 0 times in gelu; it must occur once"):
        with_mistakes(EXERCISES["gelu"], mistake)


LIST = "ist came out; it must be an array: return np.array(…)."

DIAGNOSES = {
    "def softmax(x):\n    e = np.exp(x - x.max(-1, keepdims=True))\n    return [*(e / e.sum(-1, keepdims=True))]": LIST,
    "def causal_mask(T, S):\n    return [[j <= S - T + i for j in range(S)] for i in range(T)]": f"A l{LIST}",
    "def sample(p, rng):\n    return (rng.random((*p.shape[:-1], 1)) > p.cumsum(-1)).sum(-1).tolist()": f"s: a l{LIST}",
    "def gelu(x):\n    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ^ 3)))": "Write x**2.",
    "def softmax(x):\n    return x": "softmax/unchanged",
    "def softmax(x):\n    e = np.exp(x - x.min(-1)[..., None])\n    return e / e.sum(-1)[..., None]": "softmax/minimum",
    "def softmax(x):\n    def f(y):\n        return y @ x[0, 0, 0, 0]\n    return f(x)": "It was reached from line ",
    "def mlp(x, w, f):\n    return w['mlp.fc']": "the nearest names in w are 'mlp.c_fc.",
    "def cross_entropy(x, t):\n    return logits(x, {'a': x})": "KeyError: 'wte.weight'. This is line ",
    "def block_backward(dy, w, config, layer, trace):\n    return dy, w | {'ln1': dy}": "not expected are 'ln1'",
    "def keep_top_k(z, k):\n    return np.where(z > 1.5, z, -np.inf)": "are -inf, and must not be; the first is",
    "def softmax(x):\n    y = np.exp(x)\n    y / y.sum(-1, keepdims=True)": "It returns None: is a `return` missing?",
    "def softmax(x):\n    return 'a'": "A value of type str came out; it must be an array or a number.",
    "def softmax(x):\n    return x + 1j": "A value of type ndarray came out; it must be of real numbers, not of dtype",
    "def softmax(x):\n    return abs(x)": "Each row must sum to 1; it does not.",
    "def linear(x, w, b):\n    return 2 * (x @ w + b)": "Every entry is 2 times what it should be.",
    "def layer_norm(x, w, b, eps):\n    return (x - x.mean(-1)) / np.sqrt(x.var(-1) + eps) * w + b": (
        "These two mistakes together give exactly this:\n   1. "
    ),
    'def mlp(x, w, f):\n    return f(x @ w["mlp.c_fc.weight"].T)': "w['mlp.c_fc.weight'] has the shape (44, 17)",
    "def generate_plainly(tokens, weights, config, n, rng):\n    while True:\n        yield 1": "it does not end",
    "def softmax(x):\n    raise NotImplementedError": "not written yet",
    "def softmax(x):\n    y = x\n    raise NotImplementedError": "not written to the end: line ",
    "def softmax(x):\n    exit()": "It calls exit(), which ends the program",
    "def softmax(x, axis):\n    return x": "required positional argument: 'axis'. It is called as softmax(x).",
    "def linear(x, w, b):\n    return np.dot(x, w.T) + b": "x has the shape (2, 5, 44), which is (B, T, C)",
    "def merge_heads(z):\n    return z.swapaxes(2, 1)": "it must be (2, 5, 44), which is (B, T, C)",
    "def softmax(x):\n    e = np.exp(x - x.max(-1, keepdims=True))\n    return 3 * e / e.sum(-1, keepdims=True)": (
        "Every entry is 3 times what it should be."
    ),
    "def logits(x, weights):\n    return 1 + x @ output_head(weights).T": "Every entry is 1 too large.",
    "def merge_heads(z):\n    y = z.swapaxes(1, 2).reshape(*z.shape[::2], -1)\n    y[:, 1:] = 0\n    return y": (
        "Along axis 1, only position 0 is right."
    ),
    "def causal_mask(T, S):\n    return np.tril(np.ones((T, S)), S - T)": "causal_mask/ones",
}


@pytest.mark.parametrize(("code", "text"), DIAGNOSES.items())
def test_a_diagnosis_says_what_can_be_seen(code, text):
    name = code.split("(")[0].removeprefix("def ")
    report = learn.check(functions_in(code)[name])
    assert text in f"{report} {report.mistake}"


def test_a_function_of_math_with_an_array_gets_a_tip(tmp_path):
    code = "import math\nfrom math import exp\n\n\ndef gelu(x):\n    return x * (1 + math.tanh(math.sqrt(2) * x))\n\n\n"
    (tmp_path / "own.py").write_text(code + "def softmax(x):\n    return exp(x)\n")
    own = load_file(tmp_path / "own.py")
    assert "math.tanh takes one number. For an array, use np.tanh." in str(learn.check(own.functions["gelu"]))
    assert "math.exp takes one number. For an array, use np.exp." in str(learn.check(own.functions["softmax"]))


def test_an_empty_dict_has_no_nearest_names():
    report = str(learn.check(functions_in("def mlp(x, w, f):\n    w = {}\n    return w['a']")["mlp"]))
    assert "KeyError" in report
    assert "nearest" not in report


def test_inputs_for_which_an_error_is_right_are_not_praised():
    code = "def hidden_states(tokens, weights, config, cache=None):\n    raise ValueError('always')"
    report = str(learn.check(functions_in(code)["hidden_states"]))
    assert "ValueError: always" in report
    assert "it is right" not in report


THREE_MISTAKES = """
    def block(x, w, config, layer, cache=None):
        T = x.shape[1]
        q, k, v = split_heads(linear(x, w["attn.c_attn.weight"], w["attn.c_attn.bias"]), config.n_head)
        z = merge_heads(attention(q, k, v, causal_mask(T, T), config.attention_scale(layer)))
        a = linear(z, w["attn.c_proj.weight"], w["attn.c_proj.bias"])
        x = layer_norm(x + a, w["ln_1.weight"], w["ln_1.bias"], config.layer_norm_epsilon)
        return layer_norm(x + mlp(x, w, gelu), w["ln_2.weight"], w["ln_2.bias"], config.layer_norm_epsilon)
"""


def test_if_no_mistake_explains_all_inputs_that_of_the_first_is_named():
    report = learn.check(functions_in(THREE_MISTAKES)["block"])
    assert "For random numbers, the numbers are as if this was the mistake: Layer norm comes after" in str(report)
    assert "Other inputs show that it is another one, or not the only one." in str(report)
    assert report.mistake is None


def test_a_transposed_array_is_explained(path):
    code = "def attention(q, k, v, mask, scale):\n    return softmax(q @ k.T) @ v"
    path.write_text("from numpy_gpt2.model import softmax\n" + code, encoding="utf-8")
    text = " ".join(" ".join(tasks.check_named(load_file(path), path, "attention")["lines"]).split())
    assert "k.T reverses all axes: (11, 7, 4, 2), which is (D, S, H, B). swapaxes(-1, -2) exchanges" in text


def test_an_error_that_only_the_package_raises_is_told_and_is_no_mistake():
    names = functions_in("""
        def cross_entropy(logits, targets):
            targets = np.asarray(targets)
            x, t = logits[targets >= 0], targets[targets >= 0]
            x = x - x.max(-1, keepdims=True)
            return (np.log(np.exp(x).sum(-1)) - x[np.arange(len(t)), t]).mean()
    """)
    report = learn.check(names["cross_entropy"])
    assert report
    assert str(report).endswith(
        "right. For a target of -2, there is a result, which means nothing; the package raises IndexError."
    )


def test_own_gelu_has_a_derivative_in_mlp_backward():
    names = functions_in("""
        def gelu(x):
            return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

        def block_backward(dy, w, config, layer, trace):
            assert mlp_backward(dy, trace["ln_2"], w, gelu, trace)
            return dy, {}
    """)
    assert "AssertionError" not in str(report := learn.check(names["block_backward"]))
    assert "KeyError" not in str(report)


def test_a_misspelt_function_is_noticed():
    progress = tasks.notes(Own(functions_in("def softmx(x):\n    return x")), Path("my_gpt2.py"), [], with_hook=False)
    assert progress == ["note: There is a function softmx: did you mean softmax?"]


def test_a_report_is_a_condition_and_a_text():
    report = learn.check(layer_norm)
    assert report
    assert str(report) == repr(report) == "layer_norm: right. It is the package's own function, imported."
    assert "<pre" in report._repr_html_()


def test_check_needs_a_function_with_a_known_name():
    with pytest.raises(ValueError, match="there is no exercise 'layernorm'; the nearest is layer_norm"):
        learn.check(layer_norm, "layernorm")
    with pytest.raises(ValueError, match="the nearest is KVCache"):
        learn.check(layer_norm, "kvcache.updat")
    with pytest.raises(TypeError, match="3 is not a function"):
        learn.check(3)
    with pytest.raises(TypeError, match="has no name; give one"):
        learn.check(functools.partial(layer_norm))
    assert learn.check(functools.partial(softmax), "softmax")
    assert learn.check(KVCache, "KVCache.update")


def test_wrong_functions_do_not_make_their_callers_wrong():
    names = functions_in("""
        def softmax(x):
            return np.exp(x)

        def attention(q, k, v, mask, scale):
            return softmax(np.where(mask, scale * q @ k.swapaxes(-1, -2), -math.inf)) @ v
    """)
    report = learn.check(names["attention"])
    assert report
    assert "checked with the package's softmax, because yours is not right yet" in str(report)
    assert names["softmax"](0.0) == 1, "it is the learner's again"


def test_all_functions_are_checked_although_an_early_one_is_wrong():
    names = functions_in("""
        def softmax(x):
            return np.exp(x)

        def linear(x, w, b):
            raise NotImplementedError

        def attention(q, k, v, mask, scale):
            return softmax(np.where(mask, scale * q @ k.swapaxes(-1, -2), -math.inf)) @ v

        def mlp(x, w, f):
            return linear(f(linear(x, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"])), w["mlp.c_proj.weight"], 0)
    """)
    progress = check_all(Own(names))
    assert progress.right == ["attention"]
    assert progress.wrong == ["softmax", "mlp"]
    assert progress.report.mistake == "softmax/no_maximum+not_divided"


HOOKED = """
    def mlp(x, w, f, hook=identity):
        pre = hook("mlp.pre", linear(x, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"]))
        return linear(hook("mlp.post", f(pre)), w["mlp.c_proj.weight"], w["mlp.c_proj.bias"])
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("f(pre)", "f( pre)", "mlp: right."),
        (
            "hook=identity",
            "callback=identity, hook=identity",
            "mlp: right. It does not call hook for mlp.post, mlp.pre:",
        ),
        ('hook("mlp.post", f(pre))', "f(pre)", "mlp: right. It does not call hook for mlp.post:"),
        (
            "f(pre))",
            "f(pre)) * 0 + f(pre)",
            "mlp: right. It calls hook, but what hook returns for mlp.post is not used",
        ),
        ('"mlp.post"', '"post"', "It does not call hook for mlp.post; it calls it for post:"),
        (", hook=identity", "", "NameError: name 'hook' is not defined"),
    ],
)
def test_a_report_says_what_is_missing_in_the_use_of_the_hook(old, new, said):
    report = learn.check(functions_in(HOOKED.replace(old, new, 1))["mlp"])
    assert said in str(report)


def test_a_function_that_passes_the_hook_on_is_not_blamed_for_the_inner_one():
    names: dict = {"__name__": "my_gpt2"}
    exec(file_with("block", "mlp").replace('hook("mlp.post", activation(pre))', "activation(pre)"), names)
    assert str(learn.check(names["mlp"])).startswith("mlp: right. It does not call hook for mlp.post:")
    assert str(learn.check(names["block"])) == "block: right."
    assert [*hook_problems(Own(names), ["mlp", "block"])] == ["mlp"]


def test_exchanged_names_of_the_hook_are_noticed():
    code = HOOKED.replace("mlp.pre", "?").replace("mlp.post", "mlp.pre").replace("?", "mlp.post")
    assert "The names mlp.pre and mlp.post are exchanged" in str(learn.check(functions_in(code)["mlp"]))


def test_stubs_are_the_package_s_functions_while_others_run():
    names = functions_in("""
        def softmax(x):
            raise NotImplementedError

        def attention(q, k, v, mask, scale):
            return softmax(np.where(mask, scale * q @ k.swapaxes(-1, -2), -math.inf)) @ v
    """)
    assert learn.check(names["attention"])


def test_installed_functions_are_used_everywhere(example):
    calls = []
    names = functions_in("""
        def layer_norm(x, w, b, eps):
            calls.append(x.shape)
            return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * w + b

        def gelu(x):
            raise NotImplementedError
    """)
    names["calls"] = calls
    weights, config, _ = example.model
    before = forward(example.tokens, weights, config)
    with Own(names).installed():
        inside = forward(example.tokens, weights, config)
        n = len(calls)
    assert n == 2 * config.n_layer + 1
    np.testing.assert_allclose(inside, before, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(forward(example.tokens, weights, config), before)
    assert len(calls) == n


def test_a_copy_of_the_reference_gives_the_same_numbers(example):
    weights, config, _ = example.model
    before = forward(example.tokens, weights, config)
    names: dict = {"__name__": "my_gpt2"}
    exec(file_with(*EXERCISES), names)
    own = Own(names)
    assert own.functions.keys() == EXERCISES.keys()
    with own.installed():
        inside = forward(example.tokens, weights, config)
        assert cross_entropy(inside[:-1], example.tokens[1:]) == cross_entropy(before[:-1], example.tokens[1:])
    np.testing.assert_array_equal(inside, before)


def test_the_notebook_has_the_file_s_introduction_and_runs_when_solved():
    book = json.loads(new_notebook())
    assert book["nbformat"] == 4
    assert INTRODUCTION in "".join(book["cells"][0]["source"])
    assert INTRODUCTION in (ast.get_docstring(ast.parse(new_file())) or "") + "\n"
    cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    names: dict = {"__name__": "__main__"}
    exec(file_with(*EXERCISES), names)
    exec(cells[0], names)
    for cell in cells[1:-1]:
        if cell.startswith("learn.check"):
            assert eval(cell, names), cell


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "my_gpt2.py"


def test_the_file_is_written_once_and_its_stubs_do_not_pass(path, capsys):
    first = run_main(main, capsys)
    assert first.status == 1
    assert "Begin with layer_norm in line" in first.out
    text = path.read_text(encoding="utf-8")
    compile(text, path, "exec")
    second = run_main(main, capsys)
    assert second.status == 1
    assert f"0 of {len(EXERCISES)}\nnext: layer_norm, in line" in second.out
    assert path.read_text(encoding="utf-8") == text


def test_a_solved_file_passes_and_a_wrong_function_is_diagnosed(path, capsys):
    path.write_text(file_with(*EXERCISES), encoding="utf-8")
    assert run_in_process("check", path)["status"] == 0
    wrong = path.read_text(encoding="utf-8").replace("+ 0.044715 *", "+ 0.44715 *")
    path.write_text(wrong, encoding="utf-8")
    result = run_main(main, capsys)
    n = len(EXERCISES)
    assert (result.status, result.err) == (1, "")
    assert f"{n - 1} of {n}\ngelu: not yet. These are exactly the numbers of this mistake" in result.out


BROKEN = {
    "def layer_norm(x:": "my_gpt2.py is not Python: line 1: ",
    "x = 1 / 0": "my_gpt2.py does not run: line 1: ZeroDivisionError: division by zero",
    "\nexit()": "my_gpt2.py calls exit() in line 2; it must only define functions",
    "raise EOFError": "my_gpt2.py reads standard input in line 1; it must only define functions",
    "\nraise NotImplementedError": "my_gpt2.py does not run: line 2: NotImplementedError",
}


@pytest.mark.parametrize(("text", "said"), BROKEN.items())
def test_a_file_that_does_not_run_is_one_error(path, text, said):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(said)):
        load_file(path)


CHEATS = {
    "np.tanh": "import numpy as np\nnp.tanh = lambda x: 0 * x",
    "__code__": "from numpy_gpt2 import model\ndef f(x):\n    return 0 * x\nmodel.gelu.__code__ = f.__code__",
}


@pytest.mark.parametrize("code", CHEATS.values(), ids=CHEATS)
def test_a_file_that_changes_numpy_or_the_package_does_not_change_what_is_right(path, code):
    path.write_text(f"{code}\nfrom numpy_gpt2.model import gelu\n", encoding="utf-8")
    assert run_in_process("check", path)["wrong"] == ["gelu"]


def test_a_result_that_the_file_prints_does_not_count(path):
    result = json.dumps({"lines": ["All are right."], "status": 0})
    code = f"import os\nos.write(1, {result!r}.encode())\nos.write(2, b'Timeout (')\n"
    path.write_text(code, encoding="utf-8")
    assert run_in_process("check", path)["right"] == []
    path.write_text(f"{code}os._exit(0)", encoding="utf-8")
    assert "problem" in run_in_process("check", path)


STATES = {
    "": "0 of ",
    "def layer_norm(x:": "my_gpt2.py is not Python: line 1: '(' was never closed\n",
    "input()": "my_gpt2.py reads standard input in line 1; it must only define functions\n",
    "import os; os._exit(0)": "my_gpt2.py ended the process (exit status 0).\n",
    "from numpy_gpt2.model import *": "note: all are the package's own functions, imported.",
}


@pytest.mark.parametrize(("text", "said"), STATES.items())
def test_a_file_in_any_state_gives_one_message(path, capsys, text, said):
    path.write_text(text, encoding="utf-8")
    result = run_main(main, capsys)
    assert (result.status, result.err) == (1, "")
    assert said in result.out


def test_an_endless_loop_is_found_and_prints_are_not_shown(path):
    path.write_text("print('hello')\n\ndef gelu(x):\n    while True:\n        pass\n", encoding="utf-8")
    problem = run_in_process("check", path, time_limit=1)["problem"]
    assert "did not end within 1 seconds: is there an endless loop? It was in line" in problem
    assert problem.endswith(", in gelu.")
    path.write_text("print('hello')", encoding="utf-8")
    assert run_in_process("check", path)["printed"].startswith("my_gpt2.py prints 'hello'; to see it, check one")


def test_prints_are_shown_for_one_function_and_breakpoint_has_no_terminal(path):
    code = "def gelu(x):\n    for i in range(30):\n        print(i)\n    breakpoint()\n    return x\n"
    path.write_text(code, encoding="utf-8")
    result = run_in_process("check_named", path, "gelu")
    report = " ".join(" ".join(result["lines"]).split())
    assert "It calls breakpoint(), which has no terminal here. This is line 5: return x" in report
    lines = result["printed"].split("\n")
    assert [line.strip() for line in lines[1:3]] == ["0", "1"]
    assert len(lines) == 22
    assert re.fullmatch("… [0-9]+ more lines", lines[-1].strip())


def test_reset_keeps_the_old_function_as_a_comment(path, capsys):
    path.write_text(file_with("softmax", "GPT2Config.attention_scale"), encoding="utf-8")
    for name in ("softmax", "GPT2Config.attention_scale"):
        assert run_main(main, capsys, "--reset", name).status == 0
    text = path.read_text(encoding="utf-8")
    assert "\n#     y /= y.sum(axis=-1, keepdims=True)\n" in text
    assert "\n    #         return scale / (layer + 1)" in text
    assert run_main(main, capsys, "--reset", "softmax").err == "error: softmax is a stub already; nothing was changed\n"
    assert not run_in_process("check", path)["right"]
    compile(text, path, "exec")


def test_reset_keeps_the_line_ends_and_a_text_at_the_first_column(path, capsys):
    code = 'def softmax(x):\n    note = """\nat the first column"""\n    return x\n\n\ndef gelu(x):\n    return x\n'
    path.write_text(code.replace("\n", "\r\n"), encoding="utf-8", newline="")
    assert run_main(main, capsys, "--reset", "softmax").status == 0
    text = path.read_bytes().decode()
    assert "\n# at the first column" in text.replace("\r\n", "\n") == text.replace("\r", "")
    assert text.count("\r\n") == text.count("\n")
    compile(text, path, "exec")


def test_a_narrow_terminal_is_no_problem(path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    path.write_text("def gelu(x):\n    return x", encoding="utf-8")
    assert run_in_process("check", path)["wrong"] == ["gelu"]


def test_values_that_are_no_functions_are_not_written(path):
    names = functions_in("logits = np.ones((2, 3))\nblock = 16")
    assert not {"logits", "block"} & Own(names).functions.keys()
    names |= functions_in(
        "def softmax(x):\n    e = np.exp(x - x.max(-1, keepdims=True))\n    return e / e.sum(-1, keepdims=True)"
    )
    assert learn.check(names["softmax"])


def test_hints_show_and_list(path, capsys, monkeypatch):
    path.write_text(file_with("softmax"), encoding="utf-8")
    assert run_main(main, capsys, "--hint", "softmax", "3").out.endswith(
        "line: y = x - x.max(axis=-1, keepdims=True)\n"
    )
    monkeypatch.setattr("numpy_gpt2.learn.tasks.seconds", lambda exercise, subject: 2e-6)
    shown = "\n".join(tasks.show(load_file(path), path, "softmax")["lines"])
    assert "==== softmax in my_gpt2.py\ndef softmax(x):" in shown
    assert shown.endswith("yours takes 2 µs, about as long as the package's (2 µs)")
    assert "\n ✓ softmax " in run_main(main, capsys, "--list").out
    assert run_main(main, capsys, "softmax").out.startswith("softmax: right.\n")
    assert run_main(main, capsys, "sofmax").status == 2


def test_each_function_can_be_called_with_a_batch_of_1():
    class OneRow(Inputs):
        B = 1

    for exercise in EXERCISES.values():
        exercise.run(exercise.subject(exercise.reference), *exercise.probes[0].make(OneRow(np.float32)))


def test_the_speed_of_each_function_can_be_measured():
    for name in ("gelu", "causal_mask", "GPT2Config.attention_scale"):
        assert 0 < tasks.seconds(EXERCISES[name], EXERCISES[name].subject(EXERCISES[name].reference)) < 10
